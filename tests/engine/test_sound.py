"""Sound files of every kind a recorder writes, and of every kind a disk damages."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from distillnet.engine.sound import SoundError, open_sound, read_sound

TONE = (0.5 * np.sin(np.arange(4800) * 0.05)).astype(np.float32)


def pcm(path: Path, width: int, channels: int = 1, rate: int = 16000) -> Path:
    full = TONE if channels == 1 else np.stack([TONE, -TONE / 2], axis=1).reshape(-1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        if width == 1:
            data = np.round(full * 128 + 128).clip(0, 255).astype(np.uint8).tobytes()
        else:
            wide = np.round(full.astype(np.float64) * 2 ** (8 * width - 1)).astype("<i4")
            data = wide.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        file.writeframes(data)
    return path


def floating(path: Path, samples: np.ndarray, extensible: bool = False) -> Path:
    bits = samples.itemsize * 8
    code = 0xFFFE if extensible else 3
    fmt = struct.pack("<HHIIHH", code, 1, 16000, 16000 * bits // 8, bits // 8, bits)
    if extensible:
        fmt += struct.pack("<HHIH14s", 22, bits, 4, 3, b"\0" * 14)
    data = samples.tobytes()
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"LIST\x03\0\0\0abc\0"
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize(("width", "step"), [(1, 1 / 128), (2, 1 / 32768), (3, 1e-6), (4, 1e-6)])
def test_pcm_of_any_width(tmp_path: Path, width: int, step: float) -> None:
    samples, rate = read_sound(pcm(tmp_path / "a.wav", width))
    assert rate == 16000
    np.testing.assert_allclose(samples, TONE, atol=step)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("extensible", [False, True])
def test_floats_with_chunks_in_between(tmp_path: Path, dtype: str, extensible: bool) -> None:
    samples, _ = read_sound(floating(tmp_path / "a.wav", TONE.astype(dtype), extensible))
    np.testing.assert_array_equal(samples, TONE)


def test_stereo_becomes_the_mean(tmp_path: Path) -> None:
    samples, rate = read_sound(pcm(tmp_path / "a.wav", 2, channels=2, rate=96000))
    assert rate == 96000
    np.testing.assert_allclose(samples, TONE / 4, atol=1e-4)


def test_what_is_not_finite_is_silence(tmp_path: Path) -> None:
    holes = TONE.copy()
    holes[[3, 5]] = np.nan, np.inf
    samples, _ = read_sound(floating(tmp_path / "a.wav", holes))
    assert samples[3] == samples[5] == 0
    assert np.isfinite(samples).all()


def test_pieces_are_the_whole(tmp_path: Path) -> None:
    path = pcm(tmp_path / "a.wav", 2)
    file = open_sound(path)
    assert file.seconds == pytest.approx(0.3)
    pieces = []
    while len(piece := file.read(1000)):
        pieces.append(piece)
    file.close()
    assert [len(piece) for piece in pieces] == [1000] * 4 + [800]
    np.testing.assert_array_equal(np.concatenate(pieces), read_sound(path)[0])


def test_a_truncated_file_ends_where_its_bytes_end(tmp_path: Path) -> None:
    path = pcm(tmp_path / "a.wav", 2)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 1000 + 1])
    samples, _ = read_sound(path)
    assert len(samples) == 1000


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is empty"),
        (b"RIFF\0\0\0\0WAVE", "truncated"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0", "truncated"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "before its format"),
        (b"not a sound at all", "cannot be decoded"),
    ],
)
def test_what_is_no_sound_says_so(tmp_path: Path, data: bytes, part: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(SoundError, match=part) as error:
        read_sound(path)
    assert str(path) in str(error.value)


def test_a_format_nobody_reads_is_named(tmp_path: Path) -> None:
    path = floating(tmp_path / "a.wav", TONE)
    data = bytearray(path.read_bytes())
    data[20:22] = struct.pack("<H", 0x55)
    path.write_bytes(bytes(data))
    with pytest.raises(SoundError, match="WAV format 85"):
        read_sound(path)
    with pytest.raises(SoundError, match="cannot be opened"):
        read_sound(tmp_path / "missing.wav")


def test_flac_is_read(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", TONE, 44100)
    samples, rate = read_sound(tmp_path / "a.flac")
    assert rate == 44100
    np.testing.assert_allclose(samples, TONE, atol=1e-4)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:300])
    with pytest.raises(SoundError, match=r"cut\.flac"):
        read_sound(tmp_path / "cut.flac")


def test_a_sound_too_long_to_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundError, match="at most"):
        read_sound(pcm(tmp_path / "a.wav", 2), most_s=0.1)
