"""From a camera frame to a student's input tensor: crop, resize, colour, normalise, quantise.

`image_tensor` does it in C, in one pass over the frame (device/csrc/image.c); `reference_tensor` is the definition, in
NumPy. Both are in whole numbers, so every machine gives the same bits, within one step of OpenCV's INTER_AREA and
INTER_LINEAR. `Preparation` is what is the same for every frame of a source. Called by `Student`.

A frame says by its shape, as in OpenCV, what it is: uint8 (H, W, 3) BGR; (H, W, 2) YUYV, W even; (3 H / 2, W) NV12, H
and W even: H rows of Y, then H / 2 of U and V in turns. Decoders give `Planes`. YUV is BT.601 with limited range.
Packed YUV becomes BGR before it is resized; of `Planes` each is resized by itself and becomes BGR afterwards, which is
less work and differs by a level or two.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillnet.engine import _engine
from distillnet.engine.backend import ModelError, Tensor, Zone
from distillnet.proto.card import ImageInput

Buffer = Any
"""Bytes: whatever has the buffer protocol."""


class Planes(NamedTuple):
    """A frame in YUV 4:2:0 as decoders give it: their memory, whole rows, which may be longer than `width`."""

    y: Buffer
    """`height` rows."""
    u: Buffer
    """Half as many rows of half the width."""
    v: Buffer
    """As `u`."""
    height: int
    """Even, as `width` is."""
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 1): the sides, and how many values of a pixel lie side by side, as of other frames."""
        return self.height, self.width, 1

    @property
    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Views of Y (H, W), U and V (H / 2, W / 2)."""
        height, width = self.height // 2, self.width // 2
        return _rows(self.y, self.height, self.width), _rows(self.u, height, width), _rows(self.v, height, width)


Frame = NDArray[np.uint8] | Planes
Scores = NDArray[np.float32]
Weights = NDArray[np.float64]

_BYTE = np.dtype(np.uint8)
_COLOURS = {"bgr": 0, "rgb": 1, "grey": 2}  # dn_colour
_BGR, _YUYV, _NV12, _PLANES = range(4)  # dn_layout
_EQUAL: Weights = np.ones(256)
_FRAMES = "(H, W, 3) BGR, (H, even W, 2) YUYV, (3 H / 2, W) NV12 or Planes of even sides"
BLACK, WHITE = 16, 235
"""Of Y."""
_YUV = np.array(
    [[1220542, 2116026, 0], [1220542, -409993, -852492], [1220542, 0, 1673527]], np.int64
)  # B, G, R in 1/2^20
_GREY = np.array([3735, 19235, 9798], np.int64)  # BT.601 luma of B, G, R in 1/32768, as OpenCV's


def image_tensor(
    frame: Frame, spec: ImageInput, scale: float, zero_point: int, zone: Zone | None = None
) -> NDArray[np.int8]:
    """Turn a frame into a student's input.

    Args:
        frame: uint8, BGR, YUYV, NV12 or planes, see above.
        spec: what the student wants.
        scale: of the input's quantisation, real = (q - zero_point) * scale.
        zero_point: of the input's quantisation.
        zone: left, top, right, bottom as fractions of the frame; None = all of it.

    Returns:
        int8 (1, spec.height, spec.width, 3 | 1).

    Raises:
        ModelError: not such a frame, a zone outside it, or more than 2^23 pixels.

    """
    return Preparation(frame.shape, [zone], spec, scale, zero_point).fill(contiguous(frame), 0)


def contiguous(frame: Frame) -> Frame:
    """Return a frame as the C engine takes it.

    Raises:
        ModelError: it is not of bytes.

    """
    if isinstance(frame, Planes):
        return frame
    if frame.dtype != _BYTE:
        raise ModelError(f"a frame must be uint8 {_FRAMES}; got {frame.dtype} {frame.shape}")
    return frame if frame.flags.c_contiguous else np.ascontiguousarray(frame)


class Preparation:
    """How frames of one size become a student's input, zone by zone, and its output scores.

    Worked out once, used with every frame. `zones` is how many; `tensor` int8 (1, H, W, C) is the room for one input:
    one thread at a time. `view` is the same for the C engine.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        zones: Sequence[Zone | None],
        spec: ImageInput,
        scale: float,
        zero_point: int,
        weights: Weights = _EQUAL,
    ) -> None:
        """Prepare for frames of `shape`.

        Args:
            shape: of the frames.
            zones: what to look at; None = all of the frame.
            spec: what the student wants.
            scale: of the input's quantisation, real = (q - zero_point) * scale.
            zero_point: of the input's quantisation.
            weights: see `scores_of`.

        Raises:
            ModelError: not the shape of a frame.

        """
        layout, height, width = _layout(shape)
        crops = [zone_box(width, height, zone) for zone in zones]
        boxes = np.array([(*crop, _uses_area(spec, crop)) for crop in crops], np.int32)
        self.zones = len(crops)
        self.weights = weights
        self.tensor = np.empty((1, spec.height, spec.width, 1 if spec.colour == "grey" else 3), np.int8)
        table = _quantisation_table(spec.mean, spec.scale, scale, zero_point)
        size, colour = (spec.height, spec.width), _COLOURS[spec.colour]
        self.view = _engine.View(layout, (height, width), boxes, size, colour, table, weights)

    def fill(self, frame: Frame, zone: int) -> NDArray[np.int8]:
        """Put one zone of a contiguous frame into `tensor`, and return that.

        Raises:
            ModelError: a zone outside the frame, or more than 2^23 pixels.

        """
        try:
            self.view.fill(frame, zone, self.tensor)
        except ValueError as exc:
            raise ModelError(str(exc)) from None
        return self.tensor

    def run_zones(
        self, frame: Frame, run: Callable[[NDArray[np.int8]], Tensor]
    ) -> tuple[list[list[float]], float, float]:
        """Fill and `run` zone after zone, for engines that do not do it in one call; see `Model.look`."""
        outputs, marks = [], [time.perf_counter()]
        for zone in range(self.zones):
            tensor = self.fill(frame, zone)
            marks.append(time.perf_counter())
            outputs.append(run(tensor))
            marks.append(time.perf_counter())
        spent = np.diff(marks) * 1000.0
        scores = scores_of(np.concatenate(outputs), self.weights).tolist()
        return scores, float(spent[::2].sum()), float(spent[1::2].sum())


