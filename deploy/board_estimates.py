"""Profiles of boards that nobody could measure here, from the measured one: multiply-accumulates per second compared.

`make board-profiles` measures this machine and writes all of them. An estimate's times are the measured ones scaled by
the ratio of the peaks of int8 multiply-accumulates: cycles per second × per cycle. Its error is therefore unknown and
stated as a factor of two; `distillnet bench --profile` on the board replaces it.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from distillnet.engine.profile import Profile, read
from distillnet.engine.profile_measure import measure, write

SHIPPED = Path(__file__).parents[1] / "cloud" / "distillnet" / "cloud" / "board_profiles"
UNKNOWN_ERROR = 1.0
REFERENCE_GHZ, REFERENCE_PER_CYCLE = 3.0, 128  # AVX-512 VNNI: 64 multiply-accumulates, two a cycle


@dataclass(frozen=True)
class Core:
    """One core: clock, and int8 multiply-accumulates a cycle with the kernels it runs."""

    name: str
    ghz: float
    per_cycle: int
    kernels: str


# Clocks: the boards' data sheets. Widths: Arm's software optimisation guides (SMLAL by halves, SDOT on two pipes).
BOARDS = {
    "rpi-zero2": Core("Cortex-A53", 1.0, 4, "neon"),
    "rpi3": Core("Cortex-A53", 1.4, 4, "neon"),
    "rpi4": Core("Cortex-A72", 1.8, 8, "neon"),
    "rpi5": Core("Cortex-A76", 2.4, 32, "neondot"),
    "jetson-nano": Core("Cortex-A57", 1.43, 8, "neon"),
    "jetson-orin": Core("Cortex-A78AE", 1.5, 32, "neondot"),
}


def estimate(board: str, core: Core, measured: Profile) -> Profile:
    """Scale a measured profile to a core."""
    factor = REFERENCE_GHZ * REFERENCE_PER_CYCLE / (core.ghz * core.per_cycle)
    return measured.model_copy(
        update={
            "board": board,
            "how": "estimated",
            "machine": f"aarch64 {core.name} at {core.ghz:g} GHz",
            "kernels": core.kernels,
            "note": f"{measured.machine}'s times × {factor:.1f}, the ratio of int8 multiply-accumulates per second at "
            f"the peak: {core.per_cycle} a cycle; never measured on the board",
            "error": UNKNOWN_ERROR,
            "checks": [],
            "layers": [row.model_copy(update={"ms": float(f"{row.ms * factor:.4g}")}) for row in measured.layers],
        }
    )


def main() -> None:
    """Measure this machine unless `--keep`, then write every estimate."""
    reference = SHIPPED / "x86-64.json"
    if "--keep" not in sys.argv:
        write(reference, measure("x86-64", quiet=False))
    measured = read(reference)
    for board, core in BOARDS.items():
        write(SHIPPED / f"{board}.json", estimate(board, core, measured))
    print(json.dumps(measured.model_dump(exclude={"layers"}), indent=1))  # noqa: T201 - a script


if __name__ == "__main__":
    main()
