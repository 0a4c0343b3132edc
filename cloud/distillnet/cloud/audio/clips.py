"""Labelled sounds: a directory per class or a CSV, read once, mono, at the teacher's rate.

A CSV's rows are `path,label[,group[,onset,offset]]`. A row with onset and offset (seconds) is a strong label: its clip
is that part of the recording, and what lies between the labelled parts of a recording is `BACKGROUND`.
"""

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
BACKGROUND = "(background)"
"""The label of what lies between strong labels: none of the events."""
UNLABELLED = "(unlabelled)"
"""The label of a sound that nobody labelled: the teacher says what it is."""
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
    synthetic: bool = False
    """Made by a program, never recorded."""


def read_clips(place: Path) -> list[Clip]:
    """Read every clip of a directory (a directory per class) or of a CSV.

    Raises:
        ConfigError: there are none, one cannot be read, or a label lies outside its recording.

    """
    listed = _from_csv(place) if place.is_file() else _from_directory(place)
    if not listed:
        raise ConfigError(f"data {place}: holds no sounds; expected a directory per class of {', '.join(SUFFIXES)}")
    by_recording: dict[Path, list[_Row]] = {}
    for row in listed:
        by_recording.setdefault(row.path, []).append(row)
    return [clip for path, rows in by_recording.items() for clip in _clips_of(path, rows)]


def read_examples(place: Path, label: str) -> list[Clip]:
    """Read every sound of one directory as clips of one label.

    Raises:
        ConfigError: there are none, or one cannot be read.

    """
    found = [path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES] if place.is_dir() else []
    if not found:
        raise ConfigError(f"examples of {label!r}: {place} holds no sounds ({', '.join(SUFFIXES)})")
    return [Clip(path, label, f"{label}/{_TAKE.sub('', path.stem)}", read_recording(path)) for path in found]


def read_unlabelled(place: Path) -> list[Clip]:
    """Read a sound without a label, or every one of a directory and the directories in it.

    Raises:
        ConfigError: there are none, or one cannot be read.

    """
    found = [place] if place.is_file() else sorted(place.rglob("*"))
    found = [path for path in found if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(f"[data] unlabelled: {place} holds no sounds ({', '.join(SUFFIXES)})")
    return [Clip(path, UNLABELLED, str(path), read_recording(path)) for path in found]


def read_recording(path: Path) -> Samples:
    """Read a whole sound file, mono, float32 (n,) at `RATE_HZ`.

    Raises:
        ConfigError: it cannot be read, or holds nothing.

    """
    try:
        samples, rate_hz = read_sound(path)
    except SoundError as exc:
        raise ConfigError(f"data: {exc}") from exc
    at_rate = resample(samples.astype(np.float64), rate_hz, RATE_HZ).astype(np.float32)
    if len(at_rate) == 0:
        raise ConfigError(f"data: sound {path} holds no samples")
    return at_rate


def _clips_of(path: Path, rows: Sequence["_Row"]) -> list[Clip]:
    samples = read_recording(path)
    clips = [Clip(path, row.label, row.group, samples) for row in rows if row.span_s is None]
    strong = [(row, row.span_s) for row in rows if row.span_s is not None]
    labelled = np.zeros(len(samples), np.bool_)
    for row, (onset_s, offset_s) in strong:
        begin, end = round(onset_s * RATE_HZ), round(offset_s * RATE_HZ)
        if begin >= len(samples) or end > len(samples) + RATE_HZ // 10:
            raise ConfigError(
                f"data: {path}: label {row.label!r} lasts from {onset_s:g} to {offset_s:g} s; the recording ends at "
                f"{len(samples) / RATE_HZ:g} s"
            )
        labelled[begin:end] = True
        clips.append(Clip(path, row.label, row.group, samples[begin:end]))
    if strong:
        edges = np.flatnonzero(np.diff(np.concatenate([[1], labelled, [1]])))
        between = [samples[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
        clips += [Clip(path, BACKGROUND, strong[0][0].group, part) for part in between if len(part) >= RATE_HZ // 2]
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


@dataclass(frozen=True)
class _Row:
    """One label of one recording; `span_s` is None where it holds of all of it."""

    path: Path
    label: str
    group: str
    span_s: tuple[float, float] | None = None


def _from_directory(place: Path) -> list[_Row]:
    if not place.is_dir():
        raise ConfigError(f"data {place}: there is no such directory or CSV file")
    found = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                found.append(_Row(path, folder.name, f"{folder.name}/{_TAKE.sub('', path.stem)}"))
    return found


def _from_csv(place: Path) -> list[_Row]:
    found = []
    with place.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0] == "path"):
                continue
            if len(row) not in (2, 3, 5):
                raise ConfigError(
                    f"{place}, line {number}: expected path,label[,group[,onset,offset]]; got {','.join(row)!r}"
                )
            path, strong = place.parent / row[0], len(row) == 5
            group = (row[2] if len(row) > 2 else "") or (row[0] if strong else f"{row[1]}/{path.stem}")
            found.append(_Row(path, row[1], group, _span(row, f"{place}, line {number}") if strong else None))
    return found


def _span(row: Sequence[str], where: str) -> tuple[float, float]:
    try:
        onset_s, offset_s = float(row[3]), float(row[4])
    except ValueError as exc:
        raise ConfigError(f"{where}: onset and offset are seconds; got {row[3]!r}, {row[4]!r}") from exc
    if not 0 <= onset_s < offset_s < np.inf:
        raise ConfigError(f"{where}: expected 0 ≤ onset < offset; got {onset_s:g}, {offset_s:g}")
    return onset_s, offset_s
