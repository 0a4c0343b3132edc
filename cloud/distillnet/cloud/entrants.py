"""The networks that enter the race for one budget: what the teacher's essential core can become, and what it cannot.

All of them fit the budget by the board's table before any is trained. The first is the one that usually wins; a run
too short for a race trains it alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from distillnet.cloud.budget import LatencyBudget
from distillnet.cloud.candidate import Candidate, essential_core, fresh
from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape, slimmed, weights
from distillnet.cloud.metrics import Floats
from distillnet.cloud.progress import Advance
from distillnet.proto.strict import ConfigError

SLACK = 1.01
LEAST_USED = 0.75
SMALLER_PICTURES = "core, smaller pictures"
RESOLUTIONS = {"core": 96, SMALLER_PICTURES: 64, "core, fewer blocks": 96, "slim": 96, "compact": 96}
MOST_BLOCKS = 8
# Output channels, repeats, stride of each stage; expansion 6 after the first (Sandler et al., CVPR 2018).
_STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
WIDTHS = np.geomspace(1.0, 0.1, 24)


def _mobilenet_v2() -> CoreShape:
    blocks: list[BlockShape] = []
    into = 32
    for out, repeats, stride in _STAGES:
        for index in range(repeats):
            expands = bool(blocks)
            expanded, step = into * 6 if expands else into, stride if index == 0 else 1
            blocks.append(BlockShape(into, expanded, out, 3, step, expands, residual=index > 0))
            into = out
    return CoreShape(32, tuple(blocks), 1280)


MOBILENET_V2 = _mobilenet_v2()


@dataclass(frozen=True)
class Entrant:
    """A network before it has learnt. `ms`: what it takes on the budget's board, by the table."""

    candidate: Candidate
    resolution: int
    ms: float

    @property
    def name(self) -> str:
        """How the report calls it."""
        return self.candidate.name


@dataclass(frozen=True)
class Ground:
    """What candidates are cut from. `pictures` gives normalised views (N, 3, R, R) at a resolution."""

    network: Classifier
    question: nn.Module
    pictures: Callable[[int], Tensor]
    wanted: Floats
    budget: LatencyBudget
    most_weights: float
    seed: int


def enter(ground: Ground, number: int, resolution: int | None, advance: Advance) -> list[Entrant]:
    """Build the first `number` candidates.

    Args:
        ground: what to cut, and the budget.
        number: how many.
        resolution: of all of them; None = each its own.
        advance: called with 1 for each.

    Raises:
        ConfigError: none meets the budget; says what the smallest takes.

    """
    found: list[Entrant] = []
    for name in list(RESOLUTIONS)[:number]:
        side = resolution or RESOLUTIONS[name]
        if resolution and name == SMALLER_PICTURES:
            continue
        candidate = replace(_build(name, ground, side), name=name)
        entrant = Entrant(candidate, side, ground.budget.network_ms(candidate.student, side))
        advance(1)
        # It learns sooner, wins a short race and ends lower, unless time is so short that it needs all of it (ADR 21).
        if name == SMALLER_PICTURES and entrant.ms < LEAST_USED * min(found[0].ms, ground.budget.ms):
            continue
        found.append(entrant)
    fits = [entrant for entrant in found if entrant.ms <= ground.budget.ms * SLACK]
    if not fits:
        best = min(found, key=lambda entrant: entrant.ms)
        raise ConfigError(
            f"[budget] latency_ms = {ground.budget.ms:.3g} on {ground.budget.board.board} is met by no candidate; the "
            f"smallest ({best.name}, {best.resolution}²) takes {best.ms:.3g} ms by the board's table: allow that much, "
            "or set a smaller [search] resolution"
        )
    return fits


def _build(name: str, ground: Ground, side: int) -> Candidate:
    if name in ("slim", "compact"):
        core = ground.network.core
        assert isinstance(core, CoreNet)
        full = core.shape if name == "slim" else MOBILENET_V2
        for width in WIDTHS:
            shape = slimmed(full, float(width))
            candidate = fresh(shape, ground.wanted.shape[1], side, seed=ground.seed)
            ms = ground.budget.network_ms(candidate.student, side)
            if ms <= ground.budget.ms and weights(candidate.student) <= ground.most_weights:
                break
        return candidate
    return essential_core(
        ground.network,
        ground.question,
        ground.pictures(side),
        ground.wanted,
        budget=ground.budget.ms,
        cost=ground.budget.cost,
        most_weights=ground.most_weights,
        drop=MOST_BLOCKS if name == "core, fewer blocks" else None,
        seed=ground.seed,
    )
