"""When a score is an event: one temperature, and per event a threshold that keeps false alarms within the budget."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.metrics import Floats, Ints, softmax

LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.05, 0.999
EXIT_RATIO = 0.8


@dataclass(frozen=True)
class Decision:
    """A calibrated decision rule. `enter` and `leave`: one threshold per event, in order."""

    temperature: float
    enter: tuple[float, ...]
    leave: tuple[float, ...]


def fit_temperature(logits: Floats, targets: Floats) -> float:
    """Return the temperature of least cross-entropy (Guo et al., ICML 2017).

    Args:
        logits: (N, K+1).
        targets: probabilities (N, K+1): one-hot labels, or the teacher's word where there is no label.

    """
    if len(logits) == 0:
        return 1.0
    grid = np.geomspace(0.1, 10.0, 121)
    losses = [float(-(targets * np.log(softmax(logits, t) + 1e-9)).sum(1).mean()) for t in grid]
    return float(grid[int(np.argmin(losses))])


def fit_bias(logits: Floats, targets: Floats, *, rounds: int = 50, strength: float = 2.0) -> Floats:
    """Return what to add to the logits so that outputs are decided as often as wanted, float32 (K+1,), mean 0.

    A student that saw few pictures of `other` says it too rarely about new ones; a constant per output mends that.

    Args:
        logits: (N, K+1), of validation data.
        targets: probabilities (N, K+1).
        rounds: of Newton's diagonal steps on the cross-entropy.
        strength: of the pull towards no change, in pictures.

    """
    bias = np.zeros(logits.shape[1], np.float64)
    for _ in range(rounds if len(logits) else 0):
        scores = np.asarray(softmax(np.asarray(logits + bias, np.float32)), np.float64)
        slope = (scores - targets).sum(0) + strength * bias
        bias -= 0.5 * slope / ((scores * (1 - scores)).sum(0) + strength)
    return np.asarray(bias - bias.mean(), np.float32)


def fit_decision(
    logits: Floats, targets: Floats, negative: NDArray[np.bool_], rate: float, *, temperature: float | None = None
) -> Decision:
    """Choose temperature and thresholds on validation data.

    The budget is for alarms of any event together: each event may use an equal part of it.

    Args:
        logits: (N, K+1).
        targets: probabilities (N, K+1).
        negative: bool (N,), the pictures that show no event; best of classes that were never trained on.
        rate: share of negatives that may raise an alarm.
        temperature: use this one.

    """
    chosen = fit_temperature(logits, targets) if temperature is None else temperature
    scores = softmax(logits, chosen)
    events = scores.shape[1] - 1
    enter = []
    for event in range(events):
        own = scores[negative, event]
        budget = _quantile(own, rate / events)
        positive = scores[targets.argmax(1) == event, event]
        # Never above what the event itself reaches: a threshold nothing can pass is a silent detector.
        ceiling = float(np.quantile(positive, 0.75)) if len(positive) else HIGHEST_THRESHOLD
        wanted = max(budget, _best_split(positive, own))
        enter.append(float(np.clip(min(wanted, ceiling), LOWEST_THRESHOLD, HIGHEST_THRESHOLD)))
    return Decision(chosen, tuple(enter), tuple(value * EXIT_RATIO for value in enter))


def alarms(scores: Floats, decision: Decision) -> NDArray[np.bool_]:
    """Tell which pictures raise any event, bool (N,)."""
    raised: NDArray[np.bool_] = np.any(scores[:, :-1] >= np.array(decision.enter, np.float32), axis=1)
    return raised


def _quantile(scores: Floats, rate: float) -> float:
    """Return the lowest threshold that at most `rate` of the scores reach."""
    if len(scores) == 0:
        return 0.5
    ordered = np.sort(scores)[::-1]
    return float(np.nextafter(ordered[min(int(rate * len(ordered)), len(ordered) - 1)], np.float32(2)))


def _best_split(positive: Floats, negative: Floats) -> float:
    """Return the threshold of the best mean of recall and rejection, at most 0.5: the budget may ask for more."""
    if len(positive) == 0 or len(negative) == 0:
        return 0.5
    grid = np.linspace(0.05, 0.5, 46)
    gain = [(positive >= t).mean() + (negative < t).mean() for t in grid]
    return float(grid[int(np.argmax(gain))])


def one_hot(labels: Ints, outputs: int) -> Floats:
    """Return probabilities (N, outputs) of certain labels."""
    return np.eye(outputs, dtype=np.float32)[labels]
