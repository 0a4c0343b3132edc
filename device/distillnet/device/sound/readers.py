"""Opening and reading sound: a file, a microphone through PortAudio, or a stream (`network.py`).

Readers know nothing of queues or pacing; `feed.py` drives them as it drives cameras.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distillnet.device.config import Source
from distillnet.device.sound.network import NetworkSound, is_network
from distillnet.device.sound.reading import CHUNK_S, RING_S, Piece, SoundReader
from distillnet.device.sound.ring import Ring
from distillnet.engine.log_mel import Samples
from distillnet.engine.sound import SUFFIXES, SoundError, open_sound

_RATES_HZ = (16000, 48000, 44100)


def is_sound(source: Source) -> bool:
    """Tell whether a source is one that is heard."""
    return source.kind in ("sound", "microphone") or (
        source.kind == "auto" and Path(source.url).suffix.lower() in SUFFIXES
    )


def is_heard_live(source: Source) -> bool:
    """Tell whether a source is a stream of sound from the network."""
    return source.kind == "sound" and is_network(source.url)


def open_sound_reader(source: Source, *, read_timeout_s: float = 10.0) -> SoundReader:
    """Open a sound source.

    Raises:
        SoundError: missing, not decodable, no such microphone, no PortAudio, no sample rate it takes, or no stream.

    """
    if source.kind == "microphone":
        return Microphone(source.url, read_timeout_s)
    if is_heard_live(source):
        return NetworkSound(source.url, read_timeout_s)
    return FileReader(Path(source.url))


class FileReader:
    """A sound file, chunk by chunk."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._file = open_sound(path)
        self._chunk = max(1, round(self._file.rate_hz * CHUNK_S))
        self._position = 0

    def read(self) -> Piece | None:
        """See `SoundReader`."""
        started = time.perf_counter()
        samples = self._file.read(self._chunk)
        if len(samples) == 0:
            return None
        position_s = self._position / self._file.rate_hz
        self._position += len(samples)
        return Piece(samples, self._file.rate_hz, position_s, (time.perf_counter() - started) * 1000.0)

    def close(self) -> None:
        """See `SoundReader`."""
        self._file.close()


class Stream(Protocol):
    """What is used of a PortAudio stream."""

    def start(self) -> None:
        """Begin to call back."""

    def close(self) -> None:
        """End."""


OpenStream = Callable[[str, Callable[[Samples, bool], None]], tuple[Stream, int]]
"""Open a device by name and call back with mono samples and whether some were lost; returns the stream and its rate."""


class Microphone:
    """A microphone: the driver's thread fills a ring of ten seconds, the reader takes tenths of a second."""

    def __init__(self, device: str, read_timeout_s: float, open_stream: OpenStream | None = None) -> None:
        """Open `device`: PortAudio's index, a part of its name, or "default"."""
        self._timeout_s = read_timeout_s
        self._ring = Ring(int(RING_S * max(_RATES_HZ)))
        self._stream, self._rate_hz = (open_stream or _portaudio)(device, self._heard)
        self._chunk = round(self._rate_hz * CHUNK_S)
        self._stream.start()

    @property
    def overruns(self) -> int:
        """How often samples were lost, in the driver or in the ring."""
        return self._ring.overruns

    def read(self) -> Piece | None:
        """See `SoundReader`."""
        taken = self._ring.take(self._chunk, self._timeout_s)
        if taken is None:
            return None
        return Piece(taken.samples, self._rate_hz, taken.position / self._rate_hz, 0.0, taken.lost)

    def close(self) -> None:
        """See `SoundReader`."""
        self._stream.close()
        self._ring.close()

    def _heard(self, samples: Samples, overflowed: bool) -> None:
        self._ring.write(samples, 1 if overflowed else 0)


class _PortAudio:
    """A PortAudio stream. The library starts anew while none is open: it keeps the list of devices of its start."""

    _opening = threading.Lock()
    _open = 0

    def __init__(self, device: str, heard: Callable[[Samples, bool], None]) -> None:
        self._library = sounddevice = _library(device)
        with self._opening:
            if _PortAudio._open == 0:
                sounddevice._terminate()  # the binding has no other way to see what was plugged in since
                sounddevice._initialize()
            self._stream, self.rate_hz = _opened(sounddevice, device, heard)
            _PortAudio._open += 1

    def start(self) -> None:
        try:
            self._stream.start()
        except self._library.PortAudioError as exc:
            self.close()
            raise SoundError(f"the microphone does not start: {exc}") from exc

    def close(self) -> None:
        with self._opening:
            _PortAudio._open -= 1
            with contextlib.suppress(self._library.PortAudioError):  # a device that was unplugged
                self._stream.close()


def _portaudio(device: str, heard: Callable[[Samples, bool], None]) -> tuple[Stream, int]:
    stream = _PortAudio(device, heard)
    return stream, stream.rate_hz


def _library(device: str) -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as exc:
        raise SoundError(
            f"microphone {device!r}: PortAudio is missing ({exc}): apt install libportaudio2; pip install sounddevice"
        ) from exc
    return sounddevice


def _opened(sounddevice: Any, device: str, heard: Callable[[Samples, bool], None]) -> tuple[Any, int]:
    def callback(data: Any, frames: int, when: Any, status: Any) -> None:
        samples = np.asarray(data, np.float32)
        heard(samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0].copy(), bool(status.input_overflow))

    chosen: int | str | None = None if device in ("", "default") else int(device) if device.isdigit() else device
    try:
        found = sounddevice.query_devices(chosen, "input")
    except (ValueError, sounddevice.PortAudioError) as exc:
        names = ", ".join(repr(d["name"]) for d in sounddevice.query_devices() if d["max_input_channels"] > 0)
        raise SoundError(f"microphone {device!r}: {exc}; there are: {names or 'none'}") from exc
    problem: Exception | None = None
    for rate_hz in (*_RATES_HZ, int(found["default_samplerate"])):
        for channels in sorted({1, min(2, int(found["max_input_channels"]))}):
            try:
                stream = sounddevice.InputStream(
                    samplerate=rate_hz, device=chosen, channels=channels, dtype="float32", callback=callback
                )
            except sounddevice.PortAudioError as exc:
                problem = exc
            else:
                return stream, rate_hz
    raise SoundError(f"microphone {device!r}: takes none of {_RATES_HZ} Hz: {problem}")
