"""The place of the running student: who runs now, how another takes its place, and how each behaved.

Inference asks `take` before every frame; `swap` hands it another student and returns once inference has
really switched. So a switch falls between two frames, drops none, and two students never run at once on one model.
The update service swaps, shadows and judges through this; it knows nothing else of the pipeline.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distillnet.device.frames import Chunk
from distillnet.device.sound.ears import Heard
from distillnet.engine import Zone
from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.student import Student

log = logging.getLogger(__name__)

Scores = NDArray[np.float32]
Row = Sequence[float] | Scores
"""K+1 scores."""
SwapObserver = Callable[[Student | None, Student], None]
"""Called by the inference thread with the old and the new student, between two frames, before `swap` returns."""

_SAMPLES = 4096
_UNSUMMED = 256


class Shadow(Protocol):
    """Who is shown what the current student sees and hears, by the inference thread: must return quickly.

    Pixels and samples are never changed after capture, so references may be kept.
    """

    def saw(self, pixels: Pixels, zone: Zone | None, scores: Row) -> None:
        """Take a frame, its zone's box and the current scores, after each inference."""

    def heard(self, chunk: Chunk, decisions: Sequence[Heard], gated: bool) -> None:
        """Take every chunk of sound, and what was decided on it; `gated` = not inferred while nothing sounds."""


class SwapError(Exception):
    """The inference thread did not switch in time; the old student still runs."""


@dataclass(frozen=True)
class Behaviour:
    """What one student did on the live stream since it was switched in, or since `ModelSlot.restart_window`."""

    digest: str
    duration_s: float
    frames: int
    """Frames inferred, all zones of one frame counting once."""
    dropped: int
    """Frames the bounded queues let go in the same time."""
    errors: int
    """Inferences that raised."""
    events: int
    """Events announced (`new`)."""
    infer_ms: NDArray[np.float64] = field(repr=False)
    """(n ≤ 4096,) inference time of the latest frames, preprocessing included."""
    mean_scores: dict[str, float] = field(default_factory=dict)
    """Mean score per output name (events and `other`), over all inferences."""
    last_inference: float | None = None
    """`time.monotonic()` of the latest one; None = there was none."""
    silent_s: float = 0.0
    """How long ago the inference thread last asked for work; less than a second unless an inference hangs."""

    @property
    def events_per_s(self) -> float:
        """Events announced per second of the window."""
        return self.events / self.duration_s if self.duration_s > 0 else 0.0

    def latency_ms(self, quantile: float) -> float | None:
        """Quantile (0–1) of the inference time; None without samples."""
        return float(np.quantile(self.infer_ms, quantile)) if len(self.infer_ms) else None


class _Window:
    """Counters of one student; guarded by the slot's lock, but for `looks`, to which anybody may append."""

    def __init__(self, student: Student | None, now: float) -> None:
        self.student = student
        self.started = now
        self.looks: deque[tuple[float, float, Sequence[Row]]] = deque()
        """When, how long it took and what was seen; not yet in what follows: many at once cost little more than one."""
        self.frames = self.dropped = self.errors = self.events = self.inferences = 0
        self.infer_ms: deque[float] = deque(maxlen=_SAMPLES)
        self.score_sums: NDArray[np.float64] | None = None
        self.last_inference: float | None = None

    def sum_up(self) -> None:
        """Count the looks that wait."""
        rows: list[Row] = []
        while self.looks:
            self.last_inference, ms, scores = self.looks.popleft()
            self.frames += 1
            self.infer_ms.append(ms)
            rows += scores
        if rows:
            sums = np.asarray(rows, np.float64).sum(axis=0)
            self.score_sums = sums if self.score_sums is None else self.score_sums + sums
            self.inferences += len(rows)

    def snapshot(self, now: float, asked: float | None = None) -> Behaviour:
        labels = self.student.card.labels if self.student else []
        self.sum_up()
        sums = self.score_sums
        return Behaviour(
            digest=self.student.digest if self.student else "",
            duration_s=now - self.started,
            frames=self.frames,
            dropped=self.dropped,
            errors=self.errors,
            events=self.events,
            infer_ms=np.array(self.infer_ms, dtype=np.float64),
            mean_scores={} if sums is None else dict(zip(labels, (sums / self.inferences).tolist(), strict=True)),
            last_inference=self.last_inference,
            silent_s=0.0 if asked is None else now - asked,
        )


