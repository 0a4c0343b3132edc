"""Pictures of a video file or a network stream: decoded by PyAV where that is installed, else by OpenCV.

Both bring FFmpeg; PyAV hands out its YUV, where OpenCV makes BGR of every picture, a third of the work. It comes with
the extra `video` alone, and not with the Debian package. Either is loaded when the first video is opened.
"""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from distillnet.device.exact import plain_conversion
from distillnet.device.opencv import cv2
from distillnet.engine.preprocess import Frame as Pixels

_SMALL_PIXELS = 1280 * 720
"""Pictures up to here are decoded by one thread: that takes less, and none waits for those after it, as FFmpeg's
threads have them do."""


class Video(Protocol):
    """An open video. None of its calls may run beside another."""

    codec: str
    """FFmpeg's name of it."""
    fps: float
    """Pictures a second; 0 = not known."""

    def grab(self) -> float | None:
        """Go on to the next picture, blocking until it is there.

        Returns:
            Its time stamp, seconds from the stream's beginning, 0 where it has none; None = the end, or a break.

        """

    def retrieve(self) -> Pixels | None:
        """Return the pixels of what was grabbed last; None = it is broken."""

    def close(self) -> None:
        """Close it; pixels that were returned stay."""


def open_video(url: str, timeouts_s: tuple[float, float] | None = None, *, exact: bool = False) -> Video:
    """Open a file or a stream.

    Args:
        url: a path, or what FFmpeg understands.
        timeouts_s: of opening, and of waiting for the next picture; None = a file, which needs none.
        exact: the same pixels on every machine, by OpenCV a little slower.

    Raises:
        OSError: it cannot be opened, or has no pictures that can be decoded.

    """
    if find_spec("av") is not None:
        from distillnet.device.ffmpeg import Decoder

        return Decoder(url, timeouts_s, _SMALL_PIXELS)
    return _Capture(url, timeouts_s, exact)


class _Capture:
    """By OpenCV."""

    def __init__(self, url: str, timeouts_s: tuple[float, float] | None, exact: bool) -> None:
        options: list[int] = []
        if timeouts_s is not None:
            open_ms, read_ms = (int(seconds * 1000) for seconds in timeouts_s)
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        self._capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1, *options])
        if self._get(cv2.CAP_PROP_FRAME_WIDTH) * self._get(cv2.CAP_PROP_FRAME_HEIGHT) > _SMALL_PIXELS:
            self._capture.release()
            self._capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise OSError(f"{url} has no pictures that can be decoded")
        self.codec = "mjpeg" if int(self._get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG") else ""
        self.fps = self._get(cv2.CAP_PROP_FPS)
        self._exact = exact

    def grab(self) -> float | None:
        return self._get(cv2.CAP_PROP_POS_MSEC) / 1000.0 if self._capture.grab() else None

    def retrieve(self) -> Pixels | None:
        if self._exact:
            with plain_conversion():
                good, pixels = self._capture.retrieve()
            self._exact = False  # it is chosen with the first frame
        else:
            good, pixels = self._capture.retrieve()
        if not good or pixels is None:
            return None
        return np.asarray(pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)

    def close(self) -> None:
        self._capture.release()

    def _get(self, what: int) -> float:
        return float(self._capture.get(what))
