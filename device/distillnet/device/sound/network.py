"""Sound from the network: raw PCM over TCP or UDP, and whatever `ffmpeg` can open (the sound of an RTSP camera).

A thread fills a ring of ten seconds, as a microphone's driver does, so that a late reader loses nothing and a lost
connection is seen as the end of the stream; the feed then opens it anew, with backoff.
"""

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from distillnet.device.config import without_login
from distillnet.device.sound.reading import CHUNK_S, RING_S, Piece
from distillnet.device.sound.ring import Ring, Taken
from distillnet.engine.log_mel import Samples
from distillnet.engine.sound import SoundError

RATE_HZ = 16000
"""What ffmpeg is asked for, and what a PCM stream has that does not say."""
_PCM = ("tcp", "udp")
_DECODED = ("rtsp", "rtsps", "rtmp", "http", "https", "srt")
_FORMATS = {"s16le": "<i2", "s16be": ">i2", "f32le": "<f4"}
_FULL_SCALE = 32768.0
_READ_BYTES = 1 << 16
_END_S = 2.0


def is_network(url: str) -> bool:
    """Tell whether a url names a stream rather than a file."""
    return url.partition("://")[0] in (*_PCM, *_DECODED)


class _Bytes(Protocol):
    """Where bytes come from."""

    def read(self) -> bytes:
        """Return some, blocking; none at the end."""

    def close(self) -> None:
        """End; a blocked `read` returns. What went wrong is in `reason`."""

    reason: str


class NetworkSound:
    """An open stream. `url`: `tcp://HOST:PORT` (connect), `udp://ADDRESS:PORT` (listen), or one for ffmpeg.

    Raw PCM is described by the query: `?rate_hz=48000&channels=2&format=s16be`; without it 16 kHz, mono, s16le.
    """

    def __init__(self, url: str, read_timeout_s: float) -> None:
        """Open it and wait for its first samples.

        Raises:
            SoundError: nothing comes within the time, a broken description, or ffmpeg is missing.

        """
        self._timeout_s = read_timeout_s
        self.rate_hz, channels, dtype = pcm_format(url)
        self._source: _Bytes = _Socket(url, read_timeout_s) if _is_pcm(url) else _Ffmpeg(url)
        self._ring = Ring(int(RING_S * self.rate_hz))
        self._chunk = round(self.rate_hz * CHUNK_S)
        self._thread = threading.Thread(target=self._fill, args=(channels, dtype), name="sound", daemon=True)
        self._thread.start()
        self._first: Taken | None = self._ring.take(self._chunk, read_timeout_s)
        if self._first is None:
            reason = self._source.reason or f"no sound in {read_timeout_s:g} s"  # before closing gives one of its own
            self.close()
            raise SoundError(f"stream {without_login(url)}: {reason}")

    def read(self) -> Piece | None:
        """See `SoundReader`."""
        taken = self._first or self._ring.take(self._chunk, self._timeout_s)
        self._first = None
        if taken is None:
            return None
        return Piece(taken.samples, self.rate_hz, taken.position / self.rate_hz, 0.0, taken.lost)

    def close(self) -> None:
        """See `SoundReader`."""
        self._source.close()
        self._thread.join(_END_S)

    def _fill(self, channels: int, dtype: str) -> None:
        kept, whole = b"", channels * np.dtype(dtype).itemsize
        while data := self._source.read():
            data = kept + data
            usable = len(data) - len(data) % whole
            kept = data[usable:]
            if usable:
                self._ring.write(_mono(np.frombuffer(data[:usable], dtype), channels))
        self._ring.close()


def _mono(values: np.ndarray, channels: int) -> Samples:
    wide = values.astype(np.float32).reshape(-1, channels)
    if values.dtype.kind == "i":
        wide /= np.float32(_FULL_SCALE)
    wide[~np.isfinite(wide)] = 0.0
    return wide[:, 0] if channels == 1 else wide.mean(axis=1, dtype=np.float32)


def _is_pcm(url: str) -> bool:
    return url.partition("://")[0] in _PCM


def pcm_format(url: str) -> tuple[int, int, str]:
    """Return rate (Hz), channels and NumPy dtype of what a url streams; 16 kHz, mono, s16le where it does not say.

    Raises:
        SoundError: the url of a PCM stream says something that is not understood.

    """
    if not _is_pcm(url):
        return RATE_HZ, 1, _FORMATS["s16le"]
    given = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    where = f"stream {without_login(url)}"
    for key in given:
        if key not in ("rate_hz", "channels", "format"):
            raise SoundError(f"{where}: does not know {key!r}; a PCM stream has rate_hz, channels, format")
    try:
        rate_hz, channels = int(given.get("rate_hz", RATE_HZ)), int(given.get("channels", 1))
    except ValueError as exc:
        raise SoundError(f"{where}: rate_hz and channels are whole numbers") from exc
    if not 4000 <= rate_hz <= 384000 or not 1 <= channels <= 64:
        raise SoundError(f"{where}: expected rate_hz of 4000–384000 and 1–64 channels; got {rate_hz} and {channels}")
    name = given.get("format", "s16le")
    if name not in _FORMATS:
        raise SoundError(f"{where}: format {name!r} is none of {', '.join(_FORMATS)}")
    return rate_hz, channels, _FORMATS[name]


class _Socket:
    def __init__(self, url: str, timeout_s: float) -> None:
        self.reason = ""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port
        except ValueError as exc:
            raise SoundError(f"stream {without_login(url)}: {exc}") from exc
        if port is None or (parts.scheme == "tcp" and not host):
            raise SoundError(f"stream {without_login(url)}: expected tcp://HOST:PORT or udp://ADDRESS:PORT")
        try:
            if parts.scheme == "tcp":
                self._socket = socket.create_connection((host, port), timeout_s)
            else:
                self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
                self._socket.bind((host, port))
                self._socket.settimeout(timeout_s)
        except OSError as exc:
            raise SoundError(f"stream {without_login(url)}: {exc.strerror or exc}") from exc

    def read(self) -> bytes:
        try:
            return self._socket.recv(_READ_BYTES)
        except OSError as exc:
            self.reason = exc.strerror or str(exc)
            return b""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # already gone, or a datagram socket, whose `recv` wakes all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Ffmpeg:
    """`ffmpeg` decoding into a pipe: a process of its own, which a broken stream may take down alone."""

    def __init__(self, url: str, which: Callable[[str], str | None] = shutil.which) -> None:
        program = which("ffmpeg")
        if program is None:
            raise SoundError(f"stream {without_login(url)}: ffmpeg decodes it, and is not there: apt install ffmpeg")
        over_tcp = ["-rtsp_transport", "tcp"] if url.startswith("rtsp") else []
        wanted = ["-vn", "-ac", "1", "-ar", str(RATE_HZ), "-f", "s16le", "pipe:1"]
        command = [program, "-nostdin", "-loglevel", "error", *over_tcp, "-i", url, *wanted]
        self.reason = ""
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read(self) -> bytes:
        assert self._process.stdout is not None and self._process.stderr is not None
        data = self._process.stdout.read1(_READ_BYTES)  # type: ignore[attr-defined]
        if not data:
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self.reason = without_login(said[-1]) if said else ""
        return bytes(data)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
