"""The teacher as an int8 `.tflite`, kept in the cache: whole, to be timed, and up to its features, to be asked."""

from pathlib import Path

from torch import nn

from distillnet.cloud.export import to_int8
from distillnet.cloud.teacher import Pixels, Teacher, normalise
from distillnet.cloud.views import shrink_all
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

CALIBRATION_PICTURES = 12


def int8_teacher(teacher: Teacher, pixels: Pixels, cache: Path) -> bytes | None:
    """Return the teacher at its native resolution; None for a black box, and where it cannot be converted.

    Args:
        teacher: whose.
        pixels: uint8 (N, H, W, 3), to calibrate with.
        cache: the folder of what can be made again.

    """
    if teacher.module is None:
        return None
    return _kept(teacher, teacher.module, teacher.native_resolution, "", pixels, cache)


def int8_features(teacher: Teacher, pixels: Pixels, cache: Path) -> bytes | None:
    """Return what gives the teacher's features, at the resolution it teaches at; None where there is no such part."""
    if teacher.classifier is None:
        return None
    return _kept(teacher, teacher.classifier.core, teacher.resolution, "-features", pixels, cache)


def _kept(teacher: Teacher, network: nn.Module, side: int, what: str, pixels: Pixels, cache: Path) -> bytes | None:
    kept = cache / "int8-teachers" / f"{teacher.digest.removeprefix('sha256:')[:32]}-{side}{what}.tflite"
    if kept.is_file():
        return kept.read_bytes()
    chosen = pixels[:: max(1, len(pixels) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    try:
        model = to_int8(network, normalise(shrink_all(chosen, side), teacher.mean, teacher.scale))
    except ConfigError:
        return None  # a teacher that cannot be converted can still teach, but slower and without a speedup to report
    write_whole(kept, model)
    return model
