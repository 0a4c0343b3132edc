"""Watching a student on the live stream: beside the running one, and on probation against the one before it."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillnet.device.slot import Behaviour, ModelSlot
from distillnet.engine import ModelError, Zone
from distillnet.engine.preprocess import Frame
from distillnet.engine.student import Student

log = logging.getLogger(__name__)

MIN_FRAMES = 30
MIN_PAIRS = 10
MAX_DISAGREEMENT = 0.5
MAX_SILENCE_S = 5.0
"""An inference that takes longer hangs."""
_SILENT_S = 1.0
_MIN_SLOWDOWN_MS = 3.0
_MIN_EVENTS = 5
_MAX_ERROR_SHARE = 0.02
_MIN_ERRORS = 3


@dataclass
class Comparison:
    """What two students said about the same frames."""

    frames: int = 0
    disagreement: float = 0.0
    """Mean total variation distance of their scores over the outputs both have, 0–1; 0 where they share none."""
    errors: int = 0
    latency_ms: list[float] = field(default_factory=list)
    """Of the student beside, inference only; the latest 4096."""


class Beside:
    """Runs a student on frames the live one has just seen, in its own thread; frames it has no time for are skipped."""

    def __init__(self, slot: ModelSlot, student: Student, *, rate_hz: float | None = None) -> None:
        """Compare `student` with whatever `slot` runs, at most `rate_hz` times a second."""
        self._slot, self._student = slot, student
        live = slot.current()
        self._pairs = _shared(live, student)
        self._gap_s = 1.0 / rate_hz if rate_hz else 0.0
        self._next = 0.0
        self._inbox: queue.Queue[tuple[Frame, Zone | None, NDArray[np.float32]]] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="update-beside", daemon=True)
        self._lock = threading.Lock()
        self._result = Comparison()
        self._total = 0.0

    def __enter__(self) -> "Beside":
        """Start comparing."""
        self._thread.start()
        self._slot.set_shadow(self._offer)
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

    def _offer(self, frame: Frame, zone: Zone | None, scores: NDArray[np.float32]) -> None:
        now = time.monotonic()
        if now < self._next or self._inbox.full():
            return
        self._next = now + self._gap_s
        self._inbox.put_nowait((frame, zone, scores.copy()))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                frame, zone, scores = self._inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            started = time.perf_counter()
            try:
                mine = self._student.scores(frame, zone)
            except (ModelError, ValueError) as exc:
                with self._lock:
                    self._result.errors += 1
                log.warning("the student beside failed on a frame: %s", exc)
                continue
            self._add(scores, mine, (time.perf_counter() - started) * 1e3)

    def _add(self, live: NDArray[np.float32], mine: NDArray[np.float32], took_ms: float) -> None:
        distance = 0.0
        if self._pairs and len(live) > max(pair[0] for pair in self._pairs):
            a = np.array([live[pair[0]] for pair in self._pairs], dtype=np.float64)
            b = np.array([mine[pair[1]] for pair in self._pairs], dtype=np.float64)
            distance = float(np.abs(a - b).max())
        with self._lock:
            self._result.frames += 1
            self._total += distance
            self._result.latency_ms = [*self._result.latency_ms[-4095:], took_ms]


def shadow_verdict(comparison: Comparison, live: Behaviour, max_latency_ratio: float) -> str:
    """Return why the candidate may not be switched in, or nothing."""
    if comparison.errors >= _MIN_ERRORS:
        return f"shadow: {comparison.errors} inferences failed"
    if comparison.frames < MIN_PAIRS:
        return ""  # nothing moved; nothing can be said
    if comparison.disagreement > MAX_DISAGREEMENT:
        return (
            f"shadow: scores differ by {comparison.disagreement:.2f} on average over {comparison.frames} frames "
            f"(at most {MAX_DISAGREEMENT})"
        )
    before, after = live.latency_ms(0.5), float(np.median(comparison.latency_ms))
    if before is not None and after > before * max_latency_ratio and after - before > _MIN_SLOWDOWN_MS:
        return f"shadow: median latency {after:.1f} ms against {before:.1f} ms"
    return ""


def probation_verdict(
    now: Behaviour,
    before: Behaviour | None,
    comparison: Comparison | None,
    *,
    max_latency_ratio: float,
    max_event_ratio: float,
) -> str:
    """Return why the student on probation must go, or nothing. `before` is its predecessor's whole life."""
    if now.silent_s > MAX_SILENCE_S:
        return f"probation: an inference has not come back for {now.silent_s:.1f} s"
    if now.errors >= max(_MIN_ERRORS, _MAX_ERROR_SHARE * now.frames):
        return f"probation: {now.errors} of {now.frames + now.errors} inferences failed"
    if comparison is not None and comparison.frames >= MIN_PAIRS and comparison.disagreement > MAX_DISAGREEMENT:
        return (
            f"probation: scores differ by {comparison.disagreement:.2f} on average from the previous student's over "
            f"{comparison.frames} frames (at most {MAX_DISAGREEMENT})"
        )
    if before is None or before.frames < MIN_FRAMES:
        return ""
    slow = _too_slow(now, before, max_latency_ratio)
    if slow:
        return slow
    expected = before.events_per_s * now.duration_s
    if now.events > max_event_ratio * max(expected, _MIN_EVENTS / max_event_ratio) and now.events >= _MIN_EVENTS:
        return f"probation: {now.events} events in {now.duration_s:.0f} s; {expected:.1f} were to be expected"
    return ""


def _too_slow(now: Behaviour, before: Behaviour, max_latency_ratio: float) -> str:
    was, is_ = before.latency_ms(0.99), now.latency_ms(0.99)
    if was is None or is_ is None or now.frames < MIN_FRAMES:
        return ""
    if is_ > was * max_latency_ratio and is_ - was > _MIN_SLOWDOWN_MS:
        median_was, median_is = before.latency_ms(0.5) or 0.0, now.latency_ms(0.5) or 0.0
        if median_is > median_was * (1 + (max_latency_ratio - 1) / 2):  # a lone hiccup is not a slow student
            return f"probation: p99 latency {is_:.1f} ms against {was:.1f} ms (at most {max_latency_ratio:g} times)"
    return ""


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


def answers(now: Behaviour) -> bool:
    """Whether the inference thread is at work or idle, so that the student may be judged."""
    return now.silent_s < _SILENT_S


def wait_watching(
    seconds: float,
    judge: Callable[[], str],
    stop: threading.Event,
    *,
    settled: Callable[[], bool] = lambda: True,
    tick_s: float = 0.25,
    clock: Any = time.monotonic,
) -> str:
    """Judge again and again for `seconds`, and then until `settled`; returns the first verdict, or nothing.

    Ends early when `stop` is set.
    """
    deadline = clock() + seconds
    while not stop.is_set():
        verdict = judge()
        left = deadline - clock()
        if verdict or (left <= 0 and settled()):
            return verdict
        stop.wait(min(tick_s, left) if left > 0 else tick_s)
    return ""
