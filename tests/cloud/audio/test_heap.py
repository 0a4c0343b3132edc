"""Sounds nobody labelled, with a teacher of two pitches that also knows when it hears neither."""

from pathlib import Path

import numpy as np
import pytest

from distillnet.cloud.audio import heap as heaps
from distillnet.cloud.audio import lessons
from distillnet.cloud.audio.clips import RATE_HZ, UNLABELLED, Clip
from distillnet.cloud.audio.teacher import Floats, SoundTeacher
from distillnet.cloud.classes import ClassList
from distillnet.proto.strict import ConfigError

LOW, HIGH = 300.0, 2500.0
LENGTH = lessons.span_samples(lessons.FRONT_END)


def hear(windows: Floats) -> tuple[Floats, Floats]:
    """How much of a window's power lies within a quarter of either pitch."""
    power = np.square(np.abs(np.fft.rfft(windows)))
    hertz = np.fft.rfftfreq(windows.shape[1], 1 / RATE_HZ)
    near = [power[:, np.abs(hertz - pitch) < pitch / 4].sum(1) for pitch in (LOW, HIGH)]
    share = np.stack(near, 1) / (power.sum(1, keepdims=True) + 1e-9)
    return (20 * share - 10).astype(np.float32), share.astype(np.float32)


TEACHER = SoundTeacher("pitches", ClassList((("Low",), ("High",))), RATE_HZ, "sha256:0", hear)


def sound(hertz: float | None, seconds: float, rng: np.random.Generator, label: str = UNLABELLED) -> Clip:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = rng.normal(0, 0.02, len(t)) + (0.3 * np.sin(2 * np.pi * hertz * t) if hertz else 0.0)
    return Clip(Path(f"{hertz}-{seconds}.wav"), label, label, wave.astype(np.float32))


def test_windows_lie_where_the_teacher_heard_an_event() -> None:
    rng = np.random.default_rng(0)
    clips = [sound(None, 3.0, rng) for _ in range(38)] + [sound(LOW, 30.0, rng), sound(HIGH, 1.0, rng)]
    heap = heaps.listen(clips, [(0,), (1,)], TEACHER)
    logits, _ = hear(np.stack([heap.draw(LENGTH, rng) for _ in range(400)]))
    low, high = (logits > 0).mean(0)
    assert 0.2 < low < 0.5 and 0.2 < high < 0.5  # as often as each other, though thirty times shorter


def test_what_the_teacher_does_not_hear_is_other() -> None:
    rng = np.random.default_rng(0)
    heap = heaps.listen([sound(LOW, 1.0, rng)], [(0,), (1,)], TEACHER)
    said = np.array([[0.8, 0.0, 0.2]] * 3, np.float32)
    answers = heap.answers(said, np.array([[0.8, 0.0], [0.25, 0.0], [0.0, 0.0]], np.float32))
    assert answers.sum(1) == pytest.approx(1.0)
    assert answers[:, 0] == pytest.approx([0.8, 0.4, 0.0], abs=1e-3) and answers[2, 2] == 1.0


def test_the_head_and_the_teachers_classes_say_together_which_event_it_is() -> None:
    heap = heaps.listen([sound(LOW, 1.0, np.random.default_rng(0))], [(0,), (1,)], TEACHER)
    said = np.array([[0.8, 0.2, 0.0]] * 2, np.float32)
    agreeing, contrary = heap.answers(said, np.array([[0.6, 0.15], [0.05, 0.8]], np.float32))
    assert agreeing == pytest.approx([0.8, 0.2, 0.0], abs=1e-3)
    assert contrary == pytest.approx([1 / 3, 2 / 3, 0.0], abs=1e-3)  # 4 to 1 against 1 to 16: 1 to 2


def test_half_of_the_lessons_come_from_the_heap_and_are_answered_by_the_teacher() -> None:
    rng = np.random.default_rng(0)
    names = ["low", "high"]
    clips = [sound(hertz, 2.0, rng, name) for name, hertz in zip(names, (LOW, HIGH), strict=True) for _ in range(4)]
    heap = heaps.listen([sound(None, 3.0, rng) for _ in range(4)], [(0,), (1,)], TEACHER)
    taught = lessons.make(clips, names, TEACHER, 40, heap=heap)
    own, others = taught.taught[:20], taught.taught[20:]
    assert (own[:, :2].max(1) > own[:, 2]).all()
    assert (others[:, 2] > 0.9).all() and np.array_equal(others, taught.truth[20:])


def test_sounds_of_the_heap_lie_under_some_clips() -> None:
    rng = np.random.default_rng(0)
    clips = [sound(LOW, 2.0, rng, "low"), sound(HIGH, 2.0, rng, "high")]
    heap = heaps.listen([sound(None, 3.0, rng)], [(0,), (1,)], TEACHER)
    with_heap, without = (lessons.make(clips, ["low", "high"], TEACHER, 100, heap=one) for one in (heap, None))
    share = with_heap.truth[:50, 2]
    assert 0.1 < (share > 0).mean() < 0.5 and share.max() <= 0.5  # a quarter: half of the half that is mixed
    assert (without.truth[:, 2] == 0).all()


def test_strangers_are_sounds_without_an_event() -> None:
    rng = np.random.default_rng(0)
    clips = [sound(None, 7.0, rng), sound(LOW, 1.0, rng), sound(None, 0.5, rng)]
    strangers = heaps.listen(clips, [(0,), (1,)], TEACHER).strangers(5, rng)
    assert sorted(map(len, strangers)) == [RATE_HZ // 2, 5 * RATE_HZ]


def test_a_heap_of_silence_is_refused() -> None:
    silent = Clip(Path("a.wav"), UNLABELLED, "a", np.zeros(RATE_HZ, np.float32))
    short = sound(LOW, 0.1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"every sound is silent or shorter than 0\.25 s"):
        heaps.listen([silent, short], [(0,), (1,)], TEACHER)
