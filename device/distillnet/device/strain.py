"""Whether inference keeps up with the streams. Announced when it does not: the queues then drop the oldest frames."""

from collections.abc import Mapping
from dataclasses import dataclass

_WINDOW_S = 5.0
_DROPPED_SHARE = 0.05
_CALM_WINDOWS = 2


@dataclass
class _Counts:
    frames: int = 0
    dropped: int = 0


class Strain:
    """Compares frames with dropped frames over windows of five seconds."""

    def __init__(self, now: float) -> None:
        """Begin the first window at `now`, seconds on any steady clock."""
        self._since = now
        self._before: dict[str, _Counts] = {}
        self._calm: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def due(self, now: float) -> bool:
        """Whether a window is over, and `look` has anything to say."""
        return now - self._since >= _WINDOW_S

    def look(self, now: float, counts: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """Return why each source is too fast; empty text = it is not.

        Args:
            now: seconds on the steady clock.
            counts: by source, frames taken and frames dropped since the start.

        """
        if not self.due(now):
            return self._reasons
        seconds = now - self._since
        self._since = now
        for source, (frames, dropped) in counts.items():
            before = self._before.get(source, _Counts())
            self._before[source] = _Counts(frames, dropped)
            came, lost = frames - before.frames, dropped - before.dropped
            if came and lost / came > _DROPPED_SHARE:
                self._calm[source] = 0
                rate, kept = came / seconds, (came - lost) / seconds
                self._reasons[source] = f"source {source}: {rate:.0f} frames/s come, inference keeps up with {kept:.0f}"
            else:
                self._calm[source] = self._calm.get(source, 0) + 1
                if self._calm[source] >= _CALM_WINDOWS:
                    self._reasons[source] = ""
        return self._reasons
