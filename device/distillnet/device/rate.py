"""`rate_hz`: which pictures of a stream are looked at. The same rule for the daemon and for `replay`."""


class Rate:
    """Lets at most so many pictures a second through, evenly. One thread."""

    def __init__(self, rate_hz: float | None) -> None:
        """None lets every picture through."""
        self._step_s = None if rate_hz is None else 1.0 / rate_hz
        self._next_s = float("-inf")

    def wants(self, position_s: float) -> bool:
        """Whether to look at the picture at this position, seconds on a clock that does not go back."""
        if self._step_s is None:
            return True
        if position_s < self._next_s - 1e-6:
            return False
        first = self._next_s == float("-inf")
        self._next_s = (
            position_s + self._step_s if first else max(self._next_s, position_s - self._step_s / 2) + self._step_s
        )
        return True
