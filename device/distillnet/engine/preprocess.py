"""From a camera frame to a student's input tensor: crop, resize, colour, normalise, quantise.

This is the documented reference; the native engine does the same in one pass over the frame.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from distillnet.engine.backend import Zone
from distillnet.proto.card import ImageInput

Frame = NDArray[np.uint8]


def image_tensor(
    frame: Frame, spec: ImageInput, scale: float, zero_point: int, zone: Zone | None = None
) -> NDArray[np.int8]:
    """Turn a frame into a student's input.

    Args:
        frame: uint8 (H, W, 3), BGR, 0–255.
        spec: what the student wants.
        scale: of the input's quantisation, real = (q - zero_point) * scale.
        zero_point: of the input's quantisation.
        zone: left, top, right, bottom as fractions of the frame; None = all of it.

    Returns:
        int8 (1, spec.height, spec.width, 3 | 1).

    """
    pixels = resized(crop(frame, zone), spec)
    real = (pixels.astype(np.float32) - spec.mean) / spec.scale
    quantised = np.clip(np.round(real / scale) + zero_point, -128, 127).astype(np.int8)
    return quantised.reshape(1, spec.height, spec.width, -1)


def crop(frame: Frame, zone: Zone | None) -> Frame:
    """Return the view of a frame inside a zone, at least one pixel wide and high."""
    if zone is None:
        return frame
    height, width = frame.shape[:2]
    left, top = int(zone[0] * width), int(zone[1] * height)
    right, bottom = max(left + 1, round(zone[2] * width)), max(top + 1, round(zone[3] * height))
    return frame[top:bottom, left:right]


def resized(frame: Frame, spec: ImageInput) -> Frame:
    """Return the frame at the student's size and in its colour order; area when shrinking, bilinear otherwise."""
    shrinking = frame.shape[0] >= spec.height and frame.shape[1] >= spec.width
    method = cv2.INTER_AREA if spec.resize == "area" and shrinking else cv2.INTER_LINEAR
    pixels = cv2.resize(frame, (spec.width, spec.height), interpolation=method)
    if spec.colour == "rgb":
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if spec.colour == "grey":
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return pixels
