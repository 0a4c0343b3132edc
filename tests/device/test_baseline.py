"""Baselines: what a place usually scores is learned, and an event stands out from it."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillnet.device.baseline import FALLS_S, LOWEST, RISES_S, Baseline, followed, log_odds, moved
from distillnet.device.config import DeviceConfig, EventRule
from distillnet.device.decisions import Decided, Decisions
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo
from distillnet.proto.strict import ConfigError, validate

FRAME_S = 1 / 30
RULE = EventRule(name="bottle", threshold=0.5, exit_threshold=0.4, confirm=3, window=5, baseline=0.2)
"""An event begins 1.39 above the baseline in log-odds, and is held by 0.98."""
CARD = Card(
    application="shelf",
    events=[CardEvent(name="bottle", index=0, threshold=0.9, exit_threshold=0.8)],
    other=1,
    input=ImageInput(height=4, width=4),
    teacher=TeacherInfo(name="none", source="test"),
    seed=0,
)
scores = st.floats(0, 1)


def lasting(score: float, seconds: float) -> list[float]:
    return [score] * round(seconds / FRAME_S)


def decided(rule: EventRule, seen: Iterable[float], decisions: Decisions | None = None) -> list[Decided]:
    """Feed scores of the bottle, 30 a second."""
    if decisions is None:
        decisions = Decisions([rule], lambda start_ts, key: f"{start_ts:.2f}")
        decisions.follow(CARD)
    found: list[Decided] = []
    for index, score in enumerate(seen):
        found += decisions.observe("shelf", "left", [score, 1.0 - score], index * FRAME_S, index * FRAME_S)
    return found


def phases(found: list[Decided]) -> list[str]:
    return [one.transition.phase for one in found if one.transition.phase != "update"]


def test_a_place_that_scores_low_needs_less() -> None:
    seen = [*lasting(0.02, 5), *lasting(0.3, 5), *lasting(0.02, 5)]
    assert phases(decided(RULE.model_copy(update={"baseline": None}), seen)) == []
    new, end = (one.transition for one in decided(RULE, seen) if one.transition.phase != "update")
    assert (new.start_ts, end.end_ts) == (pytest.approx(5.0), pytest.approx(10.0))


def test_a_place_that_scores_high_needs_more() -> None:
    rises = [0.2 + 0.4 * index / 1800 for index in range(1800)]  # within a minute, as the sun does
    assert phases(decided(RULE.model_copy(update={"baseline": None}), rises)) == ["new"]
    assert phases(decided(RULE, rises)) == []
    assert phases(decided(RULE, [*rises, *lasting(0.95, 2)])) == ["new"]


def test_the_first_scores_are_held_against_the_threshold_itself() -> None:
    assert phases(decided(RULE, lasting(0.6, 1))) == ["new"]
    assert phases(decided(RULE, lasting(0.45, 1))) == []


def test_where_scores_are_next_to_nothing_more_of_it_is_nothing() -> None:
    assert phases(decided(RULE, [*lasting(0.0001, 5), *lasting(0.02, 5)])) == []
    assert moved(0.05, Baseline(log_odds(0.0001), 0.0), 0.2) == moved(0.05, Baseline(log_odds(0.2) - LOWEST, 0.0), 0.2)


def test_what_is_on_does_not_become_usual() -> None:
    seen = [*lasting(0.05, 5), *lasting(0.5, 20 * RISES_S), *lasting(0.05, 2)]
    assert phases(decided(RULE, seen)) == ["new", "end"]


def test_a_lifted_threshold_counts_above_the_baseline_too() -> None:
    decisions = Decisions([RULE], lambda start_ts, key: "")
    decisions.follow(CARD)
    decisions.set_threshold("bottle", 0.9, None)
    assert phases(decided(RULE, [*lasting(0.02, 5), *lasting(0.3, 5)], decisions)) == []


def test_another_student_begins_anew() -> None:
    decisions = Decisions([RULE], lambda start_ts, key: "")
    decisions.follow(CARD)
    decided(RULE, lasting(0.02, 5), decisions)
    decisions.follow(CARD)
    assert phases(decided(RULE, lasting(0.3, 1), decisions)) == []


def test_zones_do_not_share_a_baseline() -> None:
    decisions = Decisions([RULE], lambda start_ts, key: "")
    decisions.follow(CARD)
    for index in range(150):
        decisions.observe("shelf", "right", [0.02, 0.98], index * FRAME_S, 0.0)
    assert phases(decided(RULE, lasting(0.3, 1), decisions)) == []


def test_an_hour_without_a_picture_teaches_as_little_as_a_second() -> None:
    baseline = Baseline(log_odds(0.05), 0.0)
    assert followed(baseline, 0.9, 3600.0).height == followed(baseline, 0.9, 1.0).height


@given(scores, scores, st.floats(0.01, 1.0))
def test_it_moves_towards_the_score_and_never_beyond(start: float, score: float, after: float) -> None:
    before, to = Baseline(log_odds(start), 0.0), log_odds(score)
    height = followed(before, score, after).height
    assert min(before.height, to) <= height <= max(before.height, to)


@given(scores, st.floats(0.001, 0.999))
def test_in_a_usual_place_scores_are_what_they_were(score: float, usual: float) -> None:
    assert moved(score, Baseline(log_odds(usual), 0.0), usual) == pytest.approx(score, abs=2e-6)


@given(scores, scores, scores, st.floats(0.001, 0.999))
def test_what_scored_higher_stays_higher(lower: float, higher: float, place: float, usual: float) -> None:
    lower, higher, baseline = *sorted((lower, higher)), Baseline(log_odds(place), 0.0)
    assert 0 <= moved(lower, baseline, usual) <= moved(higher, baseline, usual) <= 1


def test_it_falls_fast_and_rises_slowly() -> None:
    assert followed(Baseline(0.0, 0.0), 0.1, FALLS_S).height == pytest.approx(
        (1 - 1 / 2.71828) * log_odds(0.1), rel=1e-4
    )
    risen = Baseline(0.0, 0.0)
    for second in range(1, round(RISES_S) + 1):
        risen = followed(risen, 0.9, float(second))
    assert risen.height == pytest.approx((1 - 1 / 2.71828) * log_odds(0.9), rel=1e-4)


@pytest.mark.parametrize("wrong", [0, 1, -0.5, "low"])
def test_a_baseline_that_is_no_score_is_refused(wrong: object) -> None:
    file = {
        "device": {"name": "porch"},
        "model": {"application": "porch"},
        "source": [{"id": "door", "url": "door.mp4"}],
        "event": [{"name": "bottle", "baseline": wrong}],
    }
    with pytest.raises(ConfigError, match=r"event.*baseline"):
        validate(file, DeviceConfig, where="device.toml")
