"""What can go wrong in an update, by what follows from it."""


class UpdateError(Exception):
    """An update, an enrolment or the store failed; the message says what and what to do."""


class RefusedError(UpdateError):
    """The update is not taken; the current student keeps running.

    `final` says that the student itself is at fault, so the board does not try this digest again by itself.
    """

    def __init__(self, reason: str, *, final: bool = True) -> None:
        """Keep the reason as it is reported."""
        super().__init__(reason)
        self.final = final


class TransientError(UpdateError):
    """The network failed in a way that trying again may cure.

    `retry_after_s` is how long the server asks to be left alone; None = it does not say.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        """Keep the reason, and the server's wish."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TooSlowError(TransientError):
    """The server sent next to nothing for too long. What came does not count as progress: a trickle is an attack."""


class StoppedError(UpdateError):
    """The daemon is stopping; the update goes on at the next start."""


class StoreError(UpdateError):
    """The model store cannot be read or written."""
