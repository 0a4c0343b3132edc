"""From a sound to events: the listener, the ears of the daemon, and replay."""

import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillnet.device.config import EventRule, Source
from distillnet.device.frames import Chunk
from distillnet.device.replay import Replay
from distillnet.device.score import Truth, score
from distillnet.device.sound.ears import Ears
from distillnet.device.sound.gate import SoundGate
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


def test_what_replay_finds_in_a_sound_is_scored_by_its_truth(student: Student, make_wav: Callable[..., Path]) -> None:
    source = Source(id="door", url=str(make_wav([*PARTS, (3.0, 500.0)])))
    events = list(Replay(student, source, RULES).events())
    truth = Truth(event="low", fps=10, frames=150, tolerance_frames=7, episodes={"door": [(20, 50), (70, 90)]})
    facts = score(events, truth).facts()
    assert (facts["episodes"], facts["found"], facts["within_tolerance"], facts["false_alarms"]) == (2, 1, 1, 1)
    assert facts["false_alarms_per_hour"] == pytest.approx(3600 / 15)
    assert facts["missed"] == [["door", 70, 90]]  # a high tone sounded there


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


def events_of(student: Student, path: Path) -> list[str]:
    """Names of what began, with the gate on."""
    replay = Replay(student, Source(id="door", url=str(path), gate="on"), RULES)
    return [event.event for event in replay.events() if event.phase == "new"]


def write(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


TONE = np.concatenate([np.zeros(32000), np.sin(np.arange(48000) * (2 * np.pi * 500 / 16000)), np.zeros(16000)])


@pytest.mark.parametrize(
    ("name", "samples", "how"),
    [
        ("with a DC offset", TONE * 8000 + 12000, {}),
        ("very quiet", TONE * 300, {}),
        ("stereo", np.repeat(TONE * 8000, 2), {"channels": 2}),
        ("stereo, one side silent", np.stack([TONE * 16000, TONE * 0], 1).reshape(-1), {"channels": 2}),
        ("of 96 kHz", np.repeat(TONE * 8000, 6), {"rate": 96000}),
    ],
)
def test_a_sound_is_heard_however_it_was_recorded(
    student: Student, tmp_path: Path, name: str, samples: np.ndarray, how: dict[str, int]
) -> None:
    assert events_of(student, write(tmp_path / "a.wav", samples.astype("<i2"), **how)) == ["low"], name


def test_a_clipped_sound_is_heard_as_the_square_wave_it_has_become(student: Student) -> None:
    clipped = np.clip(TONE * 1000, -1, 1).astype(np.float32)
    square = np.sign(np.round(TONE, 9)).astype(np.float32)
    heard = [Listener(student, 16000).push(sound) for sound in (clipped, square)]
    for one, other in zip(*heard, strict=True):
        assert one.scores is not None and one.scores.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(one.scores, other.scores, atol=0.02)


def test_eight_bits_are_heard_as_the_same_steps_in_sixteen(student: Student, tmp_path: Path) -> None:
    steps = np.round(TONE * 100)
    narrow = write(tmp_path / "8.wav", (steps + 128).astype(np.uint8), width=1)
    wide = write(tmp_path / "16.wav", (steps * 256).astype("<i2"))
    heard = [Listener(student, 16000).push(read_sound(path)[0]) for path in (narrow, wide)]
    for one, other in zip(*heard, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("name", "samples"),
    [("silence", np.zeros(80000)), ("a DC offset alone", np.full(80000, 9000)), ("nothing", np.zeros(0))],
)
def test_where_nothing_sounds_there_is_no_event(
    student: Student, tmp_path: Path, name: str, samples: np.ndarray
) -> None:
    assert events_of(student, write(tmp_path / "a.wav", samples.astype("<i2"))) == [], name


def test_a_stream_of_numbers_that_are_none_is_silence(student: Student) -> None:
    broken = np.full(48000, np.nan, np.float32)
    broken[::3] = np.inf
    silent = Listener(student, 16000).push(np.zeros(48000, np.float32))
    for got, wanted in zip(Listener(student, 16000).push(broken), silent, strict=True):
        np.testing.assert_array_equal(got.scores, wanted.scores)
    gate = SoundGate()
    assert [gate.opens(broken[:1600], 16000) for _ in range(30)][-1] is False


def test_a_truncated_file_gives_the_events_of_what_is_there(student: Student, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.tile(TONE * 8000, 3).astype("<i2"))
    path.write_bytes(path.read_bytes()[: 44 + 2 * len(TONE) + 33])
    assert events_of(student, path) == ["low"]


def test_a_student_that_looks_cannot_hear(student_bytes: bytes) -> None:
    with pytest.raises(ModelError, match="cannot hear"):
        Listener(Student.load(student_bytes), 16000)
