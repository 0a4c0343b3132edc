"""How good a student is: shares with confidence intervals, recall, calibration error, DET curves.

Pure numpy on arrays in memory. No figure leaves here without an interval and the n it was measured on. Used by the
pipeline, by `distillnet evaluate` and by the evaluation harness.

Shapes throughout: `scores` float (N, K+1), 0–1, rows sum to 1; `labels` and `decisions` int (N,), 0–K; `other` is the
column for everything that is none of the K events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

_Z95 = 1.959963984540054
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A measured figure, its 95 % confidence interval, and on how many examples it was measured."""

    value: float
    low: float
    high: float
    n: int

    @property
    def ci(self) -> list[float]:
        """`[low, high]`, as the report's facts want it."""
        return [self.low, self.high]

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}–{self.high:.3f}], n = {self.n}"


def share(successes: int, n: int) -> Interval:
    """Share of successes with Wilson's 95 % interval; of n = 0 nothing is known: 0 in [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Raises:
        ValueError: unless 0 ≤ successes ≤ n.

    """
    if not 0 <= successes <= n:
        raise ValueError(f"0 <= successes <= n must hold; got {successes} of {n}")
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    p = successes / n
    centre = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * float(np.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2)))
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def accuracy(labels: Integers, decisions: Integers) -> Interval:
    """Share of decisions that equal their label."""
    _check_same_length(labels, decisions)
    return share(int(np.count_nonzero(labels == decisions)), len(labels))


def confusion(labels: Integers, decisions: Integers, k: int) -> NDArray[np.int64]:
    """Count decisions by label, int64 (k, k): row = label, column = decision.

    Raises:
        ValueError: lengths differ, or a label or decision is not in 0–k-1.

    """
    _check_same_length(labels, decisions)
    for name, values in (("label", labels), ("decision", decisions)):
        if len(values) and (values.min() < 0 or values.max() >= k):
            raise ValueError(f"every {name} must be in 0–{k - 1}; got {int(values.min())}–{int(values.max())}")
    flat = np.bincount(np.asarray(labels, np.int64) * k + np.asarray(decisions, np.int64), minlength=k * k)
    return flat.reshape(k, k).astype(np.int64)


def recalls(labels: Integers, decisions: Integers, classes: Sequence[int]) -> list[Interval]:
    """Recall of each class, in the order of `classes`."""
    _check_same_length(labels, decisions)
    return [share(int(np.count_nonzero(decisions[labels == c] == c)), int(np.count_nonzero(labels == c)))
            for c in classes]  # fmt: skip


def macro_recall(labels: Integers, decisions: Integers, classes: Sequence[int], seed: int = 0) -> Interval:
    """Mean over `classes` of each one's recall; a class without examples is left out of the mean.

    The interval is a parametric bootstrap: each class's recall is drawn from its Jeffreys posterior
    Beta(hits + ½, misses + ½), so that five hits of five are not taken for certainty, as resampling them would.
    """
    each = [interval for interval in recalls(labels, decisions, classes) if interval.n > 0]
    if not each:
        return Interval(0.0, 0.0, 1.0, 0)
    rng = np.random.default_rng(seed)
    hits = np.array([round(interval.value * interval.n) for interval in each])
    counts = np.array([interval.n for interval in each])
    draws = rng.beta(hits + 0.5, counts - hits + 0.5, size=(4 * RESAMPLES, len(each))).mean(axis=1)
    return _around(float((hits / counts).mean()), draws, int(counts.sum()))


def alarm_threshold(negatives: Floats, rate: float) -> float:
    """Smallest threshold that at most `rate` of `negatives`, float (N,), reach or exceed; 0 if all may.

    It is a float32 just above a score, because boards compare float32 scores.
    """
    allowed = int(np.floor(rate * len(negatives) + 1e-9))
    if allowed >= len(negatives):
        return 0.0
    edge = np.partition(np.asarray(negatives, np.float32), len(negatives) - 1 - allowed)[len(negatives) - 1 - allowed]
    return float(np.nextafter(edge, np.float32(np.inf)))


