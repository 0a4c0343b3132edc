"""Labelled sounds: a directory per class or a CSV `path,label[,group]`, read once, mono, at the teacher's rate."""

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.log_mel import Samples, resample
from distillnet.engine.sound import SUFFIXES, SoundError, read_sound
from distillnet.proto.strict import ConfigError

RATE_HZ = 16000
_TAKE = re.compile(r"[-_]?[A-Za-z]$")


@dataclass(frozen=True)
class Clip:
    """One recording of one class."""

    path: Path
    label: str
    group: str
    """Clips of one group (one recording, cut into takes) never straddle a split."""
    samples: Samples
    """float32 (n,), mono, `RATE_HZ`."""


def read_clips(place: Path) -> list[Clip]:
    """Read every clip of a directory (a directory per class) or of a CSV.

    Raises:
        ConfigError: there are none, or one cannot be read.

    """
    listed = _from_csv(place) if place.is_file() else _from_directory(place)
    if not listed:
        raise ConfigError(f"data {place}: holds no sounds; expected a directory per class of {', '.join(SUFFIXES)}")
    clips = []
    for path, label, group in listed:
        try:
            samples, rate_hz = read_sound(path)
        except SoundError as exc:
            raise ConfigError(f"data: {exc}") from exc
        at_rate = resample(samples.astype(np.float64), rate_hz, RATE_HZ).astype(np.float32)
        if len(at_rate) == 0:
            raise ConfigError(f"data: sound {path} holds no samples")
        clips.append(Clip(path, label, group, at_rate))
    return clips


def digest_of(clips: Sequence[Clip]) -> str:
    """`sha256:<hex>` of the clips' names and samples."""
    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda clip: (clip.label, clip.path.name)):
        digest.update(f"{clip.label}/{clip.path.name}\0".encode())
        digest.update(clip.samples.tobytes())
    return f"sha256:{digest.hexdigest()}"


def windows_of(samples: Samples, length: int, stride: int) -> NDArray[np.float32]:
    """Cut a sound into windows, float32 (n ≥ 1, length); one that is too short is padded with silence."""
    if len(samples) < length:
        return np.pad(samples, (0, length - len(samples)))[np.newaxis]
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::stride]


def audible(windows: NDArray[np.float32], floor: float = 1e-3) -> NDArray[np.bool_]:
    """Tell which windows (n, length) hold sound: not digital silence, and above -46 dB of the loudest among them."""
    rms = np.sqrt((windows.astype(np.float64) ** 2).mean(axis=1))
    loud: NDArray[np.bool_] = rms > max(1e-5, min(floor, 0.005 * float(rms.max(initial=0.0))))
    return loud


def _from_directory(place: Path) -> list[tuple[Path, str, str]]:
    if not place.is_dir():
        raise ConfigError(f"data {place}: there is no such directory or CSV file")
    found = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                found.append((path, folder.name, f"{folder.name}/{_TAKE.sub('', path.stem)}"))
    return found


def _from_csv(place: Path) -> list[tuple[Path, str, str]]:
    found = []
    with place.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0] == "path"):
                continue
            if len(row) < 2:
                raise ConfigError(f"{place}, line {number}: expected path,label[,group]; got {','.join(row)!r}")
            path = place.parent / row[0]
            found.append((path, row[1], row[2] if len(row) > 2 else f"{row[1]}/{path.stem}"))
    return found
