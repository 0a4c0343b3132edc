"""Profiles of boards that nobody could measure here: counted instructions, LLVM's pipelines, the boards' clocks.

    python deploy/board_estimates.py [--keep]

`make board-profiles` measures this machine (not with `--keep`) and writes all of them. Every layer of the table and
whole networks are run as a board would run them (`board_cycles.py`), and cycles become milliseconds by the clock of the
data sheet. How wrong that is, is found on this machine, where the same can be measured, with its AVX2 kernels; this
error stands in every estimate. Slow memory and throttling are not in it. On the board, `distillnet bench --profile`
replaces the estimate.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import board_cycles
from board_cycles import Block, Target

from distillnet.engine.profile import Layer, MeasuredLayer, Profile
from distillnet.engine.profile_measure import fit, measurable, measure, network_ms, write
from distillnet.engine.profile_networks import CHECKS, one_layer, whole

SHIPPED = Path(__file__).parents[1] / "cloud" / "distillnet" / "cloud" / "board_profiles"


@dataclass(frozen=True)
class Core:
    """One core: its name, its clock, and how to find its cycles."""

    name: str
    ghz: float
    target: Target


def _neon(core: str) -> Target:
    return Target("aarch64", "cortex-a53", "neon", core)


def _dot_products(core: str) -> Target:
    return Target("aarch64", "max", "neondot", core)


# Clocks: Raspberry Pi's and NVIDIA's data sheets (Jetson Nano at 10 W, Orin Nano 8 GB at 15 W). LLVM schedules A72 as
# A57; it has no A76 or A78 of its own, and Neoverse N1 is the A76 for servers: the same pipelines.
BOARDS = {
    "rpi-zero2": Core("Cortex-A53", 1.0, _neon("cortex-a53")),
    "rpi3": Core("Cortex-A53", 1.4, _neon("cortex-a53")),
    "rpi4": Core("Cortex-A72", 1.8, _neon("cortex-a72")),
    "rpi5": Core("Cortex-A76", 2.4, _dot_products("neoverse-n1")),
    "jetson-nano": Core("Cortex-A57", 1.43, _neon("cortex-a57")),
    "jetson-orin": Core("Cortex-A78AE", 1.5, _dot_products("neoverse-n1")),
}
HERE = Target("x86_64", "max", "avx2", "sapphirerapids")


def estimate(board: str, core: Core, error: float) -> Profile:
    """Return the profile of a board from counted instructions; `error` is what they were wrong by on this machine."""
    layers, networks, models = _models()
    ms = [cycles / core.ghz / 1e6 for cycles in _cycles(core.target, models)]
    rows = [
        MeasuredLayer(**layer._asdict(), ms=float(f"{max(layer_ms, 1e-6):.4g}"))
        for layer, layer_ms in zip(layers, ms, strict=False)
    ]
    bare = Profile(
        board=board,
        how="estimated",
        machine=f"aarch64 {core.name} at {core.ghz:g} GHz",
        kernels=core.target.kernels,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=f"executed instructions counted under emulation, their cycles by llvm-mca for {core.target.core}; never "
        f"measured on the board. The same estimate is off by at most {error:.0%} for {len(CHECKS)} networks on the "
        "x86-64 machine where it was made; a board's memory is slower",
        network_factor=1.0,
        error=error,
        checks=[],
        layers=rows,
    )
    sums = [bare.network_ms(network) for network in networks]
    factor, uneven = fit(list(zip(sums, ms[len(layers) :], strict=True)))
    return bare.model_copy(update={"network_factor": factor, "error": round((1 + error) * (1 + uneven) - 1, 3)})


def check() -> dict[str, object]:
    """Estimate whole networks on this machine, and measure them: every figure, and the largest relative error."""
    models = [whole(network)[0] for network in CHECKS]
    estimated = _cycles(HERE, tuple(models))
    clocks, measured = [], []
    for data in models:
        clocks.append(_clock_ghz())
        measured.append(network_ms(data, HERE.kernels))
    ghz = statistics.median(clocks)
    rows = [
        {"network": network.name, "estimated_ms": cycles / ghz / 1e6, "measured_ms": ms}
        for network, cycles, ms in zip(CHECKS, estimated, measured, strict=True)
    ]
    error = max(abs(cycles / ghz / 1e6 / ms - 1) for cycles, ms in zip(estimated, measured, strict=True))
    return {"kernels": HERE.kernels, "core": HERE.core, "ghz": clocks, "networks": rows, "error": error}


@cache
def _models() -> tuple[list[Layer], list[list[Layer]], tuple[bytes, ...]]:
    """The layers of the table, the networks as lists of layers, and models of all, in that order."""
    layers, networks = measurable(), [whole(network) for network in CHECKS]
    return layers, [parts for _, parts in networks], (*map(one_layer, layers), *(data for data, _ in networks))


def _cycles(target: Target, models: tuple[bytes, ...]) -> list[float]:
    counted = _executed(Target(target.machine, target.cpu, target.kernels, ""), models)
    cost = board_cycles.cycles(target, {block for blocks in counted for block in blocks})
    return [sum(times * cost[block] for block, times in blocks.items()) for blocks in counted]


@cache
def _executed(target: Target, models: tuple[bytes, ...]) -> list[Counter[Block]]:
    """Count once for all cores that run the same kernels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.tflite") for index in range(len(models))]
        for path, data in zip(paths, models, strict=True):
            path.write_bytes(data)
        return board_cycles.executed(target, paths)


def _clock_ghz() -> float:
    program = board_cycles.build("x86_64", "clock")
    return float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Measure this machine unless `--keep`, then write every estimate and print how wrong they are here."""
    try:
        found = check()
        if "--keep" not in sys.argv:
            write(SHIPPED / "x86-64.json", measure("x86-64", quiet=False))
        for board, core in BOARDS.items():
            write(SHIPPED / f"{board}.json", estimate(board, core, float(str(found["error"]))))
    except board_cycles.CyclesError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
