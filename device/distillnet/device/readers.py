"""Opening and reading what a source names: a video file, a directory of pictures, a camera, a stream, a pipeline.

Readers know nothing of threads, queues or pacing; `feed.py` drives them.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from distillnet.device.config import Source
from distillnet.device.opencv import cv2
from distillnet.device.sound.network import pcm_format
from distillnet.device.sound.readers import is_heard_live, is_sound, open_sound_reader
from distillnet.device.sound.reading import Piece, SoundReader
from distillnet.device.stamps import SourceClock
from distillnet.device.video import open_video
from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.sound import SoundError

Kind = Literal["camera", "video", "images", "stream", "pipeline", "microphone", "sound", "sound-stream"]
FINITE: tuple[Kind, ...] = ("video", "images", "sound")
HEARD: tuple[Kind, ...] = ("microphone", "sound", "sound-stream")

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_DEFAULT_PICTURES_PER_S = 10.0
_DEFAULT_FPS = 25.0
_OPEN_TIMEOUT_S = 10.0


class SourceError(Exception):
    """A source cannot be opened or read; the message says which and why."""


@dataclass(slots=True)
class Picture:
    """One picture as read."""

    pixels: Pixels
    position_s: float
    """On the source's own clock: media time of files, seconds since opening of live ones."""
    decode_ms: float
    taken_s: float | None = None
    """`time.monotonic()` when a live source took it; None of files."""


class Reader(Protocol):
    """An open source. What is not wanted is grabbed and not retrieved: its colours are never worked out."""

    def grab(self) -> float | None:
        """Go on to the next picture or piece of sound, blocking until it is there.

        Returns:
            Its position on the source's own clock, seconds; None = the end, or a broken stream.

        """

    def retrieve(self) -> Picture | Piece | None:
        """Return what was grabbed last; None = it is broken."""

    def close(self) -> None:
        """Release the device or file."""


def read(reader: Reader) -> Picture | Piece | None:
    """Return the next picture or piece of sound, blocking until it is there; None = the end, or a broken stream."""
    return None if reader.grab() is None else reader.retrieve()


def kind_of(source: Source) -> Kind:
    """Return what a source is, guessed from its url where the device file does not say."""
    if is_heard_live(source):
        return "sound-stream"
    if source.kind != "auto":
        return source.kind
    url = source.url
    if url.isdigit() or url.startswith("/dev/video"):
        return "camera"
    if re.match(r"^(rtsp|rtsps|rtmp|http|https|udp|tcp)://", url):
        return "stream"
    if " ! " in url:
        return "pipeline"
    if is_sound(source):
        return "sound"
    return "images" if Path(url).is_dir() else "video"


def check(source: Source) -> None:
    """Look whether a source can be used at all: files must be there and readable; cameras and streams may come later.

    Raises:
        SourceError: a file or directory is missing, or holds no pictures; a sound stream's url is not understood.

    """
    kind = kind_of(source)
    if kind in FINITE:
        open_reader(source).close()
    elif kind == "sound-stream":
        try:
            pcm_format(source.url)
        except SoundError as exc:
            raise SourceError(f"source {source.id!r}: {exc}") from exc


def open_reader(source: Source, *, read_timeout_s: float = 10.0, exact: bool = False) -> Reader:
    """Open a source; `exact`: a video gives the same pixels on every machine, where OpenCV decodes a little slower.

    Raises:
        SourceError: missing, no permission, or nothing this can decode.

    """
    kind = kind_of(source)
    if kind in HEARD:
        try:
            return _Sound(open_sound_reader(source, read_timeout_s=read_timeout_s))
        except SoundError as exc:
            raise SourceError(f"source {source.id!r}: {exc}") from exc
    if kind == "images":
        return _Images(source)
    if kind == "video":
        return _VideoFile(source, exact)
    if kind == "stream":
        return _Stream(source, read_timeout_s)
    return _Camera(source, kind)


class _VideoFile:
    def __init__(self, source: Source, exact: bool) -> None:
        path = Path(source.url)
        if not path.is_file():
            raise SourceError(f"source {source.id!r}: video file {path} does not exist")
        try:
            self._video = open_video(str(path), exact=exact)
        except OSError as exc:
            raise SourceError(f"source {source.id!r}: {path} is no video that can be decoded") from exc
        fps = self._video.fps
        self._period_s = 1.0 / fps if 0.1 <= fps <= 1000 else 1.0 / _DEFAULT_FPS
        self._last_s = -self._period_s
        self._grab_ms = 0.0

    def grab(self) -> float | None:
        started = time.perf_counter()
        position_s = self._video.grab()
        if position_s is None:
            return None
        if position_s <= self._last_s:  # containers without usable timestamps
            position_s = self._last_s + self._period_s
        self._last_s = position_s
        self._grab_ms = (time.perf_counter() - started) * 1000.0
        return position_s

    def retrieve(self) -> Picture | None:
        started = time.perf_counter()
        pixels = self._video.retrieve()
        if pixels is None:
            return None
        decode_ms = self._grab_ms + (time.perf_counter() - started) * 1000.0
        return Picture(pixels, self._last_s, decode_ms)

    def close(self) -> None:
        self._video.close()


