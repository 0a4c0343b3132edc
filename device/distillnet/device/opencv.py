"""OpenCV, loaded when it is first used: a board that only hears never pays its 16 MB. `from … import cv2`.

It is told to stay within the thread that calls it: the daemon's threads are the daemon's affair.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.preprocess import Planes

if TYPE_CHECKING:
    import cv2
else:

    class _Later:
        """Stands for the module until one of its names is asked for."""

        def __getattr__(self, name: str) -> Any:
            import cv2 as loaded

            if not self.__dict__:
                loaded.setNumThreads(1)
                self.__dict__.update({key: value for key, value in vars(loaded).items() if not key.startswith("__")})
            return getattr(loaded, name)

    cv2 = _Later()

__all__ = ["bgr", "cv2", "jpeg"]


def bgr(pixels: Pixels) -> NDArray[np.uint8]:
    """Return a picture to be shown or kept, uint8 (H, W, 3), of BGR or planes."""
    if not isinstance(pixels, Planes):
        return pixels
    stacked = np.concatenate([plane.reshape(-1) for plane in pixels.arrays]).reshape(-1, pixels.width)
    return np.asarray(cv2.cvtColor(stacked, cv2.COLOR_YUV2BGR_I420), dtype=np.uint8)


def jpeg(pixels: Pixels, quality: int) -> NDArray[np.uint8]:
    """Encode a picture, of BGR or planes; `quality`: 0–100.

    Raises:
        OSError: it cannot be encoded.

    """
    good, encoded = cv2.imencode(".jpg", bgr(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise OSError("the picture cannot be encoded")
    return np.asarray(encoded, dtype=np.uint8)
