"""How good a classifier with an `other` output is: figures with confidence intervals. Pure numpy, nothing of pictures.

Scores are probabilities float32 (N, K+1); labels int64 (N,), `other` = K. An event's score on a picture is its
probability; a picture raises an alarm when its best event reaches a threshold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Z95 = 1.959964


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % confidence interval and how many pictures it comes from."""

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

    def to_json(self) -> dict[str, float | int]:
        """Return plain values."""
        return {"value": self.value, "ci_low": self.low, "ci_high": self.high, "n": self.n}


def wilson(hits: int, n: int) -> Figure:
    """Return a proportion with Wilson's score interval (JASA 22, 1927); n = 0 gives 0 within [0, 1]."""
    if n == 0:
        return Figure(0.0, 0.0, 1.0, 0)
    share = hits / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return Figure(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def bootstrap(statistic: Callable[[Ints], float], n: int, *, rounds: int = 300, seed: int = 0) -> Figure:
    """Return `statistic(indices)` with its percentile bootstrap interval over n pictures."""
    if n == 0:
        return Figure(0.0, 0.0, 1.0, 0)
    rng = np.random.default_rng(seed)
    return _around(statistic(np.arange(n)), [statistic(rng.integers(0, n, n)) for _ in range(rounds)], n)


def _around(value: float, draws: list[float] | NDArray[np.float64], n: int) -> Figure:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Figure(float(value), min(float(value), float(low)), max(float(value), float(high)), n)


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Return calibrated probabilities (N, K+1)."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def macro_recall(scores: Floats, labels: Ints) -> Figure:
    """Return the mean over the outputs that have pictures of the share of their pictures that are decided rightly."""
    return macro_recall_of(scores.argmax(1), labels)


def macro_recall_of(decisions: Ints, labels: Ints, *, seed: int = 0) -> Figure:
    """Return the macro recall of decisions (N,), each 0–K.

    The interval draws every output's recall from its Jeffreys posterior Beta(hits + ½, misses + ½), so that five hits
    of five are not taken for certainty, as resampling them would.
    """
    if len(labels) == 0:
        return Figure(0.0, 0.0, 1.0, 0)
    present, counts = np.unique(labels, return_counts=True)
    hits = np.array([np.count_nonzero(decisions[labels == output] == output) for output in present])
    draws = np.random.default_rng(seed).beta(hits + 0.5, counts - hits + 0.5, (4000, len(present))).mean(1)
    return _around(float((hits / counts).mean()), draws, len(labels))


def accuracy(scores: Floats, labels: Ints) -> Figure:
    """Return the share decided rightly, K+1-way."""
    return wilson(int((scores.argmax(1) == labels).sum()), len(labels))


def agreement(scores: Floats, teacher: Floats) -> Figure:
    """Return how often the student decides as the teacher restricted to the application does."""
    return wilson(int((scores.argmax(1) == teacher.argmax(1)).sum()), len(scores))


def alarm_threshold(negatives: Floats, rate: float) -> float:
    """Return the lowest threshold that at most `rate` of the negatives' best event scores reach.

    Args:
        negatives: scores (N, K+1) of pictures of `other`.
        rate: share of false alarms.

    """
    if len(negatives) == 0:
        return 0.5
    best = np.sort(negatives[:, :-1].max(1))[::-1]
    allowed = math.floor(rate * len(best) + 1e-9)  # 0.29 × 100 is 28.999…
    if allowed >= len(best):
        return 0.0
    return float(np.nextafter(best[allowed], np.float32(2.0)))


def recall_at(events: Floats, labels: Ints, threshold: float) -> Figure:
    """Return the share of event pictures whose best event is right and reaches the threshold."""
    best = events[:, :-1]
    hits = (best.argmax(1) == labels) & (best.max(1) >= threshold)
    return wilson(int(hits.sum()), len(labels))


def recall_at_alarm_rate(events: Floats, labels: Ints, negatives: Floats, rate: float) -> Figure:
    """Return the recall where `rate` of the negatives raise a false alarm, resampling both for the interval."""
    if len(events) == 0 or len(negatives) == 0:
        return Figure(0.0, 0.0, 1.0, 0)
    n, m = len(events), len(negatives)

    def statistic(indices: Ints) -> float:
        chosen, others = indices[indices < n], indices[indices >= n] - n
        threshold = alarm_threshold(negatives[others], rate)
        return recall_at(events[chosen], labels[chosen], threshold).value

    figure = bootstrap(statistic, n + m)
    return Figure(figure.value, figure.low, figure.high, n)


def calibration_error(scores: Floats, labels: Ints, bins: int = 15) -> float:
    """Return the expected calibration error of the decided output, in equal-width bins (Guo et al., ICML 2017)."""
    if len(labels) == 0:
        return 0.0
    confidence, right = scores.max(1), scores.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for index in range(bins):
        inside = place == index
        if inside.any():
            error += inside.mean() * abs(float(confidence[inside].mean()) - float(right[inside].mean()))
    return float(error)


def confusion(scores: Floats, labels: Ints) -> Ints:
    """Return counts (K+1, K+1): row = truth, column = decision."""
    outputs = scores.shape[1]
    table = np.zeros((outputs, outputs), np.int64)
    np.add.at(table, (labels, scores.argmax(1)), 1)
    return table


def operating_curve(events: Floats, labels: Ints, negatives: Floats) -> tuple[Floats, Floats]:
    """Return (false alarm rates, recalls) over all thresholds, both float32 (T,), ascending."""
    rates = np.unique(np.concatenate([[0.0], np.geomspace(1 / max(len(negatives), 1), 1.0, 60)]))
    recalls = [recall_at(events, labels, alarm_threshold(negatives, float(rate))).value for rate in rates]
    return rates.astype(np.float32), np.array(recalls, np.float32)


def det_curves(
    scores: Floats, truth: Ints, negative: NDArray[np.bool_], events: Sequence[str], enter: Sequence[float]
) -> dict[str, Any]:
    """Return each event's [[false alarm rate, miss rate], …] over all thresholds, and where its own puts it.

    Args:
        scores: of everything judged.
        truth: its labels.
        negative: bool (N,), what counts as a false alarm; events without sounds or pictures are left out.
        events: the K events' names.
        enter: their thresholds.

    Returns:
        `{event: [[rate, miss], …], "operating": {event: [rate, miss]}}`.

    """
    found: dict[str, Any] = {"operating": {}}
    for index, name in enumerate(events):
        own = truth == index
        if not own.any() or not negative.any():
            continue
        pair = np.stack([scores[:, index], 1 - scores[:, index]], 1)
        rates, recalls = operating_curve(pair[own], np.zeros(int(own.sum()), np.int64), pair[negative])
        found[name] = [[float(rate), float(1 - recall)] for rate, recall in zip(rates, recalls, strict=True)]
        found["operating"][name] = [
            float((scores[negative, index] >= enter[index]).mean()),
            float((scores[own, index] < enter[index]).mean()),
        ]
    return found
