"""Judging a student on the live stream: beside the running one, and on probation against the one before it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from distillnet.device.slot import Behaviour
from distillnet.device.update.beside import Comparison
from distillnet.proto.mqtt import ShadowPayload

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


def shadow_report(comparison: Comparison, live: Behaviour) -> ShadowPayload:
    """Return what a shadow run measured."""
    return ShadowPayload(
        frames=comparison.frames,
        disagreement=min(1.0, comparison.disagreement),
        latency_ms=float(np.median(comparison.latency_ms)) if comparison.latency_ms else 0.0,
        live_latency_ms=live.latency_ms(0.5) or 0.0,
    )


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
