"""The parts of audio distillation that need no teacher: clips, augmentation, streams and their counting, the page."""

import json
import shutil
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from distillnet.cloud.application import Application
from distillnet.cloud.audio import augment, page_of, pipeline, speech, streams
from distillnet.cloud.audio.clips import (
    BACKGROUND,
    RATE_HZ,
    Clip,
    audible,
    read_clips,
    read_examples,
    read_unlabelled,
    windows_of,
)
from distillnet.cloud.audio.students import SIZES
from distillnet.proto.strict import ConfigError


def wav(path: Path, seconds: float, rate: int = 44100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.sin(np.arange(int(seconds * rate)) * 0.1) * 9000).astype("<i2").tobytes())


def tone(label: str, hertz: float, seconds: float = 2.0) -> Clip:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return Clip(Path(f"{label}.wav"), label, label, (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32))


def test_clips_come_by_folder_at_one_rate_and_takes_share_a_group(tmp_path: Path) -> None:
    for name in ("1-100-A", "1-100-B", "2-200-A"):
        wav(tmp_path / "bark" / f"{name}.wav", 0.5)
    clips = read_clips(tmp_path)
    assert {clip.label for clip in clips} == {"bark"}
    assert [clip.group for clip in clips] == ["bark/1-100", "bark/1-100", "bark/2-200"]
    assert all(abs(len(clip.samples) - 8000) < 50 for clip in clips)


