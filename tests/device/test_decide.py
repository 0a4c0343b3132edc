"""The event state machine: hysteresis, confirmation, minimum duration, cooldown, and what must never happen."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillnet.device.config import EventRule
from distillnet.device.decide import Rule, Sample, State, Transition, finish, rule_for, step
from distillnet.proto.card import CardEvent

FRAME_S = 0.1
QUICK = Rule(threshold=0.6, exit_threshold=0.4, confirm=1, window=1)


def run(
    rule: Rule, scores: Iterable[float], *, allowed: Sequence[bool] | None = None
) -> list[tuple[float, Transition]]:
    """Feed scores, ten a second from t = 0 (Unix 1000); returns (t, transition), the finish included."""
    state, found, t = State(), [], 0.0
    for index, score in enumerate(scores):
        t = index * FRAME_S
        permitted = True if allowed is None else allowed[index]
        state, transition = step(
            rule, state, Sample(score, t, 1000.0 + t), lambda ts: f"id-{ts:.1f}", allowed=permitted
        )
        if transition:
            found.append((t, transition))
    state, transition = finish(state, 1000.0 + t)
    if transition:
        found.append((t, transition))
    return found


def phases(found: list[tuple[float, Transition]]) -> list[str]:
    return [transition.phase for _, transition in found]


def test_one_high_score_announces_and_a_low_one_ends() -> None:
    found = run(QUICK, [0.1, 0.9, 0.5, 0.1, 0.1])
    assert phases(found) == ["new", "end"]
    new, end = found[0][1], found[1][1]
    assert (new.id, new.start_ts, new.end_ts) == (end.id, end.start_ts, None)
    assert end.end_ts == pytest.approx(1000.3)


def test_scores_between_the_thresholds_neither_begin_nor_end() -> None:
    assert run(QUICK, [0.5] * 20) == []
    assert phases(run(QUICK, [0.9] + [0.5] * 20)) == ["new", "end"]  # the end is the stream's


def test_n_of_m_lets_single_spikes_pass() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=3, window=5)
    assert run(rule, [0.9, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.9]) == []
    found = run(rule, [0.1, 0.9, 0.1, 0.9, 0.9, 0.9])
    assert found[0][0] == pytest.approx(0.4)
    assert found[0][1].start_ts == pytest.approx(1000.1), "it began with the first score that confirmed it"


def test_low_scores_from_before_it_began_do_not_end_an_event() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=2, window=5)
    assert phases(run(rule, [0.1] * 5 + [0.9] * 10)) == ["new", "end"]  # the end is the stream's
    assert phases(run(rule, [0.1] * 5 + [0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.1])) == ["new", "end"]


def test_short_events_are_never_announced() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=1, window=1, minimum_s=0.5)
    assert run(rule, [0.9] * 4 + [0.1] * 5) == []
    assert phases(run(rule, [0.9] * 8 + [0.1] * 5)) == ["new", "end"]


def test_nothing_begins_while_cooling_down() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=1, window=1, cooldown_s=1.0)
    found = run(rule, [0.9, 0.1] * 10)
    begins = [t for t, transition in found if transition.phase == "new"]
    ends = [t for t, transition in found if transition.phase == "end"]
    assert begins[1] - ends[0] >= 1.0


def test_a_gap_shorter_than_gap_s_does_not_end_an_event() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=2, window=5, gap_s=1.0)
    assert phases(run(rule, [0.9] * 5 + [0.1] * 9 + [0.9] * 5)) == ["new", "end"]
    found = run(rule, [0.9] * 5 + [0.1] * 12 + [0.9] * 5)
    assert phases(found) == ["new", "end", "new", "end"]
    assert found[1][0] == pytest.approx(1.5), "it is told when the gap has lasted long enough"
    assert found[1][1].end_ts == pytest.approx(1000.5), "and ended where the gap began"


def test_a_spike_in_a_gap_does_not_prolong_an_event() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=2, window=5, gap_s=1.0)
    found = run(rule, [0.9] * 5 + [0.1] * 5 + [0.9] + [0.1] * 9)
    assert phases(found) == ["new", "end"]
    assert found[1][1].end_ts == pytest.approx(1000.5)


def test_a_stream_that_ends_in_a_gap_ends_its_events_where_the_gap_began() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=2, window=5, gap_s=1.0)
    found = run(rule, [0.9] * 5 + [0.1] * 5)
    assert phases(found) == ["new", "end"]
    assert found[1][1].end_ts == pytest.approx(1000.5)


def test_updates_come_at_their_interval_with_the_top_score() -> None:
    rule = Rule(threshold=0.6, exit_threshold=0.4, confirm=1, window=1, update_s=1.0)
    found = run(rule, [0.7, 0.95] + [0.8] * 30)
    assert phases(found) == ["new", "update", "update", "update", "end"]
    assert all(transition.top_score == 0.95 for _, transition in found[1:])


def test_outside_its_hours_nothing_begins_and_what_is_on_ends() -> None:
    allowed = [True] * 5 + [False] * 5
    found = run(QUICK, [0.9] * 10, allowed=allowed)
    assert phases(found) == ["new", "end"]
    assert found[1][0] == pytest.approx(0.5)
    assert run(QUICK, [0.9] * 5, allowed=[False] * 5) == []


def test_the_device_file_overrides_the_card() -> None:
    event = CardEvent(name="dog", index=0, threshold=0.6, exit_threshold=0.4)
    assert rule_for(event, None).threshold == 0.6
    rule = rule_for(event, EventRule(name="dog", threshold=0.3, confirm=2, window=4))
    assert (rule.threshold, rule.exit_threshold, rule.confirm, rule.window) == (0.3, 0.3, 2, 4)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    low, high = sorted((draw(st.floats(0, 1)), draw(st.floats(0, 1))))
    window = draw(st.integers(1, 7))
    seconds = st.floats(0, 2)
    return Rule(
        threshold=high,
        exit_threshold=low,
        confirm=draw(st.integers(1, window)),
        window=window,
        minimum_s=draw(seconds),
        gap_s=draw(seconds),
        cooldown_s=draw(seconds),
        update_s=draw(st.floats(0.05, 2)),
    )


@given(rules(), st.lists(st.floats(0, 1), max_size=80))
def test_every_life_is_new_then_updates_then_end(rule: Rule, scores: list[float]) -> None:
    """An end without its new, two news at once, or an event that never ends would confuse every subscriber."""
    on: str | None = None
    seen: set[str] = set()
    for _, transition in run(rule, scores):
        if transition.phase == "new":
            assert on is None and transition.id not in seen
            on = transition.id
            seen.add(on)
        else:
            assert transition.id == on
            if transition.phase == "end":
                on = None
    assert on is None


@given(rules(), st.lists(st.floats(0, 1), max_size=80))
def test_times_and_scores_are_in_order(rule: Rule, scores: list[float]) -> None:
    last_end = 0.0
    for t, transition in run(rule, scores):
        assert transition.start_ts <= 1000.0 + t + 1e-9
        assert transition.top_score >= (rule.threshold if transition.phase == "new" else 0)
        if transition.phase == "new":
            assert 1000.0 + t - transition.start_ts >= rule.minimum_s - 1e-9
            assert transition.start_ts >= last_end
        if transition.phase == "end":
            assert transition.end_ts is not None and transition.end_ts >= transition.start_ts
            last_end = transition.start_ts


@given(rules(), st.lists(st.floats(0, 1), max_size=60))
def test_it_is_a_function_of_its_input(rule: Rule, scores: list[float]) -> None:
    assert run(rule, scores) == run(rule, scores)


@given(rules(), st.lists(st.floats(0, 1), max_size=80))
def test_no_event_without_enough_high_scores(rule: Rule, scores: list[float]) -> None:
    high = sum(score >= rule.threshold for score in scores)
    news = [transition for _, transition in run(rule, scores) if transition.phase == "new"]
    assert len(news) * rule.confirm <= high
