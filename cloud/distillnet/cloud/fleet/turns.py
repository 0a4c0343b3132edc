"""So many downloads at once and no more: whoever comes then is told when to come back, each a little later."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from distillnet.cloud.fleet.errors import Code, RefusedError

_TURN_S: Final = 4.0
"""What a download is taken to last, and so how soon to come back: a student of 1 MB at 2 Mbit/s."""
_MOST_S: Final = 600.0


class Turns:
    """Counts downloads under way. For one event loop."""

    def __init__(self, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = self._at_once = at_once
        self._clock = clock
        self._promised_until = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold a turn.

        Raises:
            RefusedError: there is none; its `retry_after_s` spreads those who are refused over the turns to come.

        """
        if not self._free:
            now = self._clock()
            self._promised_until = max(self._promised_until, now + _TURN_S) + _TURN_S / self._at_once
            wait_s = min(self._promised_until - now, _MOST_S)
            raise RefusedError(
                Code.RESOURCE_EXHAUSTED, f"{self._at_once} downloads are under way", retry_after_s=wait_s
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
