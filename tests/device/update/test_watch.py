"""A student on probation goes for being slow, wrong, failing or noisy, and for nothing else."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny
from board import until

from distillnet.device.frames import Chunk
from distillnet.device.slot import Behaviour, ModelSlot
from distillnet.device.sound.ears import Ears
from distillnet.device.update.beside import Beside, Comparison
from distillnet.device.update.watch import probation_verdict, shadow_verdict, wait_watching
from distillnet.engine.student import Student


def behaviour(*, ms: float = 5.0, frames: int = 300, events: int = 0, errors: int = 0, seconds: float = 10.0):
    rng = np.random.default_rng(0)
    return Behaviour(
        digest="", duration_s=seconds, frames=frames, dropped=0, errors=errors, events=events,
        infer_ms=ms * rng.uniform(0.9, 1.1, frames),
    )  # fmt: skip


def verdict(now, before, comparison=None):
    return probation_verdict(now, before, comparison, max_latency_ratio=2.0, max_event_ratio=5.0)


def test_same_behaviour_passes():
    assert verdict(behaviour(events=3), behaviour(events=3), Comparison(frames=20, disagreement=0.1)) == ""


def test_slow_student_goes():
    assert "p99 latency" in verdict(behaviour(ms=15), behaviour(ms=5))


def test_lone_hiccups_and_tiny_differences_do_not_count():
    hiccups = behaviour(ms=5)
    hiccups.infer_ms[:6] = 80.0
    assert verdict(hiccups, behaviour(ms=5)) == ""
    assert verdict(behaviour(ms=1.0), behaviour(ms=0.3)) == ""


def test_event_storm_goes_also_where_there_were_no_events_before():
    assert "events in 10 s" in verdict(behaviour(events=60), behaviour(events=10))
    assert "events in 10 s" in verdict(behaviour(events=30), behaviour(events=0))


def test_few_events_after_none_are_no_storm():
    assert verdict(behaviour(events=4), behaviour(events=0)) == ""


def test_inference_that_hangs_goes_and_is_not_committed_before_it_has_answered():
    assert "has not come back for 6.0 s" in verdict(replace(behaviour(), silent_s=6.0), None)
    clock, answered, judged = iter(range(100)), iter([False, False, True]), []

    def judge():
        judged.append(1)
        return ""

    settled = answered.__next__
    assert wait_watching(3, judge, threading.Event(), settled=settled, tick_s=0, clock=clock.__next__) == ""
    assert len(judged) == 5  # twice while it was watched, three times until it answered


def test_slot_says_how_long_its_inference_thread_has_been_silent():
    now = [0.0]
    slot = ModelSlot(clock=lambda: now[0])
    now[0] = 50.0
    assert slot.behaviour().silent_s == 0.0  # nobody infers
    slot.serve(lambda: None)
    slot.take()
    now[0] = 57.0
    assert slot.behaviour().silent_s == 7.0


def test_failing_inferences_go_even_without_a_predecessor():
    assert "inferences failed" in verdict(behaviour(errors=10, frames=20), None)


def test_wrong_scores_go():
    assert "scores differ by 0.90" in verdict(behaviour(), behaviour(), Comparison(frames=20, disagreement=0.9))
    assert verdict(behaviour(), behaviour(), Comparison(frames=5, disagreement=0.9)) == ""


def test_nothing_is_concluded_from_a_short_baseline():
    assert verdict(behaviour(ms=50), behaviour(ms=5, frames=10)) == ""


def test_shadow_judges_scores_speed_and_failures():
    live = behaviour(ms=5)
    assert shadow_verdict(Comparison(frames=50, disagreement=0.1, latency_ms=[5.0] * 50), live, 2.0) == ""
    assert "median latency" in shadow_verdict(Comparison(frames=50, latency_ms=[40.0] * 50), live, 2.0)
    assert "scores differ" in shadow_verdict(Comparison(frames=50, disagreement=0.8, latency_ms=[5.0]), live, 2.0)
    assert "failed" in shadow_verdict(Comparison(errors=3), live, 2.0)


def test_watching_stops_at_the_first_verdict_and_when_told():
    verdicts = iter(["", "", "bad"])
    assert wait_watching(60, lambda: next(verdicts), threading.Event(), tick_s=0) == "bad"
    stopped = threading.Event()
    stopped.set()
    assert wait_watching(60, lambda: "never asked", stopped) == ""


@pytest.mark.parametrize(("events", "differs"), [(("cat", "dog"), True), (("bird", "fish"), False)])
def test_beside_compares_only_the_events_both_students_have(events, differs):
    live = Student.load(tiny.student(1, seed=1), engine="litert")
    other = Student.load(tiny.student(2, seed=7, events=events), engine="litert")
    slot = ModelSlot(live)
    rng = np.random.default_rng(0)
    with Beside(slot, other) as beside:
        for _ in range(400):
            frame = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            slot.record_look(frame, [None], [live.scores(frame)], 1.0)
            if beside.result().frames >= 5:
                break
            threading.Event().wait(0.002)
    assert beside.result().frames >= 5
    assert (beside.result().disagreement > 0) == differs


def chunk(index: int, level: float = 0.1) -> Chunk:
    """A tenth of a second of noise."""
    samples = np.random.default_rng(index).normal(0, level, 1600).astype(np.float32)
    t = index * 0.1
    return Chunk("yard", index, samples, 16000, ts=t, t=t, captured=0.0, capture_ms=0.0)


def listen(live: Student, other: Student, chunks: list[Chunk], *, gated: bool = False) -> Comparison:
    """Let both hear the same sound; returns what came of it once the one beside has heard all of it."""
    slot, ears = ModelSlot(live), Ears()
    with Beside(slot, other) as beside:
        for piece in chunks:
            slot.record_heard(piece, ears.hear(live, piece, gated=gated), 1.0, gated=gated)
            until(beside._inbox.empty)
        done = threading.Event()
        beside._inbox.put(done.set)
        assert done.wait(5)
        return beside.result()


@pytest.mark.parametrize(("hears", "stride", "apart"), [("other", 4, 0.0), ("low", 4, 1.0), ("low", 7, 1.0)])
def test_beside_hears_all_of_the_sound_and_compares_decisions_of_the_same_moment(hears, stride, apart):
    live = Student.load(tiny.hearing(1), engine="litert")
    other = Student.load(tiny.hearing(2, hears=hears, stride=stride), engine="litert")
    seen = listen(live, other, [chunk(index) for index in range(40)])
    hops = 40 * 1600 // live.card.input.hop_samples
    assert seen.frames >= hops // stride - 4 and seen.errors == 0
    assert seen.disagreement == pytest.approx(apart, abs=0.01)
    assert len(seen.latency_ms) <= 40


def test_beside_concludes_nothing_from_silence_behind_a_gate_and_goes_on_after_a_gap():
    live = Student.load(tiny.hearing(1), engine="litert")
    other = Student.load(tiny.hearing(2, hears="low"), engine="litert")
    silence = [chunk(index, 0.0) for index in range(100)]
    before_it_closes = listen(live, other, silence[:50], gated=True).frames
    assert listen(live, other, silence, gated=True).frames == before_it_closes < 50 * 0.1 / 0.04
    gap = [chunk(index) for index in (*range(10), *range(30, 40))]
    assert listen(live, other, gap).frames > 2
