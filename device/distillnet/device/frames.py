"""One frame on its way through the pipeline, and the bounded intake that the sources fill and inference empties."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distillnet.device.bell import Bell
from distillnet.engine.log_mel import Samples
from distillnet.engine.preprocess import Frame as Pixels


@dataclass(slots=True)  # not frozen: that would take four times as long to make, thirty times a second
class Frame:
    """One picture and when it was; nobody changes it."""

    source: str
    index: int
    pixels: Pixels
    """uint8 (H, W, 3), BGR, 0–255, or a decoder's planes; never changed after capture."""
    ts: float
    """Unix seconds: what events report."""
    t: float
    """Seconds on a clock that never jumps (the stream's own for files): what durations are measured with."""
    captured: float
    """`time.monotonic()` when it was read, or taken where a live source says when that was."""
    capture_ms: float
    """How long reading and decoding took, without waiting for the next frame's time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of sound and when it was."""

    source: str
    index: int
    samples: Samples
    """float32 (n,), mono, full scale ±1; never changed after capture."""
    rate_hz: int
    ts: float
    """Unix seconds of the first sample."""
    t: float
    """As `Frame.t`, of the first sample."""
    captured: float
    """`time.monotonic()` when it was read."""
    capture_ms: float
    """How long reading and decoding took."""
    lost: int = 0
    """Samples lost just before it."""


Sense = Literal["sight", "hearing"]
"""Which inference thread a source's frames are for, where there are two."""


class Intake:
    """One bounded queue per source; full means the oldest frame goes, and is counted."""

    def __init__(self, on_drop: Callable[[int], None] = lambda frames: None) -> None:
        """`on_drop` is told of frames that were let go."""
        self._lock = threading.Lock()
        self._waiting: dict[Sense, int] = {"sight": 0, "hearing": 0}
        self._room = threading.Condition(self._lock)
        self._queues: dict[str, deque[Frame | Chunk]] = {}
        self._limits: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._turn: deque[str] = deque()
        self._on_drop = on_drop
        self._senses: dict[str, Sense] = {}
        self._open: set[Sense] = set()
        self._bells: dict[Sense, Bell] = {"sight": Bell(), "hearing": Bell()}
        """Rung when there may be something to get."""

    def add(self, source: str, limit: int, sense: Sense = "sight") -> None:
        """Make room for a source's frames."""
        with self._lock:
            self._senses[source] = sense
            self._limits[source] = limit
            self._dropped.setdefault(source, 0)
            if source not in self._queues:
                self._queues[source] = deque()
                self._turn.append(source)

    def remove(self, source: str) -> None:
        """Forget a source and its waiting frames."""
        with self._lock:
            gone = self._queues.pop(source, None)
            if gone is not None:
                self._waiting[self._senses[source]] -= len(gone)
                self._turn.remove(source)
                self._room.notify_all()

    def open(self, sense: Sense = "sight") -> None:
        """Let frames in; before, they pass by uncounted, because no student is there to see them."""
        with self._lock:
            self._open.add(sense)
            self._room.notify_all()

    def idle(self, source: str, sense: Sense = "sight") -> bool:
        """Whether a frame of this source would be let in, and be the next one for its sense."""
        return not self._waiting[sense] and sense in self._open and source in self._queues

    def put(self, frame: Frame | Chunk) -> bool:
        """Add a frame, dropping the source's oldest one where it is full; False while nobody looks."""
        with self._lock:
            waiting = self._queues.get(frame.source)
            sense = self._senses.get(frame.source, "sight")
            if waiting is None or sense not in self._open:
                return False
            dropping = len(waiting) >= self._limits[frame.source]
            if dropping:
                waiting.popleft()
                self._dropped[frame.source] += 1
            else:
                self._waiting[sense] += 1
            waiting.append(frame)
        self.wake(sense)
        if dropping:
            self._on_drop(1)
        return True

    def put_waiting(self, frame: Frame | Chunk, stopping: Callable[[], bool]) -> bool:
        """Add a frame when there is room for it, waiting as long as that takes; False when stopping came first."""
        with self._lock:
            while not stopping() and frame.source in self._queues:
                waiting, sense = self._queues[frame.source], self._senses[frame.source]
                if sense in self._open and len(waiting) < self._limits[frame.source]:
                    waiting.append(frame)
                    self._waiting[sense] += 1
                    self.wake(sense)
                    return True
                self._room.wait(0.1)
            return False

    def get(self, timeout_s: float, sense: Sense = "sight") -> Frame | Chunk | None:
        """Return the next frame for a sense; None after `timeout_s`, `wake`, or a false alarm."""
        frame = self.next(sense)
        if frame is None and self.wait(timeout_s, sense):
            frame = self.next(sense)
        return frame

    def next(self, sense: Sense = "sight") -> Frame | Chunk | None:
        """Return the next frame for a sense, sources taking turns; None when none waits."""
        if not self._waiting[sense]:
            return None
        with self._lock:
            for _ in range(len(self._turn)):
                source = self._turn[0]
                self._turn.rotate(-1)
                waiting = self._queues[source]
                if waiting and self._senses[source] == sense:
                    if len(waiting) == self._limits[source]:
                        self._room.notify_all()
                    self._waiting[sense] -= 1
                    return waiting.popleft()
        return None

    def wait(self, timeout_s: float, sense: Sense = "sight") -> bool:
        """Wait for `wake`; False when it did not come within `timeout_s`."""
        return self._bells[sense].wait(timeout_s)

    def wake(self, sense: Sense = "sight") -> None:
        """Have `get` and `wait` return at once."""
        self._bells[sense].ring()

    def count_lost(self, source: str) -> None:
        """Count a loss before the intake: the sound card's, or its ring's."""
        with self._lock:
            self._dropped[source] = self._dropped.get(source, 0) + 1

    def depth(self, source: str) -> int:
        """Return how many frames of a source wait."""
        with self._lock:
            return len(self._queues.get(source, ()))

    def dropped(self, source: str) -> int:
        """Return how many frames of a source were let go since the start."""
        with self._lock:
            return self._dropped.get(source, 0)

    def total_dropped(self) -> int:
        """Return how many frames were let go since the start, all sources together."""
        with self._lock:
            return sum(self._dropped.values())
