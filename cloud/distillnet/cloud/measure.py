"""How fast the student is beside its teacher, and what a twentieth is here: int8, one thread, in short turns, medians.

A turn is several runs, as a model that is run again and again would do them. With one run each in turn, the student's
caches would be what its teacher's four milliseconds left of them, and on a shared machine what the neighbours left.
"""

import hashlib
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.export import silence, to_int8
from distillnet.cloud.host import machine
from distillnet.cloud.teacher import Pixels, Teacher, normalise
from distillnet.cloud.views import shrink_all
from distillnet.engine import Model, load
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.profile import Profile
from distillnet.engine.profile_networks import CHECKS, whole
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

SECONDS, LEAST_ROUNDS = 3.0, 5
MEASUREMENTS = 3
TURN_SECONDS, LEAST_RUNS = 0.005, 3
CALIBRATION_PICTURES = 12
TEACHER_LIKE, STUDENT_LIKE = CHECKS[:2]


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of one inference. `teacher_ms` is None where the teacher cannot be converted."""

    student_ms: float
    student_litert_ms: float
    teacher_ms: float | None
    teacher_bytes: int
    engine: str
    kernels: str
    machine: str


def int8_teacher(teacher: Teacher, pixels: Pixels, cache: Path) -> bytes | None:
    """Return the teacher as an int8 `.tflite` at its own resolution, from the cache when it was made before.

    Args:
        teacher: with a module; a black box gives None.
        pixels: uint8 (N, H, W, 3), to calibrate with.
        cache: the folder of what can be made again.

    """
    if teacher.module is None:
        return None
    side = teacher.native_resolution
    kept = cache / "int8-teachers" / f"{teacher.digest.removeprefix('sha256:')[:32]}-{side}.tflite"
    if kept.is_file():
        return kept.read_bytes()
    chosen = pixels[:: max(1, len(pixels) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    try:
        model = to_int8(teacher.module, normalise(shrink_all(chosen, side), teacher.mean, teacher.scale))
    except ConfigError:
        return None  # a teacher that cannot be converted can still teach; the report then has no speedup
    write_whole(kept, model)
    return model


def compare_speed(student: bytes, teacher: bytes | None) -> Speed:
    """Time the student in the engine and in LiteRT, and the teacher in LiteRT, in turns."""
    ours, peer = load(student, "auto"), _in_litert(student)
    models: list[Model] = [ours, peer]
    if teacher is not None:
        models.append(_in_litert(teacher))
    # Of some measurements the middle one: what disturbs the teacher alone makes its student look faster.
    measured = sorted((_in_turns(models) for _ in range(MEASUREMENTS)), key=lambda medians: medians[-1] / medians[0])
    medians = measured[MEASUREMENTS // 2]
    return Speed(
        student_ms=medians[0],
        student_litert_ms=medians[1],
        teacher_ms=medians[2] if teacher is not None else None,
        teacher_bytes=len(teacher) if teacher is not None else 0,
        engine=ours.info["engine"],
        kernels=ours.info["kernels"],
        machine=machine(),
    )


def litert_ratio(board: Profile, cache: Path) -> float:
    """Return how long LiteRT takes on this machine over what a table says, for a network of the teacher's shape.

    This machine's time is the table's where both are of a network of a student's size. Measured once,
    then kept in `cache`.
    """
    student, student_layers = whole(STUDENT_LIKE)
    ours = load(student, "auto")
    of = f"{machine()} {ours.info['kernels']} {board.model_dump_json()}"
    name = hashlib.sha256(of.encode()).hexdigest()[:32]
    kept = cache / "litert-ratios" / name
    with suppress(OSError, ValueError):  # none yet, or a damaged one
        return float(kept.read_text(encoding="ascii"))
    teacher, teacher_layers = whole(TEACHER_LIKE)
    models = _in_litert(teacher), ours
    # The least of some: what disturbs the teacher's turns would allow the student more than a twentieth.
    slower = min(teacher_ms / student_ms for teacher_ms, student_ms in (_in_turns(models) for _ in range(MEASUREMENTS)))
    ratio = slower * board.network_ms(student_layers) / board.network_ms(teacher_layers)
    write_whole(kept, f"{ratio:.4g}\n".encode())
    return ratio


def _in_litert(model: bytes) -> LiteRTModel:
    with silence():  # it says how it will compute
        return LiteRTModel(model)


def _in_turns(models: Sequence[Model]) -> list[float]:
    """Return the median milliseconds of each, on inputs of noise."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, model.info["input"]["shape"], dtype=np.int8) for model in models]
    times: list[list[float]] = [[] for _ in models]
    end, rounds = time.monotonic() + SECONDS, 0
    while rounds < LEAST_ROUNDS or time.monotonic() < end:
        for model, x, spent in zip(models, inputs, times, strict=True):
            spent += _turn(model, x)
        rounds += 1
    return [statistics.median(spent) for spent in times]


def _turn(model: Model, x: NDArray[np.int8]) -> list[float]:
    """Run a model for a while; returns the milliseconds of each run."""
    spent: list[float] = []
    while len(spent) < LEAST_RUNS or sum(spent) < 1e3 * TURN_SECONDS:
        begun = time.perf_counter()
        model.run_tensor(x)
        spent.append((time.perf_counter() - begun) * 1e3)
    return spent
