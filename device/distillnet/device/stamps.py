"""When a live picture was taken, on this machine's steady clock, from the stamps a source gives its pictures.

A stream's stamps count from anywhere, and the network delays pictures unevenly. What arrived with the least delay of
late tells how the two clocks stand to each other; everything else is dated by its stamp, not by when it arrived. A
V4L2 camera's stamps are of this very clock. Without usable stamps a picture was taken when it arrived.
"""

_WINDOW_S = 30.0
"""The least delay is that of the last one to two windows: clocks drift."""
_JUMP_S = 1.0
"""A stamp so far from where it is expected begins a new count: the stream was started anew."""


class SourceClock:
    """Dates the pictures of one connection. One thread."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._stamp_s = 0.0
        self._taken_s = float("-inf")
        self._least_s = self._least_before_s = float("inf")
        self._since_s = float("-inf")

    def taken(self, stamp_s: float, arrived_s: float) -> float:
        """Date one picture.

        Args:
            stamp_s: the source's, seconds; not above the one before = it gives none.
            arrived_s: `time.monotonic()` when it had been read.

        Returns:
            `time.monotonic()` when it was taken: not after it arrived, and not before the picture before.

        """
        usable, self._stamp_s = stamp_s > self._stamp_s, stamp_s
        taken_s = self._by_stamp(stamp_s, arrived_s) if usable else arrived_s
        self._taken_s = min(arrived_s, max(taken_s, self._taken_s))
        return self._taken_s

    def _by_stamp(self, stamp_s: float, arrived_s: float) -> float:
        offset_s = arrived_s - stamp_s
        if abs(offset_s) < _JUMP_S:
            return stamp_s  # of this very clock
        if abs(offset_s - min(self._least_s, self._least_before_s)) > _JUMP_S:
            self._least_s = self._least_before_s = offset_s
            self._since_s = arrived_s
        elif arrived_s - self._since_s > _WINDOW_S:
            self._least_before_s, self._least_s = self._least_s, offset_s
            self._since_s = arrived_s
        self._least_s = min(self._least_s, offset_s)
        return stamp_s + min(self._least_s, self._least_before_s)
