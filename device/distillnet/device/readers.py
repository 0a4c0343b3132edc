"""Opening and reading what a source names: a video file, a directory of pictures, a camera, a stream, a pipeline.

Readers know nothing of threads, queues or pacing; `feed.py` drives them.
"""

import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from distillnet.device.config import Source
from distillnet.device.exact import plain_conversion
from distillnet.device.opencv import cv2
from distillnet.device.sound.readers import is_heard_live, is_sound, open_sound_reader
from distillnet.device.sound.reading import Piece
from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.sound import SoundError

Kind = Literal["camera", "video", "images", "stream", "pipeline", "microphone", "sound", "sound-stream"]
FINITE: tuple[Kind, ...] = ("video", "images", "sound")
HEARD: tuple[Kind, ...] = ("microphone", "sound", "sound-stream")

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_DEFAULT_PICTURES_PER_S = 10.0
_DEFAULT_FPS = 25.0
_OPEN_TIMEOUT_MS = 10_000


class SourceError(Exception):
    """A source cannot be opened or read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as read."""

    pixels: Pixels
    position_s: float
    """On the source's own clock: media time of files, seconds since opening of live ones."""
    decode_ms: float


class Reader(Protocol):
    """An open source."""

    def read(self) -> Picture | Piece | None:
        """Return the next picture or piece of sound, blocking until it is there; None = the end, or a broken stream."""

    def close(self) -> None:
        """Release the device or file."""


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
        SourceError: a file or directory is missing, or holds no pictures.

    """
    if kind_of(source) in FINITE:
        open_reader(source).close()


def open_reader(source: Source, *, read_timeout_s: float = 10.0, exact: bool = False) -> Reader:
    """Open a source; `exact`: a video gives the same pixels on every machine, a little slower.

    Raises:
        SourceError: missing, no permission, or nothing this can decode.

    """
    kind = kind_of(source)
    if kind in HEARD:
        try:
            return open_sound_reader(source, read_timeout_s=read_timeout_s)
        except SoundError as exc:
            raise SourceError(f"source {source.id!r}: {exc}") from exc
    if kind == "images":
        return _Images(source)
    if kind == "video":
        return _VideoFile(source, exact)
    return _Live(source, kind, read_timeout_s)


class _VideoFile:
    def __init__(self, source: Source, exact: bool) -> None:
        self._exact = exact
        path = Path(source.url)
        if not path.is_file():
            raise SourceError(f"source {source.id!r}: video file {path} does not exist")
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise SourceError(f"source {source.id!r}: {path} is no video that can be decoded")
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._period_s = 1.0 / fps if 0.1 <= fps <= 1000 else 1.0 / _DEFAULT_FPS
        self._last_s = -self._period_s

    def read(self) -> Picture | None:
        started = time.perf_counter()
        if not self._capture.grab():
            return None
        with plain_conversion() if self._exact else nullcontext():
            good, pixels = self._capture.retrieve()
        self._exact = False  # chosen with the first frame
        if not good:
            return None
        position_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
        if position_s <= self._last_s:  # containers without usable timestamps
            position_s = self._last_s + self._period_s
        self._last_s = position_s
        return Picture(_as_bgr(pixels), position_s, (time.perf_counter() - started) * 1000.0)

    def close(self) -> None:
        self._capture.release()


class _Images:
    def __init__(self, source: Source) -> None:
        directory = Path(source.url)
        if not directory.is_dir():
            raise SourceError(f"source {source.id!r}: directory {directory} does not exist")
        self._paths = sorted(path for path in directory.iterdir() if path.suffix.lower() in _PICTURES)
        if not self._paths:
            raise SourceError(f"source {source.id!r}: directory {directory} holds no pictures")
        self._period_s = 1.0 / (source.rate_hz or _DEFAULT_PICTURES_PER_S)
        self._index = 0

    def read(self) -> Picture | None:
        while self._index < len(self._paths):
            started = time.perf_counter()
            position_s = self._index * self._period_s
            path = self._paths[self._index]
            self._index += 1
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if pixels is not None:
                return Picture(_as_bgr(pixels), position_s, (time.perf_counter() - started) * 1000.0)
        return None

    def close(self) -> None:
        self._paths = []


class _Live:
    def __init__(self, source: Source, kind: Kind, read_timeout_s: float) -> None:
        self._capture = _open_live(source, kind, read_timeout_s)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"source {source.id!r}: {kind} {source.shown_url} cannot be opened{_hint(source, kind)}")
        self._opened = time.monotonic()

    def read(self) -> Picture | None:
        if not self._capture.grab():
            return None
        started = time.perf_counter()
        position_s = time.monotonic() - self._opened
        good, pixels = self._capture.retrieve()
        if not good or pixels is None:
            return None
        return Picture(_as_bgr(pixels), position_s, (time.perf_counter() - started) * 1000.0)

    def close(self) -> None:
        self._capture.release()


def _open_live(source: Source, kind: Kind, read_timeout_s: float) -> "cv2.VideoCapture":
    if kind == "camera":
        device: int | str = int(source.url) if source.url.isdigit() else source.url
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
    if kind == "pipeline":
        return cv2.VideoCapture(source.url, cv2.CAP_GSTREAMER)
    options = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        _OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(read_timeout_s * 1000),
    ]
    return cv2.VideoCapture(source.url, cv2.CAP_FFMPEG, options)


def _hint(source: Source, kind: Kind) -> str:
    if kind == "camera" and not source.url.isdigit() and not Path(source.url).exists():
        return ": there is no such device"
    if kind == "pipeline" and "GStreamer:                   YES" not in cv2.getBuildInformation():
        return ": this OpenCV is built without GStreamer (install the distribution's python3-opencv)"
    return ""


def _as_bgr(pixels: np.ndarray) -> Pixels:
    """Return uint8 (H, W, 3) of whatever the decoder gave."""
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
    return np.asarray(pixels, dtype=np.uint8)