class _Images:
    def __init__(self, source: Source) -> None:
        directory = Path(source.url)
        if not directory.is_dir():
            raise SourceError(f"source {source.id!r}: directory {directory} does not exist")
        self._paths = sorted(path for path in directory.iterdir() if path.suffix.lower() in _PICTURES)
        if not self._paths:
            raise SourceError(f"source {source.id!r}: directory {directory} holds no pictures")
        self._period_s = 1.0 / (source.rate_hz or _DEFAULT_PICTURES_PER_S)
        self._index = -1

    def grab(self) -> float | None:
        self._index += 1
        return self._index * self._period_s if self._index < len(self._paths) else None

    def retrieve(self) -> Picture | None:
        while self._index < len(self._paths):  # a broken picture is left out, not the end
            started = time.perf_counter()
            pixels = cv2.imread(str(self._paths[self._index]), cv2.IMREAD_COLOR)
            if pixels is not None:
                decode_ms = (time.perf_counter() - started) * 1000.0
                return Picture(_as_bgr(pixels), self._index * self._period_s, decode_ms)
            self._index += 1
        return None

    def close(self) -> None:
        self._paths = []


class _Sound:
    def __init__(self, reader: SoundReader) -> None:
        self._reader = reader
        self._piece: Piece | None = None

    def grab(self) -> float | None:
        self._piece = self._reader.read()
        return None if self._piece is None else self._piece.position_s

    def retrieve(self) -> Piece | None:
        return self._piece

    def close(self) -> None:
        self._reader.close()


class _Stream:
    def __init__(self, source: Source, read_timeout_s: float) -> None:
        try:
            self._video = open_video(source.url, (_OPEN_TIMEOUT_S, read_timeout_s))
        except OSError as exc:
            raise SourceError(f"source {source.id!r}: stream {source.shown_url} cannot be opened") from exc
        self._opened = time.monotonic()
        # FFmpeg invents the stamps of MJPEG over HTTP, at 25 a second: there are none.
        stamped = not (source.url.startswith("http") and self._video.codec == "mjpeg")
        self._clock = SourceClock() if stamped else None
        self._taken_s = 0.0

    def grab(self) -> float | None:
        stamp_s = self._video.grab()
        if stamp_s is None:
            return None
        self._taken_s = time.monotonic()
        if self._clock is not None:
            self._taken_s = self._clock.taken(stamp_s, self._taken_s)
        return self._taken_s - self._opened

    def retrieve(self) -> Picture | None:
        started = time.perf_counter()
        pixels = self._video.retrieve()
        if pixels is None:
            return None
        decode_ms = (time.perf_counter() - started) * 1000.0
        return Picture(pixels, self._taken_s - self._opened, decode_ms, self._taken_s)

    def close(self) -> None:
        self._video.close()


class _Camera:
    def __init__(self, source: Source, kind: Kind) -> None:
        self._capture = _open_capture(source, kind)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"source {source.id!r}: {kind} {source.shown_url} cannot be opened{_hint(source, kind)}")
        self._opened = time.monotonic()
        self._clock = SourceClock()
        self._taken_s = 0.0

    def grab(self) -> float | None:
        if not self._capture.grab():
            return None
        stamp_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
        self._taken_s = self._clock.taken(stamp_s, time.monotonic())
        return self._taken_s - self._opened

    def retrieve(self) -> Picture | None:
        started = time.perf_counter()
        good, pixels = self._capture.retrieve()
        if not good or pixels is None:
            return None
        decode_ms = (time.perf_counter() - started) * 1000.0
        return Picture(_as_bgr(pixels), self._taken_s - self._opened, decode_ms, self._taken_s)

    def close(self) -> None:
        self._capture.release()


def _open_capture(source: Source, kind: Kind) -> "cv2.VideoCapture":
    if kind == "pipeline":
        return cv2.VideoCapture(source.url, cv2.CAP_GSTREAMER)
    device: int | str = int(source.url) if source.url.isdigit() else source.url
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _hint(source: Source, kind: Kind) -> str:
    if kind == "camera" and not source.url.isdigit() and not Path(source.url).exists():
        return ": there is no such device"
    if kind == "pipeline" and "GStreamer:                   YES" not in cv2.getBuildInformation():
        return ": this OpenCV is built without GStreamer (install the distribution's python3-opencv)"
    return ""


def _as_bgr(pixels: np.ndarray) -> Pixels:
    """Return uint8 (H, W, 3) of whatever the decoder gave."""
    return pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
