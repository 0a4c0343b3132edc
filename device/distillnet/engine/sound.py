"""Reading sound files, whole or piece by piece, as mono float32: WAV by itself, FLAC, OGG and MP3 with `soundfile`.

Called by the device's file source and by the cloud's data. Neither should die of a bad file: whatever is wrong with
one is a `SoundError` that says what.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.log_mel import Samples

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_CHANNELS = 64


class SoundError(Exception):
    """A sound cannot be read; the message says which file and why."""


class SoundFile(Protocol):
    """An open sound file."""

    rate_hz: int
    channels: int
    seconds: float
    """How long it is, by its header or its size, whichever is less."""

    def read(self, count: int) -> Samples:
        """Return the next samples, all channels' mean, float32 (≤ count,), full scale ±1; none at the end.

        Raises:
            SoundError: the decoder fails in the middle.

        """

    def close(self) -> None:
        """Release the file."""


def open_sound(path: Path) -> SoundFile:
    """Open a sound file by its content, whatever its suffix.

    Raises:
        SoundError: missing, empty, or of a format that cannot be read here.

    """
    try:
        file = path.open("rb")
    except OSError as exc:
        raise SoundError(f"sound {path}: cannot be opened: {exc.strerror}") from exc
    head = file.read(12)
    if not head:
        file.close()
        raise SoundError(f"sound {path}: is empty")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        try:
            return _Wave(path, file)
        except SoundError:
            file.close()
            raise
    file.close()
    return _Other(path)


def read_sound(path: Path, *, most_s: float = 3600.0) -> tuple[Samples, int]:
    """Read a whole sound; returns its samples, float32 (n,), and their rate in Hz.

    Raises:
        SoundError: as `open_sound`, or longer than `most_s`.

    """
    sound = open_sound(path)
    try:
        if sound.seconds > most_s:
            raise SoundError(f"sound {path}: is {sound.seconds:.0f} s long; at most {most_s:.0f} s are read at once")
        parts = []
        while len(part := sound.read(1 << 18)):
            parts.append(part)
    finally:
        sound.close()
    return (np.concatenate(parts) if parts else np.zeros(0, np.float32)), sound.rate_hz


class _Wave:
    """RIFF WAVE: 8, 16, 24, 32-bit PCM and 32, 64-bit float. A truncated file ends where its bytes end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        layout, size = self._find_data()
        code, self.channels, self.rate_hz, self._bits = layout
        self._float = code == _FLOAT
        supported = self._bits in ((32, 64) if self._float else (8, 16, 24, 32))
        if code not in (_PCM, _FLOAT) or not supported:
            raise SoundError(f"sound {path}: WAV format {code} with {self._bits} bits is not supported; convert to PCM")
        if not 1 <= self.channels <= _MAX_CHANNELS or self.rate_hz < 1:
            raise SoundError(f"sound {path}: its header says {self.channels} channels at {self.rate_hz} Hz")
        self._frame = self.channels * self._bits // 8
        begin = file.tell()
        there = file.seek(0, 2) - begin
        file.seek(begin)
        self._left = min(size, there) // self._frame
        self.seconds = self._left / self.rate_hz

    def read(self, count: int) -> Samples:
        data = self._file.read(min(count, self._left) * self._frame)
        frames = len(data) // self._frame
        self._left -= frames
        return _mono(_decode(data[: frames * self._frame], self._bits, self._float).reshape(frames, self.channels))

    def close(self) -> None:
        self._file.close()

    def _find_data(self) -> tuple[tuple[int, int, int, int], int]:
        layout = None
        while len(head := self._file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                if layout is None:
                    raise SoundError(f"sound {self._path}: has samples before its format")
                return layout, size
            if name == b"fmt ":
                body = self._file.read(min(size, 64))
                if len(body) < 16:
                    break
                code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                if code == _EXTENSIBLE and len(body) >= 26:
                    (code,) = struct.unpack("<H", body[24:26])
                layout = (code, channels, rate, bits)
                size -= len(body)
            self._file.seek(size + size % 2, 1)
        raise SoundError(f"sound {self._path}: is truncated: there is no data in it")


class _Other:
    """Whatever libsndfile reads."""

    def __init__(self, path: Path) -> None:
        try:
            import soundfile
        except (ImportError, OSError) as exc:
            raise SoundError(
                f"sound {path}: is no WAV; other formats need soundfile: pip install 'distillnet[audio]'"
            ) from exc
        self._path, self._errors = path, soundfile.LibsndfileError
        try:
            self._file: Any = soundfile.SoundFile(path)
        except soundfile.LibsndfileError as exc:
            raise SoundError(f"sound {path}: cannot be decoded: {exc.error_string}") from exc
        self.rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.seconds = len(self._file) / self.rate_hz

    def read(self, count: int) -> Samples:
        try:
            return _mono(self._file.read(count, dtype="float32", always_2d=True))
        except self._errors as exc:
            raise SoundError(f"sound {self._path}: breaks off: {exc.error_string}") from exc

    def close(self) -> None:
        self._file.close()


def _decode(data: bytes, bits: int, is_float: bool) -> NDArray[np.float32]:
    if is_float:
        with np.errstate(over="ignore"):
            return np.frombuffer(data, "<f4" if bits == 32 else "<f8").astype(np.float32)
    if bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / np.float32(128.0)
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").reshape(-1).astype(np.float32) / np.float32(2**31)
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / np.float32(2 ** (bits - 1))


def _mono(samples: NDArray[np.float32]) -> Samples:
    clean = np.where(np.isfinite(samples), samples, np.float32(0.0))
    return clean[:, 0] if clean.shape[1] == 1 else clean.mean(axis=1, dtype=np.float32)
