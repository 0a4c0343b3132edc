"""The networks that the engine's benchmarks run, found or made: a student, EfficientNet-Lite0@224, public ones."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
MADE = ROOT / "build" / "bench-models"


def all_models() -> list[Path]:
    """A student, the teacher and every int8 model in DISTILLNET_DATA/models, where that folder is."""
    data = Path(os.environ.get("DISTILLNET_DATA", ROOT.parent / "shared" / "data"))
    return [student(), efficientnet_lite0(), *sorted((data / "models").glob("*int8.tflite"))]


def student() -> Path:
    """The demo's last student in this tree; else one of MobileNetV2-0.35's shape at 128×128, its weights by chance."""
    demo = ROOT / ".demo" / "first" / "student.tflite"
    return demo if demo.is_file() else _made("student.tflite", _student)


def efficientnet_lite0() -> Path:
    """The teacher in int8 at 224×224, calibrated on noise: speed does not depend on it."""
    return _made("efficientnet_lite0_224_int8.tflite", _efficientnet_lite0)


def _made(name: str, make: Callable[[], bytes]) -> Path:
    from distillnet.cloud.places import write_whole

    if not (MADE / name).is_file():
        write_whole(MADE / name, make())
    return MADE / name


def _student() -> bytes:
    import torch

    from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape
    from distillnet.cloud.export import to_int8

    torch.manual_seed(0)
    # Channels out, repeats, stride, expansion: the table of MobileNetV2 (Sandler et al. 2018) at 0.35.
    blocks, into = [], 16
    for out, repeats, first, expansion in [
        (8, 1, 1, 1), (8, 2, 2, 6), (16, 3, 2, 6), (24, 4, 2, 6), (32, 3, 1, 6), (56, 3, 2, 6), (112, 1, 1, 6)
    ]:  # fmt: skip
        for repeat in range(repeats):
            stride = first if repeat == 0 else 1
            residual = stride == 1 and into == out
            blocks.append(BlockShape(into, into * expansion, out, 3, stride, expansion > 1, residual))
            into = out
    network = Classifier(CoreNet(CoreShape(16, tuple(blocks), 1280)), 1280, 12)
    return to_int8(network, torch.randn(4, 3, 128, 128))


def _efficientnet_lite0() -> bytes:
    from distillnet.cloud.application import TeacherSection
    from distillnet.cloud.export import to_int8
    from distillnet.cloud.teacher import load, normalise

    teacher = load(TeacherSection(), ROOT)
    assert teacher.module is not None
    noise = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    return to_int8(teacher.module, normalise(noise, teacher.mean, teacher.scale))
