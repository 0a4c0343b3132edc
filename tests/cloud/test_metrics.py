"""The figures a customer reads: right values, honest intervals, no certainty from few pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillnet.cloud import metrics


def _certain(decisions: list[int], outputs: int) -> metrics.Floats:
    return np.eye(outputs, dtype=np.float32)[decisions]


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_share_lies_in_its_interval_and_the_interval_in_0_1(hits: int, misses: int) -> None:
    got = metrics.wilson(hits, hits + misses)
    assert 0.0 <= got.low <= got.value <= got.high <= 1.0
    assert got.high - got.low > 0


def test_a_share_has_wilsons_interval() -> None:
    got = metrics.wilson(15, 20)  # R: binom::binom.wilson(15, 20)
    assert (got.value, got.n) == (0.75, 20)
    assert got.ci == pytest.approx([0.5313, 0.8881], abs=1e-4)


def test_a_wilson_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    figures = [metrics.wilson(int(hits), 40) for hits in rng.binomial(40, 0.85, 2000)]
    assert 0.92 <= np.mean([figure.low <= 0.85 <= figure.high for figure in figures]) <= 0.98


def test_of_nothing_nothing_is_known() -> None:
    unknown = metrics.Figure(0.0, 0.0, 1.0, 0)
    scores, labels = np.empty((0, 3), np.float32), np.empty(0, np.int64)
    assert metrics.wilson(0, 0) == unknown
    assert metrics.macro_recall(scores, labels) == unknown
    assert metrics.bootstrap(lambda indices: 1.0, 0) == unknown
    assert metrics.recall_at_alarm_rate(scores, labels, scores, 0.01) == unknown
    assert metrics.calibration_error(scores, labels) == 0.0


def test_a_confusion_has_the_truth_in_rows() -> None:
    got = metrics.confusion(_certain([0, 2, 1, 2], 3), np.array([0, 0, 1, 2]))
    assert got.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_macro_recall_weighs_outputs_not_pictures() -> None:
    got = metrics.macro_recall(_certain([0] * 100, 2), np.array([0] * 90 + [1] * 10))
    assert (got.value, got.n) == (0.5, 100)


def test_an_output_without_pictures_does_not_count() -> None:
    assert metrics.macro_recall(_certain([0, 1], 3), np.array([0, 0])).value == 0.5


def test_five_of_five_is_not_certainty() -> None:
    got = metrics.macro_recall(_certain([0] * 5, 2), np.zeros(5, np.int64))
    assert got.value == got.high == 1.0
    assert got.low < 0.8


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_an_alarm_threshold_keeps_its_promise_and_is_not_stricter_than_needed(scores: list[float], rate: float) -> None:
    best = np.array(scores, np.float32)
    threshold = metrics.alarm_threshold(np.stack([best, 1 - best], 1), rate)
    assert (best >= np.float32(threshold)).mean() <= rate + 1e-9
    below = np.nextafter(np.float32(threshold), np.float32(-1))
    if threshold > 0:
        assert (best >= below).sum() > np.floor(rate * len(best))


def test_an_alarm_rate_is_not_lost_to_rounding() -> None:
    best = np.linspace(0.01, 0.99, 100, dtype=np.float32)
    threshold = metrics.alarm_threshold(np.stack([best, 1 - best], 1), 0.29)
    assert (best >= np.float32(threshold)).sum() == 29


def test_recall_at_an_alarm_rate_asks_for_the_right_event() -> None:
    events = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.9, 0.05, 0.05], [0.4, 0.1, 0.5]], np.float32)
    negatives = np.array([[0.1, 0.1, 0.8], [0.2, 0.1, 0.7]], np.float32)
    labels = np.array([0, 1, 1, 0])  # the third is the wrong event; the fourth is above both negatives
    got = metrics.recall_at_alarm_rate(events, labels, negatives, 0.01)
    assert (got.value, got.n) == (0.75, 4)
    assert got.low < 0.75 < got.high


def test_calibrated_scores_have_a_small_error_and_overconfident_ones_a_large_one() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.5, 1.0, 5000).astype(np.float32)
    labels = (rng.random(5000) > p).astype(np.int64)
    sure = np.tile(np.array([0.999, 0.001], np.float32), (5000, 1))
    assert metrics.calibration_error(np.stack([p, 1 - p], 1), labels) < 0.03
    assert metrics.calibration_error(sure, labels) == pytest.approx(0.25, abs=0.02)


def test_an_operating_curve_rises_from_few_alarms_to_all() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 300)
    events = rng.dirichlet([1, 1, 1], 300).astype(np.float32)
    rates, recalls = metrics.operating_curve(events, labels, rng.dirichlet([1, 1, 2], 300).astype(np.float32))
    assert rates[0] == 0.0
    assert rates[-1] == 1.0
    assert (np.diff(recalls) >= 0).all()
    assert recalls[-1] == pytest.approx((events[:, :2].argmax(1) == labels).mean())
