"""The figures a customer reads: right values, honest intervals, no certainty from few examples."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillnet.cloud import metrics


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_share_lies_in_its_interval_and_the_interval_in_0_1(hits: int, misses: int) -> None:
    got = metrics.share(hits, hits + misses)
    assert 0.0 <= got.low <= got.value <= got.high <= 1.0
    assert got.high - got.low > 0


def test_a_share_is_wilsons_interval() -> None:
    got = metrics.share(15, 20)  # R: binom::binom.wilson(15, 20)
    assert (got.value, got.n) == (0.75, 20)
    assert got.low == pytest.approx(0.5313, abs=1e-4)
    assert got.high == pytest.approx(0.8881, abs=1e-4)


def test_of_nothing_nothing_is_known() -> None:
    assert metrics.share(0, 0) == metrics.Interval(0.0, 0.0, 1.0, 0)


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        metrics.share(3, 2)


def test_a_wilson_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    intervals = [metrics.share(int(hits), 40) for hits in rng.binomial(40, 0.85, 2000)]
    assert 0.92 <= np.mean([i.low <= 0.85 <= i.high for i in intervals]) <= 0.98


def test_a_confusion_has_labels_in_rows() -> None:
    got = metrics.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert got.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_a_label_outside_the_confusion_is_refused() -> None:
    with pytest.raises(ValueError, match="every decision must be in 0–1; got 0–2"):
        metrics.confusion(np.array([0, 1]), np.array([0, 2]), 2)


def test_macro_recall_weighs_classes_not_examples() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    decisions = np.zeros(100, np.int64)
    got = metrics.macro_recall(labels, decisions, [0, 1])
    assert (got.value, got.n) == (0.5, 100)


def test_five_of_five_is_not_certainty() -> None:
    got = metrics.macro_recall(np.zeros(5, np.int64), np.zeros(5, np.int64), [0])
    assert got.value == got.high == 1.0
    assert got.low < 0.8


def test_a_class_without_examples_does_not_count() -> None:
    got = metrics.macro_recall(np.array([0, 0]), np.array([0, 1]), [0, 1, 2])
    assert (got.value, got.n) == (0.5, 2)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_an_alarm_threshold_keeps_its_promise_and_is_not_stricter_than_needed(scores: list[float], rate: float) -> None:
    negatives = np.array(scores, np.float32)
    threshold = metrics.alarm_threshold(negatives, rate)
    assert (negatives >= np.float32(threshold)).mean() <= rate + 1e-9
    below = np.nextafter(np.float32(threshold), np.float32(-1))
    if threshold > 0:
        assert (negatives >= below).sum() > np.floor(rate * len(negatives))


def test_recall_at_false_alarms_asks_for_the_right_event() -> None:
    scores = np.array(
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.9, 0.05, 0.05], [0.4, 0.1, 0.5], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7]]
    )
    labels = np.array([0, 1, 1, 0, 2, 2])  # the third is a wrong event; the fourth is above both negatives
    got = metrics.recall_at_false_alarms(scores, labels, 2, 0.01)
    assert (got.value, got.n) == (0.75, 4)
    assert got.low < 0.75 < got.high


def test_recall_at_false_alarms_needs_negatives() -> None:
    with pytest.raises(ValueError, match="no example of `other`"):
        metrics.recall_at_false_alarms(np.array([[0.5, 0.5]]), np.array([0]), 1, 0.01)


@pytest.mark.parametrize("other", [0, 1, 2])
def test_where_other_stands_does_not_matter(other: int) -> None:
    rng = np.random.default_rng(1)
    scores = rng.dirichlet([1, 1, 1], 200)
    labels = rng.integers(0, 3, 200)
    order = [0, 1]
    order.insert(other, 2)
    moved = scores[:, order]
    moved_labels = np.array([order.index(label) for label in labels])
    assert metrics.recall_at_false_alarms(moved, moved_labels, other, 0.1) == metrics.recall_at_false_alarms(
        scores, labels, 2, 0.1
    )


def test_calibrated_scores_have_a_small_error_and_overconfident_ones_a_large_one() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.5, 1.0, 5000)
    labels = (rng.random(5000) > p).astype(np.int64)
    calibrated = np.stack([p, 1 - p], axis=1)
    sure = np.stack([np.full(5000, 0.999), np.full(5000, 0.001)], axis=1)
    assert metrics.expected_calibration_error(calibrated, labels).value < 0.03
    assert metrics.expected_calibration_error(sure, labels).value == pytest.approx(0.25, abs=0.02)


def test_a_det_curve_runs_from_all_missed_to_all_alarms() -> None:
    rng = np.random.default_rng(3)
    is_event = rng.random(1000) < 0.3
    curve = metrics.det_curve(rng.random(1000) + is_event, is_event, points=50)
    assert curve[0] == (0.0, 1.0)
    assert curve[-1] == (1.0, 0.0)
    assert len(curve) <= 50
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(curve))


def test_equal_scores_fall_together_on_the_det_curve() -> None:
    assert metrics.det_curve(np.full(4, 0.5), np.array([True, False, True, False])) == [(0.0, 1.0), (1.0, 0.0)]
