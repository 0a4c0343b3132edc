"""Scores one can believe, and thresholds that keep the false-alarm budget without silencing an event."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillnet.cloud.metrics import Floats, Ints, calibration_error, softmax
from distillnet.cloud.rejection import EXIT_RATIO, Decision, alarms, fit_decision, fit_temperature, one_hot


def _logits(n: int, seed: int, outputs: int = 4) -> tuple[Floats, Ints]:
    """Logits whose softmax is exactly right, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, outputs)).astype(np.float32)
    labels = np.array([rng.choice(outputs, p=row / row.sum()) for row in softmax(logits).astype(np.float64)])
    return logits, labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_over_and_underconfidence(sharpness: float) -> None:
    logits, labels = _logits(3000, 0)
    found = fit_temperature(sharpness * logits, one_hot(labels, 4))
    assert found == pytest.approx(sharpness, rel=0.1)
    assert calibration_error(softmax(sharpness * logits, found), labels) < 0.03


def test_the_teachers_word_is_a_target_too() -> None:
    logits, _ = _logits(500, 1)
    assert fit_temperature(3 * logits, softmax(logits)) == pytest.approx(3.0, rel=0.05)


def test_without_examples_the_temperature_is_one() -> None:
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.02, 0.3))
def test_false_alarms_stay_in_the_budget_unless_an_event_would_fall_silent(seed: int, rate: float) -> None:
    logits, labels = _logits(300, seed)
    negative = labels == 3
    decision = fit_decision(logits, one_hot(labels, 4), negative, rate, temperature=1.0)
    scores = softmax(logits)
    for event, (enter, leave) in enumerate(zip(decision.enter, decision.leave, strict=True)):
        assert leave == pytest.approx(EXIT_RATIO * enter)
        own = scores[labels == event, event]
        within = (scores[negative, event] >= np.float32(enter)).mean() <= rate / 3
        assert within or (own >= np.float32(enter)).mean() <= 0.5
        assert len(own) == 0 or (own >= np.float32(enter)).any()


def test_without_negatives_an_event_gets_at_most_a_half() -> None:
    logits = np.array([[4.0, 0.0], [3.0, 0.0]], np.float32)
    decision = fit_decision(logits, one_hot(np.array([0, 0]), 2), np.zeros(2, bool), 0.01)
    assert decision.enter[0] <= 0.5


def test_a_picture_raises_an_alarm_when_any_event_reaches_its_threshold() -> None:
    scores = np.array([[0.7, 0.1, 0.2], [0.1, 0.4, 0.5], [0.5, 0.2, 0.3]], np.float32)
    assert alarms(scores, Decision(1.0, (0.6, 0.4), (0.5, 0.3))).tolist() == [True, True, False]
