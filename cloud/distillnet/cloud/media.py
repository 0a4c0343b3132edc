"""Pictures and videos as frames: uint8 (H, W, 3) RGB. Unreadable files are errors that name the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from distillnet.proto.strict import ConfigError

Picture = NDArray[np.uint8]

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
VIDEOS = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})


def is_picture(path: Path) -> bool:
    """Tell by the name."""
    return path.suffix.lower() in PICTURES


def is_video(path: Path) -> bool:
    """Tell by the name."""
    return path.suffix.lower() in VIDEOS


def pictures_under(directory: Path) -> list[Path]:
    """Return the pictures in a directory and below, sorted."""
    return sorted(path for path in directory.rglob("*") if is_picture(path) and path.is_file())


def read_picture(path: Path) -> Picture:
    """Read one picture.

    Raises:
        ConfigError: it cannot be read or decoded.

    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as exc:
        raise ConfigError(f"picture {path}: cannot be read: {exc.strerror}") from exc
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise ConfigError(f"picture {path}: cannot be decoded; remove it or replace it")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def count_frames(path: Path) -> int:
    """Count a video's frames by decoding it: containers lie.

    Raises:
        ConfigError: it cannot be opened or holds no frame.

    """
    capture = _open(path)
    frames = 0
    while capture.grab():
        frames += 1
    capture.release()
    if frames == 0:
        raise ConfigError(f"video {path}: holds no frame that can be decoded")
    return frames


def read_frames(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
    """Yield (index, frame) for the wanted frame numbers, ascending, in one pass.

    Raises:
        ConfigError: it cannot be opened.

    """
    remaining = sorted(set(wanted), reverse=True)
    capture = _open(path)
    index = 0
    while remaining and capture.grab():
        if index == remaining[-1]:
            remaining.pop()
            _, frame = capture.retrieve()
            yield index, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        index += 1
    capture.release()


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ConfigError(f"video {path}: cannot be opened; is it a video OpenCV can decode?")
    return capture