def test_clips_come_by_csv(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 0.2, 16000)
    (tmp_path / "list.csv").write_text("path,label,group\na.wav,bark,tuesday\n")
    (clip,) = read_clips(tmp_path / "list.csv")
    assert (clip.label, clip.group, len(clip.samples)) == ("bark", "tuesday", 3200)
    (tmp_path / "list.csv").write_text("a.wav\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_clips(tmp_path / "list.csv")


def test_strong_labels_cut_their_part_out_and_leave_the_rest_as_background(tmp_path: Path) -> None:
    wav(tmp_path / "day.wav", 4.0, 16000)
    (tmp_path / "list.csv").write_text("path,label,group,onset,offset\nday.wav,bark,,1.0,1.5\nday.wav,cry,,1.5,2.25\n")
    clips = read_clips(tmp_path / "list.csv")
    assert [(clip.label, len(clip.samples)) for clip in clips] == [
        ("bark", 8000),
        ("cry", 12000),
        (BACKGROUND, 16000),
        (BACKGROUND, 28000),
    ]
    assert {clip.group for clip in clips} == {"day.wav"}  # one recording never straddles a split


@pytest.mark.parametrize(
    ("span", "part"),
    [
        ("2.0,1.0", "expected 0 ≤ onset < offset"),
        ("a,b", "are seconds"),
        ("1,nan", "onset < offset"),
        ("3,9", "ends at 4 s"),
        ("1.0", "expected path,label"),
    ],
)
def test_strong_labels_that_cannot_be_say_where(tmp_path: Path, span: str, part: str) -> None:
    wav(tmp_path / "day.wav", 4.0, 16000)
    (tmp_path / "list.csv").write_text(f"day.wav,bark,,{span}\n")
    with pytest.raises(ConfigError, match=part):
        read_clips(tmp_path / "list.csv")


def test_a_recording_with_several_labels_stays_on_one_side_of_the_split() -> None:
    application = Application.model_validate(
        {
            "application": {"name": "yard", "modality": "audio"},
            "event": [{"name": "bark", "classes": ["1"]}, {"name": "cry", "classes": ["2"]}],
            "data": {"labelled": "sounds", "validation_share": 0.2, "test_share": 0.2},
        }
    )
    sound = np.zeros(100, np.float32)
    clips = [
        Clip(Path("a"), label, f"day {day}", sound) for day in range(12) for label in ("bark", "cry", BACKGROUND)
    ] + [Clip(Path("a"), "wind", f"wind {n}", sound) for n in range(2)]
    for seed in range(5):
        split = pipeline._divide(clips, ["bark", "cry"], application, seed)
        sides = [{clip.group for clip in part} for part in (split.train, split.validation, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert [len(side) for side in sides] == [10, 2, 2]  # wind has too few recordings to be held out
        assert {clip.label for clip in split.test} == {"bark", "cry", BACKGROUND}


def test_examples_come_from_one_directory(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 0.2)
    wav(tmp_path / "b.wav", 0.2)
    assert [clip.label for clip in read_examples(tmp_path, "bell")] == ["bell", "bell"]
    with pytest.raises(ConfigError, match="holds no sounds"):
        read_examples(tmp_path / "none", "bell")


def test_keywords_are_said_by_many_voices_and_marked_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: not shown that keywords can be synthesised")
    monkeypatch.setattr(speech, "VOICES", ("m1", "f2", "f3"))
    clips = speech.spoken([("help", ["help me"])], language="en-us", seed=0)
    assert sorted({clip.label for clip in clips}) == [speech.OTHER_WORDS, "help"]
    assert len(clips) == 3 * speech.TAKES * 2 and all(clip.synthetic for clip in clips)
    assert {clip.group for clip in clips} == {"voice m1", "voice f2", "voice f3"}
    assert all(3000 < len(clip.samples) < 40000 and np.abs(clip.samples).max() > 0.05 for clip in clips)
    assert len({clip.samples.tobytes() for clip in clips}) == len(clips)
    info = pipeline._data([*clips, tone("bell", 500.0)])
    assert [(part.name, part.n) for part in info] == [("own sounds", 1), ("said by espeak-ng (synthetic)", 24)]
    with pytest.raises(ConfigError, match=r"espeak-ng speaks .*en-us"):
        speech.spoken([("help", ["help"])], language="no-such-tongue", seed=0)


@pytest.mark.parametrize(("latency_ms", "chosen"), [(None, 0), (0.045, 0), (0.08, 1), (1.0, len(SIZES) - 1)])
def test_a_budget_of_latency_buys_the_largest_network_that_keeps_to_it(latency_ms: float | None, chosen: int) -> None:
    assert pipeline._shape(hearing(latency_ms=latency_ms), Path(), 3) == SIZES[chosen]


def test_a_latency_that_no_network_keeps_to_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"latency_ms = 0.001: the smallest .* takes 0\.0\d+ ms a window on x86-64"):
        pipeline._shape(hearing(latency_ms=0.001), Path(), 3)


def hearing(**budget: float | None) -> Application:
    return Application.model_validate(
        {
            "application": {"name": "home", "modality": "audio"},
            "event": [{"name": "bark", "classes": ["Bark"]}],
            "data": {"labelled": "sounds"},
            "budget": budget,
        }
    )


def test_pictures_cannot_be_said() -> None:
    with pytest.raises(ValueError, match="pictures cannot be said"):
        Application.model_validate(
            {"application": {"name": "a"}, "event": [{"name": "b", "say": ["b"]}], "data": {"labelled": "c"}}
        )


def test_sounds_without_labels_need_a_teacher_that_knows_every_event() -> None:
    sounds = {"application": {"name": "a", "modality": "audio"}, "data": {"labelled": "c", "unlabelled": ["d"]}}
    events = [{"name": "b", "classes": ["c"]}, {"name": "e", "examples": "e"}]
    assert Application.model_validate(sounds | {"event": events[:1]}).data.unlabelled == [Path("d")]
    with pytest.raises(ValueError, match="event 'e' needs `classes`"):
        Application.model_validate(sounds | {"event": events})


def test_sounds_without_labels_come_from_all_folders(tmp_path: Path) -> None:
    for name in ("a.wav", "deep/er/b.wav", "deep/notes.txt"):
        wav(tmp_path / name, 0.5)
    assert [clip.path.name for clip in read_unlabelled(tmp_path)] == ["a.wav", "b.wav"]
    assert [clip.path.name for clip in read_unlabelled(tmp_path / "a.wav")] == ["a.wav"]
    with pytest.raises(ConfigError, match=r"unlabelled: .*notes\.txt holds no sounds"):
        read_unlabelled(tmp_path / "deep" / "notes.txt")


def test_a_folder_without_sounds_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a directory per class"):
        read_clips(tmp_path)


def test_silence_is_not_audible_and_short_sounds_are_padded() -> None:
    sound = np.concatenate([np.zeros(100), np.ones(100) * 0.1]).astype(np.float32)
    assert audible(windows_of(sound, 100, 100)).tolist() == [False, True]
    assert windows_of(sound, 500, 100).shape == (1, 500)


def test_mixing_keeps_the_stated_ratio() -> None:
    rng = np.random.default_rng(0)
    one, other = augment.coloured_noise(16000, rng), augment.coloured_noise(16000, rng)
    added = augment.mixed(one, other, 12.0) - one
    assert 20 * np.log10(np.std(one) / np.std(added)) == pytest.approx(12.0, abs=0.2)


@pytest.mark.parametrize("change", [augment.shaken, augment.estranged, augment.in_a_room, augment.tilted])
def test_augmentation_keeps_length_and_is_repeatable(change: object) -> None:
    sound = tone("a", 440.0).samples
    first, second = (change(sound, np.random.default_rng(3)) for _ in range(2))  # type: ignore[operator]
    assert first.shape == sound.shape and np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def test_a_stream_has_its_clips_where_the_truth_says() -> None:
    stream, truths = streams.build([tone("a", 500.0), tone("b", 2000.0)], seed=1, minutes=1)
    assert len(stream) == 60 * RATE_HZ and len(truths) >= 4
    for before, after in pairwise(truths):
        assert before.end_s + streams.GAP_S[0] <= after.start_s + 1e-3
    loud = next(truth for truth in truths if truth.snr_db == 20.0)
    part = stream[int(loud.start_s * RATE_HZ) : int(loud.end_s * RATE_HZ)]
    assert 20 * np.log10(np.std(part) / streams.BACKGROUND_RMS) == pytest.approx(20.0, abs=0.5)


def test_invented_sounds_differ_and_are_repeatable() -> None:
    sounds = [augment.invented(8000, np.random.default_rng(seed)) for seed in range(20)]
    assert all(0.05 < np.abs(sound).max() <= 0.9 + 1e-6 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == 20
    np.testing.assert_array_equal(sounds[7], augment.invented(8000, np.random.default_rng(7)))


TIMES = np.arange(0, 20, 0.5)
TRUTHS = [streams.Truth("a", 4.0, 6.0, 10.0), streams.Truth("b", 15.0, 16.0, 10.0)]


def heard() -> np.ndarray:
    scores = np.zeros((40, 2), np.float32)
    scores[10:14, 0] = 0.9  # 5.0–6.5 s
    scores[30:33, 0] = 0.9  # 15.0–16.0 s
    return scores


def test_a_run_of_detections_is_one_hit_or_one_false_alarm() -> None:
    hits, wrong = streams._count(TIMES, heard(), ["a"], TRUTHS, np.array([0.5]))
    assert (hits, wrong) == ([TRUTHS[0]], 1)


def test_an_alarm_that_never_ends_is_false_again_and_again() -> None:
    hits, wrong = streams._count(TIMES, np.ones((40, 2), np.float32), ["a"], TRUTHS, np.array([0.5]))
    assert (hits, wrong) == ([TRUTHS[0]], 3)  # 0–2 s, and 7.5–19.5 s twice


def test_streams_are_counted_by_onset_and_by_second() -> None:
    found = streams._measures(TIMES, heard(), ["a"], TRUTHS, np.array([0.5]), 20.0)
    assert found == {"by_event": [1, 1, 0], "by_segment": [2, 3, 0], "delay_s": 1.0}


def random_stream(rng: np.random.Generator) -> tuple[list[streams.Truth], np.ndarray, np.ndarray]:
    truths, at = [], 2.0
    while at < 280:
        length = float(rng.uniform(0.5, 6))
        truths.append(streams.Truth(str(rng.choice(["a", "b", "c"])), at, at + length, 10.0))
        at += length + float(rng.uniform(3, 9))
    times = np.arange(1, 600) * 0.5
    scores = np.zeros((599, 2), np.float32)
    for index, event in enumerate(("a", "b")):
        for truth in truths:
            if (truth.label == event and rng.random() < 0.8) or rng.random() < 0.05:
                late = rng.uniform(0, 3)
                scores[(times >= truth.start_s + late) & (times <= truth.end_s + rng.uniform(-1, 2)), index] = 1
    return truths, times, scores


def test_counts_are_those_of_sed_eval() -> None:
    """Expected is what sed_eval 0.2.1 says of these streams: by onset (collar 1.5 s), and by second."""
    expected = [
        ([3, 9, 18], [36, 9, 49]),
        ([4, 8, 12], [38, 11, 35]),
        ([4, 14, 14], [50, 13, 27]),
        ([7, 11, 18], [58, 13, 46]),
    ]
    rng = np.random.default_rng(0)
    for by_event, by_segment in expected:
        truths, times, scores = random_stream(rng)
        found = streams._measures(times, scores, ["a", "b"], truths, np.array([0.5, 0.5]), 300.0)
        assert (found["by_event"], found["by_segment"]) == (by_event, by_segment)


def test_thresholds_keep_the_false_alarms_of_the_stream_they_are_chosen_on() -> None:
    """The hearing fires for everything loud: only a threshold above what strangers reach may be chosen."""
    clips = [tone("a", 500.0), tone("b", 2000.0)]

    def hear(stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        windows = stream[: len(stream) // 8000 * 8000].reshape(-1, 8000)
        spectrum = np.abs(np.fft.rfft(windows * np.hanning(8000)))
        share = spectrum[:, 240:260].max(1) / spectrum.max(1)  # 500 Hz ± 20
        return np.arange(1, len(windows) + 1) * 0.5, np.stack([share, share], 1).astype(np.float32) * 0.98

    enter = streams.thresholds(hear, clips, ["a", "b"], per_hour=1.0, seed=0, minutes=5)
    assert 0.5 < enter[0] < 0.98 and enter[1] >= 0.98  # b never sounds like this: whatever is found would be false
    found = streams.evaluate(hear, enter, clips, ["a", "b"], seed=1)
    assert found["at_threshold"]["found"] > 0
    assert all(np.diff(found["found"]) <= 0) and len(found["found"]) == len(streams.SHIFTS)


def test_the_page_says_what_was_not_run(tmp_path: Path) -> None:
    latency = {
        "student_ms_per_s": 0.05,
        "front_end_ms_per_s": 0.03,
        "network_ms_per_s": 0.02,
        "front_end_from_48k_ms_per_s": 0.2,
        "teacher_ms_per_s": 1.0,
        "ratio": 20.0,
        "rounds": 60.0,
    }
    student = {"truth": ["rain", "rain"], "int8": ["rain", "dog_bark"], "float": ["rain", "rain"]}
    results = tmp_path / "results.json"
    known = {
        "jobs": {
            "ten/distilled/1": student | {"windows": 10, "epochs": 1, "unlabelled": 3, "unlabelled_hours": 0.5},
            "home/labels/1": student | {"windows": 20, "epochs": 2},
            "ten/teacher/1": {"truth": ["rain"], "teacher": ["rain"], "probe": ["rain"]},
            "latency": [latency | {"engine": "native/scalar"}],
        }
    }
    results.write_text(json.dumps(known))
    page_of.write(results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| ten | 1 | 0.500" in page and "0.990: missed" in page and "Not run yet" in page and "ten/labels/4" in page
    assert "0.05 (0.05–0.05)" in page
    assert (
        "Students of `ten` were distilled with 10 augmented windows, half of them from 3 sounds without labels (0.5 "
        "hours out of Debian's packages); 1 epochs." in page
    )
    assert "Students of `home` were trained on labels alone, with 20 augmented windows; 2 epochs." in page
