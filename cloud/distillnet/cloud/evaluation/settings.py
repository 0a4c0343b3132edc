"""What every arm of the comparison shares; the defaults of its command, too, whose help needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What all arms share."""

    resolution: int = 96
    budget_ms: float = 0.25
    smaller: float = 9.1  # as the results in docs/ were cut; `distill` has application.SMALLER
    board: str = "x86-64-xeon"
    steps: int = 400
    batch: int = 64
