"""Candidates of a few thousand weights and what they learn from: a race in a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distillnet.cloud import material
from distillnet.cloud.candidate import fresh
from distillnet.cloud.core import BlockShape, CoreShape
from distillnet.cloud.course import Course, Trained
from distillnet.cloud.entrants import Entrant
from distillnet.cloud.material import Examination
from distillnet.cloud.training import Lessons, Recipe

SIDE, OUTPUTS = 32, 3
SHAPE = CoreShape(
    16,
    (
        BlockShape(16, 16, 16, 3, 1, expands=False, residual=False),
        BlockShape(16, 64, 24, 3, 2, expands=True, residual=False),
        BlockShape(24, 96, 24, 3, 1, expands=True, residual=True),
        BlockShape(24, 96, 24, 3, 1, expands=True, residual=True),
    ),
    64,
)


def rendered() -> tuple[Lessons, Examination]:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, OUTPUTS, 60)
    pixels = (rng.integers(0, 60, (60, SIDE, SIDE, 3)) + 60 * truth[:, None, None, None]).astype(np.uint8)
    lessons = Lessons(
        pixels=pixels,
        wanted=np.eye(OUTPUTS, dtype=np.float32)[truth],
        logits=rng.normal(size=(60, 10)).astype(np.float32),
        features=None,
        weights=np.full(60, 1 / 60),
        mean=127.0,
        scale=128.0,
    )
    return lessons, Examination(pixels, truth, np.zeros(60, bool))


def course(name: str, directory: Path, recipe: Recipe, seed: int = 0) -> Course:
    return Course(
        entrant=Entrant(replace(fresh(SHAPE, OUTPUTS, SIDE, seed=seed), name=name), SIDE, 0.1),
        material=material.write(directory, *rendered()),
        recipe=recipe,
        classify=None,
        seed=seed,
        directory=directory,
        key="key",
    )


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.entrant.candidate.student.parameters()])
