"""Measures a board's profile in the engine, one thread: `distillnet bench --profile`. A minute on a small board.

Every layer is a network of its own, timed by the engine's own clock; medians. Whole networks are timed beside LiteRT,
in turns.
"""

import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from distillnet.engine.backend import Model
from distillnet.engine.bench import cpu_name
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.native import NativeModel
from distillnet.engine.profile import Check, Layer, MeasuredLayer, Profile
from distillnet.engine.profile_networks import CHECKS, Network, one_layer, whole
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

SIDES = (1, 3, 6, 12, 24, 48, 112)
CHANNELS = (8, 16, 32, 64, 128, 256, 512, 1280)
MOST_MACS = 60_000_000
MOST_VALUES = 2_000_000
ROUNDS, LEAST_ROUNDS, SECONDS_PER_LAYER = 60, 7, 0.05
SECONDS_PER_CHECK = 1.0


def grid() -> Iterator[Layer]:
    """Yield the layers of the table."""
    for side in SIDES:
        for into in CHANNELS:
            for out in CHANNELS:
                yield Layer("pointwise", 1, 1, side * side, into, out)
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
            for channels in CHANNELS:
                yield Layer("depthwise", kernel, stride, side * side, channels, channels)
        for out in (8, 16, 32, 64):
            yield Layer("full", 3, 2, side * side, 3, out)


def measurable() -> list[Layer]:
    """Return the layers of the grid that a network of a board's size may have."""
    return [
        layer
        for layer in grid()
        if layer.macs <= MOST_MACS and layer.positions * max(layer.out, layer.into) <= MOST_VALUES
    ]


def measure(board: str, *, layers: Sequence[Layer] | None = None, quiet: bool = True) -> Profile:
    """Measure this machine.

    Args:
        board: the name to give it.
        layers: of the table; None = `measurable()`.
        quiet: show no progress on stderr.

    """
    console = Console(stderr=True, quiet=quiet)
    rows = [
        MeasuredLayer(**layer._asdict(), ms=float(f"{_layer_ms(layer):.4g}"))
        for layer in track(layers or measurable(), "measuring layers", console=console, transient=True)
    ]
    bare = Profile(
        board=board,
        how="measured",
        machine=f"{platform.machine()} {cpu_name()}".strip(),
        kernels=str(NativeModel(one_layer(rows[0].layer)).info["kernels"]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        network_factor=1.0,
        error=0.0,
        checks=[],
        layers=rows,
    )
    checks = [_check(network, bare) for network in track(CHECKS, "checking networks", console=console, transient=True)]
    factor, error = fit([(c.layers_ms, c.measured_ms) for c in checks])
    return bare.model_copy(update={"network_factor": factor, "error": error, "checks": checks})


def fit(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the factor from sums of layers to whole networks, and the largest relative error it leaves."""
    factor = statistics.median(measured / summed for summed, measured in pairs)
    return factor, max(abs(factor * summed / measured - 1) for summed, measured in pairs)


def write(path: Path, profile: Profile) -> None:
    """Write a profile whole or not at all.

    Raises:
        ConfigError: the place cannot be written.

    """
    text = profile.model_dump_json().replace('{"kind"', '\n{"kind"')  # a row a line
    try:
        write_whole(path, f"{text}\n".encode())
    except OSError as exc:
        raise ConfigError(f"profile {path}: cannot be written: {exc.strerror}") from exc


def network_ms(data: bytes, kernels: str) -> float:
    """Return the median time of a `.tflite` with one instruction set, one thread, milliseconds."""
    model = NativeModel(data, kernels=kernels, max_arena_bytes=1 << 30)
    return _medians([model])[0]


def _layer_ms(layer: Layer) -> float:
    model = NativeModel(one_layer(layer), max_arena_bytes=1 << 30)
    x = np.random.default_rng(0).integers(-128, 128, model.info["input"]["shape"]).astype(np.int8)
    times: list[float] = []
    end = time.perf_counter() + SECONDS_PER_LAYER
    while len(times) < LEAST_ROUNDS or (len(times) < ROUNDS and time.perf_counter() < end):
        model.run_tensor(x)
        times.append(sum(part["ms"] for part in model.profile()))
    return max(statistics.median(times), 1e-6)


def _check(network: Network, bare: Profile) -> Check:
    data, layers = whole(network)
    models: tuple[Model, Model] = (NativeModel(data, max_arena_bytes=1 << 30), LiteRTModel(data))
    ours, litert = _medians(models)
    return Check(network=network.name, layers_ms=bare.network_ms(layers), measured_ms=ours, litert_ms=litert)


def _medians(models: Sequence[Model]) -> list[float]:
    """Time models in turns on one input; medians, milliseconds."""
    x = np.random.default_rng(0).integers(-128, 128, models[0].info["input"]["shape"]).astype(np.int8)
    times: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + SECONDS_PER_CHECK
    while len(times[0]) < LEAST_ROUNDS or time.perf_counter() < end:
        for model, spent in zip(models, times, strict=True):
            model.run_tensor(x)  # warms this engine's caches after the other
            begun = time.perf_counter()
            model.run_tensor(x)
            spent.append((time.perf_counter() - begun) * 1e3)
    return list(map(statistics.median, times))
