"""From an application file to a student that hears, by the command's own function, with a teacher of two classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillnet.cloud.audio import pipeline, streams
from distillnet.cloud.audio.clips import RATE_HZ
from distillnet.engine.student import Student
from distillnet.proto.card import AudioInput

HERTZ = {"low": 300.0, "high": 2500.0}


class Pitch(torch.nn.Module):
    """(N, 16000) to two logits, of how much sound lies below and above 1 kHz."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.eye_(self.head.weight)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        power = torch.fft.rfft(sound).abs().square()
        halves = torch.stack([power[:, :1000].sum(1), power[:, 1000:].sum(1)], 1)
        return self.head(5 * halves / (halves.sum(1, keepdim=True) + 1e-9))


def tone(hertz: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * t) + rng.normal(0, 0.05, len(t))
    return (0.3 * wave).astype(np.float32)


def test_a_student_that_hears_comes_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MINUTES", 4.0)
    rng = np.random.default_rng(0)
    for name, hertz in HERTZ.items():
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for index in range(8):
            soundfile.write(tmp_path / "sounds" / name / f"{index}.wav", tone(hertz, 2.0, rng), RATE_HZ)
    (tmp_path / "heap").mkdir()
    for index, hertz in enumerate((400.0, 2000.0, 5000.0)):
        soundfile.write(tmp_path / "heap" / f"{index}.wav", tone(hertz, 3.0, rng), RATE_HZ)
    (tmp_path / "classes.csv").write_text("index,mid,display_name\n0,/m/0,Low\n1,/m/1,High\n")
    (tmp_path / "tones.app.toml").write_text(f"""
        [application]
        name = "tones"
        modality = "audio"
        [teacher]
        source = "torch:{__name__}:Pitch"
        classes_file = "classes.csv"
        [[event]]
        name = "low"
        classes = ["Low"]
        [[event]]
        name = "high"
        classes = ["High"]
        [data]
        labelled = "sounds"
        unlabelled = ["heap", "sounds/low/0.wav"]
        [search]
        minutes = 0.5
        steps = 60
    """)
    facts = pipeline.distill(tmp_path / "tones.app.toml", tmp_path / "out")
    student = Student.load(Path(facts["student"]).read_bytes())
    assert isinstance(student.card.input, AudioInput)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (own,) = (row for row in report["baselines"] if row.get("chosen"))
    assert own["value"] == 1.0
    assert {part["name"]: part["n"] for part in report["data"]} == {"own sounds": 16, "sounds without labels": 3}
    assert report["stream"]["hours"] == pytest.approx(4 / 60, abs=0.02)
