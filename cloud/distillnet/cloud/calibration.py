"""From logits to decisions one can rely on: a temperature, and a threshold for each event.

Pure numpy; the same for pictures and sound. Nothing here looks at test data: the caller gives validation examples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.metrics import Floats, Integers, alarm_threshold

DEFAULT_FALSE_ALARM_RATE = 0.02
LOWEST, HIGHEST = 0.3, 0.99
_HYSTERESIS = 0.7
_TEMPERATURES = (0.05, 20.0)


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits, float (N, K+1), into scores as the board does, float64 (N, K+1)."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


def temperature(logits: Floats, targets: NDArray[Any]) -> float:
    """Temperature at which the scores fit the targets best (least cross-entropy); 1 without examples.

    One example's worth of uniform target is mixed in, so that a student that errs nowhere on a few validation examples
    is not declared infallible: its best temperature would otherwise be 0.

    Args:
        logits: float (N, K+1).
        targets: labels, int (N,), or target probabilities, float (N, K+1).

    Raises:
        ValueError: shapes do not fit.

    """
    n, outputs = logits.shape
    if targets.shape == (n,):
        targets = np.eye(outputs)[targets]
    if targets.shape != logits.shape:
        raise ValueError(f"logits are {logits.shape}; targets must be ({n},) or {logits.shape}, got {targets.shape}")
    if n == 0:
        return 1.0
    soft = (n * np.asarray(targets, np.float64) + 1 / outputs) / (n + 1)
    centred = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)

    def loss(log_temperature: float) -> float:
        scaled = centred / np.exp(log_temperature)
        return float((np.log(np.exp(scaled).sum(axis=1)) - (soft * scaled).sum(axis=1)).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(_golden_section(loss, float(low), float(high))))


def thresholds(
    scores: Floats, labels: Integers, other: int, false_alarm_rate: float | None = None
) -> list[tuple[float, float]]:
    """Enter and exit thresholds of each event, in the order of the columns without `other`.

    An event's threshold is the smallest that keeps (1) its share of the alarms allowed on examples of `other`:
    floor(rate × n) in all, split evenly, what does not divide going to the events that gain most recall by it; and
    (2) alarms on examples of the other events to at most `rate` of them, one always being allowed. It is then raised
    half-way to the next example it recalls, which costs no recall here and spares unseen negatives, and clipped to
    0.3–0.99. The exit threshold is 0.7 of it.

    With few examples: n negatives cannot show a rate below 1/n, so with fewer than K / rate some events get a
    threshold above every negative seen, and an event without any negatives gets 0.5. Read them with their n.

    Args:
        scores: float (N, K+1), calibrated.
        labels: int (N,).
        other: the column for everything else.
        false_alarm_rate: share of examples of `other` that may raise any event; None is 0.02.

    Raises:
        ValueError: the rate is not in (0, 1), or shapes do not fit.

    """
    rate = DEFAULT_FALSE_ALARM_RATE if false_alarm_rate is None else false_alarm_rate
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_alarm_rate must be in (0, 1); got {rate}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores (N, K+1) and labels (N,) wanted; got {scores.shape} and {labels.shape}")
    events = [column for column in range(scores.shape[1]) if column != other]
    scores = np.asarray(scores, np.float32)
    allowed = _split_alarms(scores, labels, other, events, rate)
    return [_thresholds_of(scores[:, e], labels, e, other, allowed[e], rate) for e in events]


def decide(scores: Floats, enter: list[float], other: int) -> NDArray[np.int64]:
    """Decide each example, int64 (N,): the highest event that reaches its threshold, else `other`.

    Args:
        scores: float (N, K+1).
        enter: K thresholds, in the order of the columns without `other`.
        other: the column for everything else.

    """
    events = np.array([column for column in range(scores.shape[1]) if column != other], dtype=np.int64)
    reached = np.asarray(scores, np.float32)[:, events]
    passing = np.where(reached >= np.asarray(enter, np.float32), reached, np.float32(-1.0))
    return np.where(passing.max(axis=1) >= 0, events[passing.argmax(axis=1)], other).astype(np.int64)


def _split_alarms(scores: Floats, labels: Integers, other: int, events: list[int], rate: float) -> dict[int, int]:
    """Alarms each event may raise on `other`: an even split, then the rest where it buys most recall."""
    negatives = scores[labels == other]
    total = int(np.floor(rate * len(negatives) + 1e-9))
    base, rest = divmod(total, len(events))

    def gain(event: int) -> int:
        ranked = np.sort(negatives[:, event])[::-1]
        before = ranked[base]
        after = ranked[base + 1] if base + 1 < len(ranked) else np.float32(-1.0)
        positives = scores[labels == event, event]
        return int(np.count_nonzero((positives > max(after, LOWEST)) & (positives <= before)))

    allowed = dict.fromkeys(events, base)
    for event in sorted(events, key=gain, reverse=True)[:rest] if rest else []:
        allowed[event] += 1
    return allowed


def _thresholds_of(
    event_scores: Floats, labels: Integers, event: int, other: int, allowed: int, rate: float
) -> tuple[float, float]:
    on_other = event_scores[labels == other]
    on_events = event_scores[(labels != other) & (labels != event)]
    if len(on_other) == 0 and len(on_events) == 0:
        return 0.5, 0.5 * _HYSTERESIS
    enter = 0.0
    if len(on_other):
        enter = alarm_threshold(on_other, allowed / len(on_other))
    if len(on_events):
        enter = max(enter, alarm_threshold(on_events, max(rate, 1 / len(on_events))))
    recalled = event_scores[(labels == event) & (event_scores >= enter)]
    if len(recalled):
        enter = (enter + float(recalled.min())) / 2
    # Rounding to float32 stays between the two float32 that the middle lies between.
    enter = min(max(float(np.float32(enter)), LOWEST), HIGHEST)
    return enter, enter * _HYSTERESIS


def _golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-4) -> float:
    """Minimise a unimodal function on [low, high]."""
    ratio = (np.sqrt(5.0) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return float((low + high) / 2)
