"""The motion gate: inference is skipped while nothing moves in a zone.

Per zone, the frame is shrunk to a small grey picture and compared with the one before and with a slow background. What
counts as motion adapts to the camera's own noise. The gate stays open for a while after the last motion, so that the
event state machine sees real scores until it has settled, and opens at least every `refresh_s` in any case.
"""

import numpy as np
from numpy.typing import NDArray

from distillnet.device.opencv import cv2
from distillnet.engine import Zone
from distillnet.engine.preprocess import BLACK, WHITE, Planes, crop
from distillnet.engine.preprocess import Frame as Pixels

_WIDTH, _HEIGHT = 32, 24
_MIDDLE = _WIDTH * _HEIGHT // 2
_NOISE_MARGIN = 8.0
"""A cell moves when it changes by more than so many times the median change: 5.4 standard deviations of its noise."""
_LEAST_CHANGE = 4.0
"""Grey levels (0–255) below which no change counts, whatever the noise."""
_MOVING_CELLS = 3
_NOISE_RATE = 0.02
_BACKGROUND_RATE = 0.05


class MotionGate:
    """The gate of one zone of one source. One thread."""

    def __init__(self, *, linger_s: float = 1.0, refresh_s: float = 1.0) -> None:
        """Stay open `linger_s` after motion; open at least every `refresh_s`."""
        self._linger_s = linger_s
        self._refresh_s = refresh_s
        self._before: NDArray[np.float32] | None = None
        self._background: NDArray[np.float32] | None = None
        self._noise = _LEAST_CHANGE / _NOISE_MARGIN
        self._moved_t = float("-inf")
        self._opened_t = float("-inf")

    def opens(self, pixels: Pixels, box: Zone | None, t: float) -> bool:
        """Whether to look at this frame, BGR or planes, at `t` seconds of the source's steady clock."""
        if self._moves(pixels, box):
            self._moved_t = t
        opens = t - self._moved_t <= self._linger_s or t - self._opened_t >= self._refresh_s or t < self._opened_t
        if opens:
            self._opened_t = t
        return opens

    def _moves(self, pixels: Pixels, box: Zone | None) -> bool:
        grey = _grey(pixels, box)
        before, background = self._before, self._background
        self._before = grey
        if before is None or background is None:
            self._background = grey
            return True
        moved = np.abs(grey - before)
        change = np.maximum(moved, np.abs(grey - background))
        self._background = background + _BACKGROUND_RATE * (grey - background)
        limit = max(_LEAST_CHANGE, _NOISE_MARGIN * self._noise)
        # The median stays with the noise as long as less than half of the picture moves.
        low, high = np.partition(moved, (_MIDDLE - 1, _MIDDLE), None)[_MIDDLE - 1 : _MIDDLE + 1].tolist()
        self._noise += _NOISE_RATE * ((low + high) / 2 - self._noise)
        return int(np.count_nonzero(change > limit)) >= _MOVING_CELLS


def _grey(pixels: Pixels, box: Zone | None) -> NDArray[np.float32]:
    """Shrink a zone to a small grey picture, (_HEIGHT, _WIDTH), 0–255 but for a constant."""
    view = crop(pixels.arrays[0] if isinstance(pixels, Planes) else pixels, box)
    step = max(1, min(view.shape[0] // (4 * _HEIGHT), view.shape[1] // (4 * _WIDTH)))
    sampled = np.ascontiguousarray(view[::step, ::step])
    small = cv2.resize(sampled, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    if isinstance(pixels, Planes):
        return np.asarray(small, np.float32) * np.float32(255 / (WHITE - BLACK))
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)
