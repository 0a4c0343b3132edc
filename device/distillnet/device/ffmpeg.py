"""FFmpeg by way of PyAV: pictures are left in the decoder's YUV where the engine takes it, and decoded by one thread.

What the engine does not take (full range, 4:2:2, ten bits, odd sides, turned pictures) becomes BGR, by libswscale in
its bit-exact form: the same pixels on every machine.
"""

import logging
from collections.abc import Generator

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.preprocess import Planes

log = logging.getLogger(__name__)

_OPTIONS = {"rtsp_flags": "prefer_tcp"}


class Decoder:
    """An open video: see `distillnet.device.video.Video`."""

    def __init__(self, url: str, timeouts_s: tuple[float, float] | None, small_pixels: int) -> None:
        """See `open_video`; pictures of up to `small_pixels` are decoded by one thread."""
        try:
            self._container = av.open(url, options=_OPTIONS, metadata_errors="replace", timeout=timeouts_s)
        except (av.FFmpegError, ValueError) as exc:
            raise OSError(str(exc)) from exc
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            self._container.close()
            raise OSError(f"{url} has no pictures that can be decoded")
        self._stream = stream
        context = stream.codec_context
        small = context.width * context.height <= small_pixels
        context.thread_count, context.thread_type = (1, "NONE") if small else (0, "AUTO")
        self.codec = context.codec.name
        self.fps = float(stream.average_rate or 0)
        self._tick_s = float(stream.time_base or 0)
        self._begin = stream.start_time or 0
        self._frames = self._decoded()
        self._frame: av.VideoFrame | None = None
        self._turned = 0
        """Quarters to the left by which pictures are to be turned; known with the first one."""
        self._taken: bool | None = None
        """Whether the engine may take the planes as they are, but for their format; known with the first picture."""
        self._reformatter = VideoReformatter()

    def grab(self) -> float | None:
        """See `Video.grab`."""
        self._frame = next(self._frames, None)
        if self._frame is None:
            return None
        stamp = self._frame.pts
        return 0.0 if stamp is None else (stamp - self._begin) * self._tick_s

    def retrieve(self) -> Pixels | None:
        """See `Video.retrieve`: planes of the decoder's memory, or BGR."""
        frame = self._frame
        if frame is None:
            return None
        if self._taken is None:
            self._turned = round(frame.rotation / 90)
            upright = self._turned == 0 and all(plane.line_size > 0 for plane in frame.planes)
            self._taken = upright and frame.color_range != ColorRange.JPEG
        if self._taken and frame.format.name == "yuv420p" and not (frame.width | frame.height) & 1:
            y, u, v = frame.planes
            return Planes(y, u, v, frame.height, frame.width)
        pixels = self._in_bgr(frame)
        return np.ascontiguousarray(np.rot90(pixels, self._turned)) if self._turned else pixels

    def close(self) -> None:
        """See `Video.close`."""
        self._frames.close()
        self._container.close()

    def _decoded(self) -> Generator[av.VideoFrame]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.FFmpegError as exc:  # the next ones may be whole
                    log.debug("a broken picture: %s", exc)
        except av.FFmpegError as exc:
            log.debug("the stream ends: %s", exc)

    def _in_bgr(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        plain = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        matrix = Colorspace.ITU601
        converted = self._reformatter.reformat(
            frame, format="bgr24", src_colorspace=matrix, dst_colorspace=matrix, interpolation=plain, threads=1
        )
        return np.asarray(converted.to_ndarray(), np.uint8)