def recall_at_false_alarms(
    scores: Floats, labels: Integers, other_index: int, rate: float, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Event recall at the one threshold that lets through at most `rate` of the negatives.

    An example is recalled when its own event scores highest of the events and reaches the threshold. The interval is
    a bootstrap over both the negatives, which set the threshold, and the events' examples; n counts the latter.

    Raises:
        ValueError: there are no negatives (no threshold can be set) or `rate` is not in (0, 1).

    """
    _check_same_length(labels, scores)
    if not 0.0 < rate < 1.0:
        raise ValueError(f"rate must be in (0, 1); got {rate}")
    events = np.delete(np.asarray(scores, np.float32), other_index, axis=1)
    truth = np.where(labels > other_index, labels - 1, labels)
    is_negative = labels == other_index
    negatives = events[is_negative].max(axis=1)
    if len(negatives) == 0:
        raise ValueError("recall at a false-alarm rate needs negatives; there is no example of `other`")
    positives, own = events[~is_negative], truth[~is_negative]
    n = len(positives)
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    # A wrong winner can never be recalled: it gets a score below every threshold.
    reached = np.where(positives.argmax(axis=1) == own, positives[np.arange(n), own], np.float32(-1.0))
    value = float((reached >= alarm_threshold(negatives, rate)).mean())
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        threshold = alarm_threshold(rng.choice(negatives, len(negatives)), rate)
        draws[i] = (rng.choice(reached, n) >= threshold).mean()
    return _around(value, draws, n)


def expected_calibration_error(scores: Floats, labels: Integers, bins: int = 15, seed: int = 0) -> Interval:
    """Mean gap between the winning score and how often the winner is right, over equal-width bins.

    Guo et al., "On calibration of modern neural networks" (ICML 2017). The interval is a bootstrap; the estimate is
    biased upward by few examples per bin, and the interval then reaches higher than lower.
    """
    _check_same_length(labels, scores)
    n = len(labels)
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    confidence = np.asarray(scores, np.float64).max(axis=1)
    correct = (scores.argmax(axis=1) == labels).astype(np.float64)
    gap = confidence - correct
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)

    def error(chosen: NDArray[np.int64]) -> float:
        return float(np.abs(np.bincount(place[chosen], gap[chosen], minlength=bins)).sum() / n)

    return _bootstrap(error, n, seed)


def det_curve(event_scores: Floats, is_event: NDArray[np.bool_], points: int = 200) -> list[tuple[float, float]]:
    """Trade false alarms for misses: [(false-alarm rate, miss rate)], from strict to lax thresholds.

    Args:
        event_scores: float (N,), one event's score.
        is_event: bool (N,), whether the example is that event.
        points: keep at most so many, evenly along the curve.

    """
    _check_same_length(is_event, event_scores)
    positives, negatives = int(is_event.sum()), int((~is_event).sum())
    if positives == 0 or negatives == 0:
        return []
    order = np.argsort(-np.asarray(event_scores, np.float64), kind="stable")
    ends = np.append(np.diff(np.asarray(event_scores)[order]) != 0, True)  # equal scores fall together
    hits = np.cumsum(is_event[order])[ends]
    alarms = np.cumsum(~is_event[order])[ends]
    curve = [(0.0, 1.0)] + [(float(a / negatives), float(1 - h / positives)) for a, h in zip(alarms, hits, strict=True)]
    if len(curve) <= points:
        return curve
    kept = np.unique(np.linspace(0, len(curve) - 1, points).round().astype(int))
    return [curve[i] for i in kept]


def _bootstrap(statistic: Callable[[NDArray[np.int64]], float], n: int, seed: int) -> Interval:
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
    return _around(statistic(np.arange(n)), draws, n)


def _around(value: float, draws: NDArray[np.float64], n: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)), n)


def _check_same_length(first: NDArray[Any], second: NDArray[Any]) -> None:
    if len(first) != len(second):
        raise ValueError(f"one label per example: got {len(first)} and {len(second)}")
