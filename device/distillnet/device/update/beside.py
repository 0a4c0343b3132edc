"""A second student on what the live one has just seen or heard, and how far the two are apart."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distillnet.device.frames import Chunk
from distillnet.device.slot import ModelSlot, Row, Scores
from distillnet.device.sound.ears import Ears, Heard
from distillnet.engine import ModelError, Zone
from distillnet.engine.preprocess import Frame
from distillnet.engine.student import Student
from distillnet.proto.card import AudioInput

log = logging.getLogger(__name__)

_CHUNKS = 64
"""Chunks of sound that may wait; where one is let go the window begins anew, so more of them than pictures."""
_REMEMBERED = 64


@dataclass
class Comparison:
    """What two students said about the same pictures or the same sound."""

    frames: int = 0
    """Frames, or decisions on sound, that both have scored."""
    disagreement: float = 0.0
    """Mean of the largest difference of a score both have, 0–1; 0 where they share none."""
    errors: int = 0
    latency_ms: list[float] = field(default_factory=list)
    """Of the student beside, measured as the live one's is; the latest 4096."""


class Beside:
    """Runs a student in its own thread on what the live one has just scored; what it has no time for is skipped.

    A student that hears is given every chunk, for its window spans many: it runs as often as its stride says. Its
    decisions are compared with the live student's latest one at that moment; with a closed gate there is none.
    """

    def __init__(self, slot: ModelSlot, student: Student, *, rate_hz: float | None = None) -> None:
        """Compare `student` with whatever `slot` runs; one that sees at most `rate_hz` times a second."""
        self._slot, self._student = slot, student
        live = slot.current()
        self._pairs = _shared(live, student)
        self._fresh_s = 2 * _stride_s(live)
        self._gap_s = 1.0 / rate_hz if rate_hz else 0.0
        self._next = 0.0
        self._ears = Ears()
        self._said: dict[str, deque[Heard]] = {}
        hears = isinstance(student.card.input, AudioInput)
        self._inbox: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=_CHUNKS if hears else 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="update-beside", daemon=True)
        self._lock = threading.Lock()
        self._result = Comparison()
        self._total = 0.0

    def __enter__(self) -> "Beside":
        """Start comparing."""
        self._thread.start()
        self._slot.set_shadow(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop comparing; returns when the thread has ended."""
        self._slot.set_shadow(None)
        self._stop.set()
        self._thread.join()

    def result(self) -> Comparison:
        """Return what was seen so far."""
        with self._lock:
            mean = self._total / self._result.frames if self._result.frames else 0.0
            return Comparison(self._result.frames, mean, self._result.errors, list(self._result.latency_ms))

    # Called by the inference thread: see `Shadow`

    def saw(self, pixels: Frame, zone: Zone | None, scores: Row) -> None:
        """Take a zone of a frame that was scored, unless one waits already or it is too soon."""
        now = time.monotonic()
        if now < self._next or self._inbox.full():
            return
        self._next = now + self._gap_s
        live = np.array(scores, np.float32)
        self._inbox.put_nowait(lambda: self._look(pixels, zone, live))

    def heard(self, chunk: Chunk, decisions: Sequence[Heard], gated: bool) -> None:
        """Take a chunk of sound and what was decided on it."""
        if not self._inbox.full():
            self._inbox.put_nowait(lambda: self._listen(chunk, decisions, gated))

    # In the thread of its own

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                compare = self._inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            try:
                compare()
            except (ModelError, ValueError) as exc:
                with self._lock:
                    self._result.errors += 1
                log.warning("the student beside failed: %s", exc)

    def _look(self, pixels: Frame, zone: Zone | None, live: Scores) -> None:
        started = time.perf_counter()
        mine = self._student.scores(pixels, zone)
        self._add([(live, mine)], (time.perf_counter() - started) * 1e3)

    def _listen(self, chunk: Chunk, decisions: Sequence[Heard], gated: bool) -> None:
        said = self._said.setdefault(chunk.source, deque(maxlen=_REMEMBERED))
        said.extend(decisions)
        started = time.perf_counter()
        mine = [heard for heard in self._ears.hear(self._student, chunk, gated=gated) if heard.inferred]
        took_ms = (time.perf_counter() - started) * 1e3
        pairs = [(live.scores, heard.scores) for heard in mine if (live := self._at(said, heard.t)) and live.inferred]
        if pairs:
            self._add(pairs, took_ms)

    def _at(self, said: Sequence[Heard], t: float) -> Heard | None:
        """Return the live student's latest decision at `t`; None where there was a gap."""
        past = [heard for heard in said if t - self._fresh_s < heard.t <= t]
        return past[-1] if past else None

    def _add(self, pairs: list[tuple[Scores, Scores]], took_ms: float) -> None:
        distances = [self._distance(live, mine) for live, mine in pairs]
        with self._lock:
            self._result.frames += len(pairs)
            self._total += sum(distances)
            self._result.latency_ms = [*self._result.latency_ms[-4095:], took_ms]

    def _distance(self, live: NDArray[np.float32], mine: NDArray[np.float32]) -> float:
        if not self._pairs or len(live) <= max(pair[0] for pair in self._pairs):
            return 0.0
        theirs, ours = (list(indices) for indices in zip(*self._pairs, strict=True))
        return float(np.abs(live[theirs].astype(np.float64) - mine[ours]).max())


def _stride_s(student: Student | None) -> float:
    """Seconds between two decisions of a student that hears."""
    if student is None or not isinstance(student.card.input, AudioInput):
        return 0.0
    spec = student.card.input
    return spec.stride_frames * spec.hop_samples / spec.sample_rate_hz


def _shared(live: Student | None, other: Student) -> list[tuple[int, int]]:
    """Output indices of the events both have; with `other` only where the event sets are equal."""
    if live is None:
        return []
    mine = {name: index for index, name in enumerate(other.card.labels)}
    theirs = {name: index for index, name in enumerate(live.card.labels)}
    names = set(mine) & set(theirs)
    if set(mine) != set(theirs):
        names.discard("other")
    return [(theirs[name], mine[name]) for name in sorted(names)]
