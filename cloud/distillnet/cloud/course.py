"""One candidate's training, in stretches that go on from a checkpoint: what the race asks for, wherever it runs.

A course holds values and files only, so that it can be sent to another process or machine.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from distillnet.cloud import material
from distillnet.cloud.baselines import judge
from distillnet.cloud.checkpoint import Checkpoint
from distillnet.cloud.entrants import Entrant
from distillnet.cloud.material import Examination
from distillnet.cloud.metrics import Floats, Ints, softmax
from distillnet.cloud.progress import Advance
from distillnet.cloud.training import Recipe, ThrowAwayHead, distil, predict, start_heads


@dataclass(frozen=True)
class Trained:
    """How far a candidate came: share of the recipe, figure of merit on validation data, learning curve."""

    entrant: Entrant
    share: float
    merit: float
    curve: list[dict[str, float]]


@dataclass(frozen=True)
class Course:
    """A candidate with all it learns from. `material`: a folder of that name's module; `classify`: the teacher's last
    layer, None for a black box; checkpoints go to `directory`.
    """

    entrant: Entrant
    material: Path
    recipe: Recipe
    classify: nn.Linear | None
    seed: int
    directory: Path
    key: str

    def total(self, share: float) -> float:
        """Steps, or seconds, from the beginning to a share of the recipe."""
        return share * (self.recipe.steps or self.recipe.seconds)

    def teach(self, share: float, advance: Advance = lambda amount=1.0, note="": None) -> Trained:
        """Train the candidate to a share of the recipe, from where its checkpoint stands."""
        lessons, examination = material.read(self.material)
        student = self.entrant.candidate.student
        checkpoint = Checkpoint(self.directory, f"{self.key}:{self.recipe}", name=_file_name(self.entrant.name))
        throw_away = ThrowAwayHead(student.classify.in_features, self.classify, lessons.logits.shape[1])
        kept = checkpoint.load()
        if not kept:
            start_heads(student, throw_away, lessons, seed=self.seed)

        def examined(network: nn.Module) -> float:
            return merit_of(network, examination, lessons.mean, lessons.scale)

        curve = distil(
            student,
            throw_away,
            lessons,
            self.recipe,
            seed=self.seed,
            until=share,
            advance=advance,
            check=examined if len(examination.truth) else None,
            resume_from=kept,
            keep=checkpoint.keep,
        )
        return Trained(self.entrant, share, examined(student), curve)


def merit(scores: Floats, truth: Ints, unseen: NDArray[np.bool_]) -> float:
    """Return the mean of macro recall and recall at 1 % false alarms; the former alone without negatives.

    Args:
        scores: (N, K+1), N > 0.
        truth: (N,).
        unseen: (N,), negatives never trained on.

    """
    found = judge(scores, truth, unseen)
    figures = [found["macro recall"]]
    if "recall at 1 % false alarms" in found:
        figures.append(found["recall at 1 % false alarms"])
    return float(np.mean([figure.value for figure in figures]))


def merit_of(network: nn.Module, examination: Examination, mean: float, scale: float) -> float:
    """Return a network's merit; 0 where there is nothing to examine it on."""
    if len(examination.truth) == 0:
        return 0.0
    scores = softmax(predict(network, examination.pixels, mean, scale))
    return merit(scores, examination.truth, examination.unseen)


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
