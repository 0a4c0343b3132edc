"""`distillnet snapshot`: one picture of a source with its zones drawn in, and what the student makes of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillnet.device.config import Source
from distillnet.device.opencv import bgr, cv2
from distillnet.device.readers import Picture, SourceError, open_reader, read
from distillnet.device.sound.reading import Piece
from distillnet.engine import Zone
from distillnet.engine.preprocess import Frame as Pixels
from distillnet.engine.student import Student
from distillnet.proto.strict import ConfigError

_GREEN = (0, 220, 0)


def take(source: Source, *, skip: int = 0) -> NDArray[np.uint8]:
    """Read one picture, uint8 (H, W, 3) BGR, after skipping some (cameras need a few to adapt to the light).

    Raises:
        ConfigError: the source cannot be opened, or gives none.

    """
    try:
        reader = open_reader(source, read_timeout_s=5.0)
    except SourceError as exc:
        raise ConfigError(str(exc)) from exc
    try:
        picture: Picture | None = None
        for _ in range(skip + 1):
            got = read(reader)
            if isinstance(got, Piece):
                raise ConfigError(f"source {source.id!r} is heard; a snapshot needs one that is seen")
            picture = got or picture
    finally:
        reader.close()
    if picture is None:
        raise ConfigError(f"source {source.id!r} opens but gives no picture")
    return bgr(picture.pixels)


def scores(pixels: Pixels, source: Source, student: Student) -> dict[str, dict[str, float]]:
    """Return the scores of each zone (`""` = the whole picture) by output name."""
    zones: list[tuple[str, Zone | None]] = [(zone.name, zone.box) for zone in source.zones] or [("", None)]
    labels = student.card.labels
    return {
        name: dict(zip(labels, (round(float(score), 4) for score in student.scores(pixels, box)), strict=True))
        for name, box in zones
    }


def save(pixels: NDArray[np.uint8], source: Source, path: Path) -> None:
    """Write the picture with its zones drawn in; the format follows the file's ending.

    Raises:
        ConfigError: the file cannot be written.

    """
    drawn = np.array(pixels)
    height, width = drawn.shape[:2]
    for zone in source.zones:
        left, top, right, bottom = zone.box
        corner = (int(left * width), int(top * height))
        cv2.rectangle(drawn, corner, (int(right * width) - 1, int(bottom * height) - 1), _GREEN, 2)
        cv2.putText(drawn, zone.name, (corner[0] + 4, corner[1] + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _GREEN, 2)
    try:
        good = cv2.imwrite(str(path), drawn)
    except cv2.error as exc:
        raise ConfigError(f"{path}: OpenCV writes no such format (use .jpg or .png)") from exc
    if not good:
        raise ConfigError(f"{path}: cannot be written")