def scores_of(outputs: NDArray[np.int8], weights: Weights) -> Scores:
    """Turn logits into scores.

    Args:
        outputs: int8 (n, …), K+1 logits of each of n inputs.
        weights: exp(-d) for each distance d of a logit from the largest one, float64 (256,).

    Returns:
        float32 (n, K+1), 0–1, the sum of each row 1.

    """
    rows = len(outputs)
    scores: Scores = np.empty((rows, outputs.size // rows), np.float32)
    _engine.shares(outputs, outputs.size // rows, weights, scores)
    return scores


def reference_tensor(
    frame: Frame, spec: ImageInput, scale: float, zero_point: int, zone: Zone | None = None
) -> NDArray[np.int8]:
    """Do what `image_tensor` does, by its definition; slow."""
    if isinstance(frame, Planes):
        box = zone_box(frame.shape[1], frame.shape[0], zone)
        halves = (box[0] // 2, box[1] // 2, (box[2] + 1) // 2, (box[3] + 1) // 2)
        area = _uses_area(spec, box)
        parts = [_resized(part, at, spec, area) for part, at in zip(frame.arrays, (box, halves, halves), strict=True)]
        pixels = _bgr(np.dstack(parts)).astype(np.int64)
    else:
        frame = to_bgr(frame)
        box = zone_box(frame.shape[1], frame.shape[0], zone)
        pixels = _resized(frame, box, spec, _uses_area(spec, box))
    if spec.colour == "rgb":
        pixels = pixels[..., ::-1]
    elif spec.colour == "grey":
        pixels = ((pixels @ _GREY + (1 << 14)) >> 15)[..., np.newaxis]
    tensor: NDArray[np.int8] = _quantisation_table(spec.mean, spec.scale, scale, zero_point)[pixels][np.newaxis]
    return tensor


def _resized(
    part: NDArray[np.uint8], box: tuple[int, int, int, int], spec: ImageInput, area: bool
) -> NDArray[np.int64]:
    """Return a crop of (H, W) or (H, W, C) in the size that `spec` wants: means, rounded half up."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    weights, denominator = (_overlaps, width * height) if area else (_distances, 4 * spec.width * spec.height)
    down, across = weights(height, spec.height), weights(width, spec.width)
    crop = part[top:bottom, left:right].astype(np.int64)
    sums = np.einsum("yi,ij...,xj->yx...", down, crop, across, optimize=True)
    means: NDArray[np.int64] = (sums + denominator // 2) // denominator
    return means


def to_bgr(frame: Frame) -> NDArray[np.uint8]:
    """Turn a frame of any layout into uint8 (H, W, 3), BGR.

    Raises:
        ModelError: not such a frame.

    """
    layout, height, width = _layout(frame.shape)
    if isinstance(frame, Planes):
        y, u, v = frame.arrays
        colours = np.dstack((u, v)).repeat(2, axis=0)
    elif layout == _BGR:
        return frame
    elif layout == _YUYV:
        y, colours = frame[..., 0], frame.reshape(height, width // 2, 4)[..., 1::2]
    else:
        y, colours = frame[:height], frame[height:].reshape(height // 2, width // 2, 2).repeat(2, axis=0)
    return _bgr(np.dstack([y, colours.repeat(2, axis=1)]))


def _bgr(yuv: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Turn (H, W, 3) of 0–255 into BGR."""
    shifted = np.maximum(yuv.astype(np.int64) - (BLACK, 128, 128), (0, -128, -128))
    bgr: NDArray[np.uint8] = np.clip((shifted @ _YUV.T + (1 << 19)) >> 20, 0, 255).astype(np.uint8)
    return bgr


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return dn_layout, height and width of a frame of this shape."""
    if len(shape) == 3 and shape[2] == 3:
        return _BGR, shape[0], shape[1]
    if len(shape) == 3 and shape[2] == 2 and shape[1] % 2 == 0:
        return _YUYV, shape[0], shape[1]
    if len(shape) == 3 and shape[2] == 1 and shape[0] % 2 == 0 and shape[1] % 2 == 0:
        return _PLANES, shape[0], shape[1]
    if len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0:
        return _NV12, shape[0] // 3 * 2, shape[1]
    raise ModelError(f"a frame must be uint8 {_FRAMES}; got {shape}")


def _rows(plane: Buffer, height: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(height, -1)[:, :width]


def zone_box(width: int, height: int, zone: Zone | None) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in pixels, at least one pixel wide and high."""
    if zone is None:
        return 0, 0, width, height
    left, top = min(int(zone[0] * width), width - 1), min(int(zone[1] * height), height - 1)
    return left, top, max(left + 1, round(zone[2] * width)), max(top + 1, round(zone[3] * height))


def crop(frame: NDArray[np.uint8], zone: Zone | None) -> NDArray[np.uint8]:
    """Return the view of a frame (H, W, …) inside a zone, at least one pixel wide and high."""
    left, top, right, bottom = zone_box(frame.shape[1], frame.shape[0], zone)
    return frame[top:bottom, left:right]


def _uses_area(spec: ImageInput, box: tuple[int, int, int, int]) -> bool:
    """Overlaps when shrinking, distances otherwise."""
    shrinking = box[3] - box[1] >= spec.height and box[2] - box[0] >= spec.width
    return spec.resize == "area" and shrinking


def _overlaps(size: int, out: int) -> NDArray[np.int64]:
    """Weights (out, size) over `size`: source pixel i covers [i, i+1)·out, output pixel x covers [x, x+1)·size."""
    i, x = np.arange(size), np.arange(out)[:, np.newaxis]
    overlap: NDArray[np.int64] = np.minimum((i + 1) * out, (x + 1) * size) - np.maximum(i * out, x * size)
    return np.maximum(overlap, 0)


def _distances(size: int, out: int) -> NDArray[np.int64]:
    """Weights (out, size) over 2·out: the centre of x lies at (2x+1)·size / (2·out) - 1/2; the border is repeated."""
    weights = np.zeros((out, size), np.int64)
    for x in range(out):
        low, part = divmod((2 * x + 1) * size - out, 2 * out)
        weights[x, max(low, 0)] += 2 * out - part
        weights[x, min(low + 1, size - 1)] += part
    return weights


@lru_cache(maxsize=16)
def _quantisation_table(mean: float, divisor: float, scale: float, zero_point: int) -> NDArray[np.int8]:
    """Tensor value of each pixel value, int8 (256,): round half even of (pixel - mean) / divisor / scale, clamped."""
    real = (np.arange(256, dtype=np.float32) - np.float32(mean)) / np.float32(divisor)
    quantised = np.round(real / np.float32(scale)) + zero_point
    table: NDArray[np.int8] = np.clip(quantised, -128, 127).astype(np.int8)
    return table
