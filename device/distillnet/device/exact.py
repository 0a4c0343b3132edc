"""The same pixels from the same video on every machine: for `replay`.

FFmpeg decodes bit for bit alike everywhere, but its colour conversion (libswscale) has SIMD variants that differ by a
level or two between architectures. It chooses when the first frame is converted; for the moment of that one call its
CPU detection is told to find nothing, so that it takes its plain C path. The decoder, opened before, keeps its SIMD.
"""

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from distillnet.device.opencv import cv2

log = logging.getLogger(__name__)

_DETECT = -1
_PLAIN = 0
_lock = threading.Lock()


@contextmanager
def plain_conversion() -> Iterator[None]:
    """Have libswscale choose its C path inside this block; does nothing with an OpenCV that bundles no FFmpeg."""
    force = _force_cpu_flags()
    if force is None:
        yield
        return
    with _lock:
        force(_PLAIN)
        try:
            yield
        finally:
            force(_DETECT)


@cache
def _force_cpu_flags() -> Callable[[int], None] | None:
    """Return `av_force_cpu_flags` of the libavutil that OpenCV's wheel brings."""
    for library in sorted((Path(cv2.__file__).parent.parent / "opencv_python_headless.libs").glob("libavutil-*.so*")):
        try:
            function = ctypes.CDLL(str(library)).av_force_cpu_flags
        except (OSError, AttributeError):
            continue
        function.argtypes, function.restype = [ctypes.c_int], None
        return function
    log.debug("OpenCV brings no libavutil: replays may differ between architectures")
    return None
