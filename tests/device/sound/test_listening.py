"""From a sound to events: the listener, the ears of the daemon, and replay."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillnet.device.config import EventRule, Source
from distillnet.device.frames import Chunk
from distillnet.device.replay import Replay
from distillnet.device.sound.ears import Ears
from distillnet.engine import ModelError
from distillnet.engine.frontend import Listener
from distillnet.engine.sound import read_sound
from distillnet.engine.student import Student

RULES = [EventRule(name="low", confirm=2, window=3), EventRule(name="high", confirm=2, window=3)]
PARTS = [(2.0, 0.0), (3.0, 500.0), (2.0, 0.0), (3.0, 4000.0), (2.0, 0.0)]


@pytest.fixture
def student(tone_student: Path) -> Student:
    loaded = Student.load(tone_student.read_bytes())
    assert loaded.self_test() == 2
    return loaded


def chunks(path: Path, source: str = "door") -> list[Chunk]:
    samples, rate = read_sound(path)
    step = rate // 10
    return [
        Chunk(source, index, samples[at : at + step], rate, 1000.0 + at / rate, at / rate, 0.0, 0.0)
        for index, at in enumerate(range(0, len(samples), step))
    ]


def test_decisions_do_not_depend_on_how_the_stream_is_cut(student: Student, make_wav: Callable[..., Path]) -> None:
    samples, rate = read_sound(make_wav(PARTS))
    whole = Listener(student, rate).push(samples)
    listener = Listener(student, rate)
    parts = [hearing for part in np.array_split(samples, 77) for hearing in listener.push(part)]
    assert len(whole) == len(parts) > 50
    for one, other in zip(whole, parts, strict=True):
        assert one.t == other.t
        np.testing.assert_array_equal(one.scores, other.scores)


def test_one_decision_per_stride_each_at_the_end_of_its_window(student: Student) -> None:
    hearings = Listener(student, 16000).push(np.zeros(16000, np.float32))
    first = (15 * 400 + 512) / 16000
    assert [hearing.t for hearing in hearings] == pytest.approx([first, first + 0.2, first + 0.4])


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
def test_replay_finds_what_sounded_and_when(student: Student, make_wav: Callable[..., Path], rate: int) -> None:
    parts = PARTS if rate > 8000 else PARTS[:2]  # at 8 kHz there is no 4 kHz
    source = Source(id="door", url=str(make_wav(parts, rate)))
    events = list(Replay(student, source, RULES).events())
    news = [(event.event, event.start_ts) for event in events if event.phase == "new"]
    expected = [("low", 2.0), ("high", 7.0)][: len(news)]
    assert [name for name, _ in news] == [name for name, _ in expected]
    for (_, got), (_, wanted) in zip(news, expected, strict=True):
        assert abs(got - wanted) < 0.6
    if rate > 8000:
        ends = [event.end_ts for event in events if event.phase == "end"]
        assert ends == pytest.approx([5.0, 10.0], abs=0.7)


def test_replay_is_deterministic(student: Student, make_wav: Callable[..., Path]) -> None:
    source = Source(id="door", url=str(make_wav(PARTS)))
    lines = [[json.dumps(e.model_dump(mode="json")) for e in Replay(student, source, RULES).events()] for _ in range(2)]
    assert lines[0] == lines[1] and lines[0]


def test_a_closed_gate_skips_inference_and_not_events(student: Student, make_wav: Callable[..., Path]) -> None:
    path = make_wav([(12.0, 0.0), (3.0, 500.0), (10.0, 0.0)])
    runs = [Replay(student, Source(id="door", url=str(path), gate=gate), RULES) for gate in ("off", "on")]
    found = [[event.event for event in run.events() if event.phase == "new"] for run in runs]
    assert found == [["low"], ["low"]]
    assert runs[1].inferences < 0.6 * runs[0].inferences


def test_a_gap_begins_the_window_anew(student: Student, make_wav: Callable[..., Path]) -> None:
    pieces = chunks(make_wav([(3.0, 500.0)]))
    ears = Ears()
    for piece in pieces[:10]:
        ears.hear(student, piece)
    late = [heard for piece in pieces[15:] for heard in ears.hear(student, piece)]
    assert late[0].t == pytest.approx(1.5 + (15 * 400 + 512) / 16000)
    assert late[0].ts == pytest.approx(1000.0 + late[0].t)


def test_a_student_that_looks_cannot_hear(student_bytes: bytes) -> None:
    with pytest.raises(ModelError, match="cannot hear"):
        Listener(Student.load(student_bytes), 16000)