class ModelSlot:
    """Holds the current student. Thread-safe; students run on one thread at a time, the one that called `take` last."""

    def __init__(self, student: Student | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with `student`, or with none on a board that waits for its first."""
        self._clock = clock
        self._mutex = threading.Lock()
        self._lock = threading.Condition(self._mutex)
        self._current = student
        self._pending: Student | None = None
        self._serving = False
        self._asked = clock()
        self._window = _Window(student, clock())
        self._previous: Behaviour | None = None
        self._observers: list[SwapObserver] = []
        self._wake: list[Callable[[], None]] = []
        self._shadow: Shadow | None = None

    # For the update service

    def current(self) -> Student | None:
        """Return the student that runs now; None = none has come yet."""
        with self._lock:
            return self._current

    def swap(self, student: Student, *, timeout_s: float = 10.0) -> None:
        """Put `student` in place of the current one, between two frames; returns when it runs.

        Raises:
            SwapError: the inference thread did not come by within `timeout_s`; the swap is withdrawn.

        """
        with self._lock:
            serving = self._serving
            self._pending = student if serving else None
            wake = list(self._wake)
        if not serving:
            self._switch(student)
            return
        for callback in wake:
            callback()
        with self._lock:
            self._lock.wait_for(lambda: self._pending is not student, timeout_s)
            self._pending = None
            if self._current is not student:
                raise SwapError(f"inference did not reach the end of a frame within {timeout_s:g} s")

    def observe(self, observer: SwapObserver) -> None:
        """Have `observer` told of every switch."""
        with self._lock:
            self._observers.append(observer)

    def set_shadow(self, shadow: Shadow | None) -> None:
        """Have `shadow` see every inference's input and scores; None ends that."""
        with self._lock:
            self._shadow = shadow

    def behaviour(self) -> Behaviour:
        """Return what the current student did since it was switched in."""
        with self._lock:
            return self._window.snapshot(self._clock(), self._asked if self._serving else None)

    def previous(self) -> Behaviour | None:
        """Return what the student before it did until it was switched out; None = there was none."""
        with self._lock:
            return self._previous

    def restart_window(self) -> Behaviour:
        """Return the behaviour so far and count from zero again."""
        with self._lock:
            done = self._window.snapshot(self._clock())
            self._window = _Window(self._current, self._clock())
            return done

    # For the pipeline

    def serve(self, wake: Callable[[], None]) -> None:
        """Say that an inference thread will call `take`; `wake` is called when something waits for it."""
        with self._lock:
            self._serving, self._asked = True, self._clock()
            self._wake.append(wake)

    def retire(self) -> None:
        """Say that no inference thread calls `take` any longer."""
        with self._lock:
            self._serving = False
            self._pending = None
            self._lock.notify_all()

    def take(self) -> Student | None:
        """Return the student for the next frame, switching first if another waits. Called by the inference thread."""
        self._asked = self._clock()
        pending = self._pending
        if pending is None:  # read without the lock: a switch that comes this moment waits for the next frame
            return self._current
        self._switch(pending)
        with self._lock:
            if self._pending is pending:
                self._pending = None
            self._lock.notify_all()
            return self._current

    def record_look(self, pixels: Pixels, boxes: Sequence[Zone | None], scores: Sequence[Row], ms: float) -> None:
        """Count a frame whose zones were inferred, in `ms` together, and show them to the shadow.

        `scores`: K+1 of each zone.
        """
        self.record(scores, ms)
        if self._shadow is None:
            return

        def show(shadow: Shadow) -> None:
            for box, seen in zip(boxes, scores, strict=True):
                shadow.saw(pixels, box, seen)

        self._show(show)

    def record_heard(self, chunk: Chunk, decisions: Sequence[Heard], ms: float, *, gated: bool) -> None:
        """Count what was inferred on a chunk of sound, in `ms` together, and show the chunk to the shadow."""
        inferred = [decision.scores for decision in decisions if decision.inferred]
        if inferred:
            self.record(inferred, ms)
        self._show(lambda shadow: shadow.heard(chunk, decisions, gated))

    def record(self, scores: Sequence[Row], ms: float) -> None:
        """Count what was inferred together, in `ms`: the zones of a frame, or the windows of a chunk of sound.

        `scores`: K+1 of each. Takes no lock: what is recorded while another window begins may be lost to both.
        """
        looks = self._window.looks
        looks.append((self._clock(), ms, scores))
        if len(looks) > _UNSUMMED:
            with self._lock:
                self._window.sum_up()

    def record_error(self) -> None:
        """Count an inference that raised."""
        with self._lock:
            self._window.errors += 1

    def record_dropped(self, frames: int = 1) -> None:
        """Count frames a queue let go while a student was there."""
        with self._lock:
            if self._current is not None:
                self._window.dropped += frames

    def record_event(self) -> None:
        """Count an announced event."""
        with self._lock:
            self._window.events += 1

    def _show(self, show: Callable[[Shadow], None]) -> None:
        shadow = self._shadow
        if shadow is None:
            return
        try:
            show(shadow)
        except Exception:
            log.exception("the shadow failed; it is removed")
            self.set_shadow(None)

    def _switch(self, student: Student) -> None:
        with self._lock:
            old, self._current = self._current, student
            self._previous = self._window.snapshot(self._clock()) if old is not None else None
            self._window = _Window(student, self._clock())
            observers = list(self._observers)
        for observer in observers:
            try:
                observer(old, student)
            except Exception:
                log.exception("a switch observer failed")
