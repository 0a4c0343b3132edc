"""Scores one can believe and thresholds that keep the false-alarm budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillnet.cloud import calibration
from distillnet.cloud.metrics import expected_calibration_error


def _logits(n: int, seed: int, k: int = 4, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is exactly right, times `sharpness`, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    scores = calibration.softmax(logits)
    labels = np.array([rng.choice(k, p=row) for row in scores])
    return logits * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_over_and_underconfidence(sharpness: float) -> None:
    logits, labels = _logits(3000, 0, sharpness=sharpness)
    found = calibration.temperature(logits, labels)
    assert found == pytest.approx(sharpness, rel=0.1)
    assert expected_calibration_error(calibration.softmax(logits, found), labels).value < 0.03


def test_soft_targets_are_targets() -> None:
    logits, _ = _logits(500, 1)
    assert calibration.temperature(3 * logits, calibration.softmax(logits)) == pytest.approx(3.0, rel=0.02)


def test_a_faultless_student_on_few_examples_is_not_infallible() -> None:
    logits = 5.0 * np.eye(4)
    found = calibration.temperature(logits, np.arange(4))
    assert calibration.softmax(logits, found).max() < 0.96


def test_without_examples_the_temperature_is_one() -> None:
    assert calibration.temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="targets must be"):
        calibration.temperature(np.zeros((5, 3)), np.zeros((5, 2)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 300), st.floats(0.005, 0.3), st.integers(0, 3))
def test_false_alarms_on_other_stay_in_the_budget(seed: int, n: int, rate: float, other: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(4, 0.3), n).astype(np.float32)
    labels = rng.integers(0, 4, n)
    got = calibration.thresholds(scores, labels, other, rate)
    assert len(got) == 3
    assert all(calibration.LOWEST <= enter <= calibration.HIGHEST and exit_ < enter for enter, exit_ in got)
    decisions = calibration.decide(scores, [enter for enter, _ in got], other)
    negatives = labels == other
    # A threshold clipped to HIGHEST may let a negative through that scores higher still.
    spared = negatives & (np.delete(scores, other, axis=1).max(axis=1) < calibration.HIGHEST)
    assert np.count_nonzero(decisions[spared] != other) <= rate * max(1, int(negatives.sum()))


def test_a_separable_event_keeps_every_recall_and_a_margin() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.1, 0.9]])
    [(enter, exit_)] = calibration.thresholds(scores, np.array([0, 0, 1, 1]), 1, 0.01)
    assert enter == pytest.approx((0.35 + 0.8) / 2, abs=1e-3)
    assert exit_ < enter


def test_a_budget_that_does_not_divide_goes_where_it_buys_recall() -> None:
    rng = np.random.default_rng(0)
    others = np.stack([np.linspace(0.01, 0.4, 100), rng.uniform(0, 0.2, 100)], axis=1)
    others[0], others[1] = (0.9, 0.0), (0.0, 0.9)  # one bad negative each; one alarm is allowed
    events = np.array([[0.8, 0.1]] * 2 + [[0.1, 0.8]] * 20)
    both = np.concatenate([others, events])
    scores = np.column_stack([both, 1 - both.sum(axis=1)])
    labels = np.array([2] * 100 + [0] * 2 + [1] * 20)
    (first, _), (second, _) = calibration.thresholds(scores, labels, 2, 0.01)
    assert first > 0.9
    assert second < 0.8


def test_without_negatives_the_threshold_is_a_half() -> None:
    assert calibration.thresholds(np.array([[0.9, 0.1]]), np.array([0]), 1)[0][0] == 0.5


def test_a_rate_outside_0_1_is_refused() -> None:
    with pytest.raises(ValueError, match="must be in"):
        calibration.thresholds(np.array([[0.9, 0.1]]), np.array([0]), 1, 1.0)


def test_a_decision_is_the_highest_event_that_reaches_its_threshold() -> None:
    scores = np.array([[0.5, 0.4, 0.1], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]])
    assert calibration.decide(scores, [0.6, 0.3], 2).tolist() == [1, 2, 0]
