"""Successive halving (Jamieson and Talwalkar, AISTATS 2016): all candidates learn a little, the better half goes on.

Everybody follows the schedule of the whole recipe and is stopped early on it, so that the winner just goes on. A round
starts from the checkpoints of the round before, wherever they were trained; an interrupted race resumes from them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from distillnet.cloud.course import Course, Trained
from distillnet.cloud.training import Recipe

FIRST_SHARE = 0.05
GROWTH = 3.0


Teach = Callable[[Sequence[Course], float], Sequence[Trained]]


def run(courses: Sequence[Course], teach: Teach) -> list[Trained]:
    """Race.

    Args:
        courses: at least one; each of another candidate.
        teach: brings each of some courses to a share of the recipe; results in their order.

    Returns:
        How far everybody came: the winner, trained to the end, then the last to go out first.

    """
    out: list[Trained] = []
    alive = list(courses)
    for share in rounds(len(courses)):
        ranked = sorted(zip(teach(alive, share), alive, strict=True), key=lambda pair: -pair[0].merit)
        stays = math.ceil(len(ranked) / 2) if share < 1 else 0
        out = [*(trained for trained, _ in ranked[stays:]), *out]
        alive = [course for _, course in ranked[:stays]]
    return out


def rounds(entrants: int) -> list[float]:
    """Return the share of the recipe at the end of each round; the last, for one entrant, is 1."""
    number = math.ceil(math.log2(entrants)) if entrants > 1 else 0
    return [FIRST_SHARE * GROWTH**index for index in range(number)] + [1.0]


def shorten(recipe: Recipe, entrants: int) -> Recipe:
    """Return the recipe each follows so that the race as a whole takes what `recipe` allows."""
    total, before, alive = 0.0, 0.0, entrants
    for share in rounds(entrants):
        total += alive * (share - before)
        before, alive = share, math.ceil(alive / 2)
    return replace(
        recipe, seconds=recipe.seconds / total, steps=max(1, int(recipe.steps / total)) if recipe.steps else None
    )


def facts(everybody: Sequence[Trained], n: int) -> list[dict[str, Any]]:
    """Return the report's rows: what was tried, how far it came, and why it lost."""
    rows = []
    for place, trained in enumerate(everybody):
        entrant = trained.entrant
        why = (
            "the winner"
            if place == 0
            else f"out after {trained.share:.0%} of the training: {trained.merit:.3f} on validation data; "
            f"{_better(everybody, trained)} stayed in"
        )
        rows.append(
            {
                "name": entrant.name,
                "macs": entrant.candidate.macs,
                "latency_ms": entrant.ms,
                "resolution": entrant.resolution,
                "accuracy": trained.merit,
                "n": n,
                "share": trained.share,
                "chosen": place == 0,
                "why": why,
            }
        )
    return rows


def _better(everybody: Sequence[Trained], loser: Trained) -> str:
    return ", ".join(t.entrant.name for t in everybody if t.share > loser.share)
