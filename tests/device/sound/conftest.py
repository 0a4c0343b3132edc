"""A student that hears: a low tone, a high tone, and anything else; and sounds for it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import tones


@pytest.fixture
def tone_student(tmp_path: Path) -> Path:
    path = tmp_path / "tones.tflite"
    path.write_bytes(tones.tone_student())
    return path


@pytest.fixture
def make_wav(tmp_path: Path) -> Callable[..., Path]:
    """Write a WAV of parts (seconds, hertz): 0 Hz is quiet noise."""

    def make(parts: list[tuple[float, float]], rate: int = 44100, name: str = "sound.wav") -> Path:
        return tones.write_wav(tmp_path / name, parts, rate)

    return make
