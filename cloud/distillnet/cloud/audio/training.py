"""Teaching a student to hear: the events, the teacher's many classes through a throw-away head, and its features."""

import math
import time
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillnet.cloud.audio.lessons import Lessons
from distillnet.cloud.audio.students import DsCnn, StudentShape
from distillnet.cloud.muon import Muon, matrices


@dataclass(frozen=True)
class Recipe:
    """How a student is trained. `distilled=False` is the control: the labels alone."""

    epochs: int = 24
    batch: int = 32
    matrix_rate: float = 0.05
    """Muon's learning rate, of the pointwise convolutions; the other weights' is AdamW's."""
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    distilled: bool = True
    head_weight: float = 0.7
    """Of what the teacher's head says, against the labels."""
    classes_weight: float = 1.0
    features_weight: float = 1.0
    seconds: float = math.inf
    """The learning rate comes down in time for training to end within this, with fewer epochs if need be."""

    @classmethod
    def of_steps(cls, steps: int, windows: int) -> Self:
        """Return a recipe of about so many steps on so many windows, however long they take."""
        return cls(epochs=max(1, round(steps / math.ceil(windows / cls.batch))))


WARM_UP = 0.15
MOST_FRAMES, MOST_BANDS = 6, 2
"""How far a window's features are shifted in training."""
COLOUR = 0.15
"""Standard deviation of the colour that is added in training, in the features' normalised units."""


def train(lessons: Lessons, shape: StudentShape, recipe: Recipe, *, seed: int = 0) -> DsCnn:
    """Train a student; returns it in evaluation mode."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    student = DsCnn(shape, lessons.truth.shape[1])
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU
    classes = nn.Linear(student.features, lessons.logits.shape[1])
    features = nn.Linear(student.features, lessons.embedding.shape[1])
    both = nn.ModuleList([student, classes, features])
    x = torch.from_numpy(lessons.features).unsqueeze(1)
    truth = torch.from_numpy(lessons.truth)
    wanted = truth if not recipe.distilled else _between(truth, torch.from_numpy(lessons.taught), recipe.head_weight)
    heard = torch.sigmoid(torch.from_numpy(lessons.logits).clamp(-20, 20))
    embedding = torch.from_numpy(lessons.embedding)
    embedding = (embedding - embedding.mean(0)) / (embedding.std(0) + 1e-2)
    optimisers = _optimisers(both, recipe)
    steps, step = math.ceil(len(x) / recipe.batch) * recipe.epochs, 0
    begun = time.monotonic()
    both.train()
    while True:
        order = torch.from_numpy(rng.permutation(len(x)))
        for at in torch.split(order, recipe.batch):
            done = max(step / steps, (time.monotonic() - begun) / recipe.seconds)
            if done >= 1:
                student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                return student.eval()
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = optimiser.defaults["lr"] * _one_cycle(done)
            pooled = student.embed(_varied(x[at], rng))
            loss = F.cross_entropy(student.classify(student.dropout(pooled)), wanted[at])
            if recipe.distilled:
                loss = loss + recipe.features_weight * F.smooth_l1_loss(features(pooled), embedding[at])
                if heard.shape[1]:  # a teacher may have features only
                    loss = loss + recipe.classes_weight * 20 * F.binary_cross_entropy_with_logits(
                        classes(pooled), heard[at]
                    )
            both.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser in optimisers:
                optimiser.step()
            step += 1


def _optimisers(both: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between layers, AdamW for the rest; their rates are those at the cycle's top."""
    between = matrices(both)
    muon = [weight for name, weight in both.named_parameters() if name in between]
    rest = [weight for name, weight in both.named_parameters() if name not in between]
    decay = recipe.weight_decay
    return [
        Muon(muon, lr=recipe.matrix_rate, weight_decay=decay),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, weight_decay=decay),
    ]


def _one_cycle(done: float) -> float:
    """Up in a straight line, then down half a cosine (Smith and Topin, 2017). done: 0–1."""
    if done < WARM_UP:
        return 0.04 + 0.96 * done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


def _between(truth: Tensor, taught: Tensor, weight: float) -> Tensor:
    return (1 - weight) * truth + weight * taught


def _varied(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift in time and pitch, colour, and mask (SpecAugment): what costs nothing and changes no answer.

    Shifts are one for all windows, the rest is each window's own. x: (N, 1, frames, bands).
    """
    count, _, frames, bands = x.shape
    x = torch.roll(x, int(rng.integers(-MOST_FRAMES, MOST_FRAMES + 1)), dims=2)
    begin = int(rng.integers(2 * MOST_BANDS + 1))
    x = F.pad(x, (MOST_BANDS, MOST_BANDS, 0, 0), mode="replicate")[..., begin : begin + bands]
    points = torch.from_numpy(rng.normal(0, COLOUR, (count, 1, 5)).astype(np.float32))
    x = x + F.interpolate(points, size=bands, mode="linear", align_corners=True).unsqueeze(2)
    hidden = _masks(count, bands, rng).unsqueeze(1) | _masks(count, frames, rng).unsqueeze(2)
    return x.masked_fill(hidden.unsqueeze(1), 0.0).contiguous(memory_format=torch.channels_last)


def _masks(count: int, size: int, rng: np.random.Generator) -> Tensor:
    """Return two stretches of up to a fifth for each of `count` windows, bool (count, size)."""
    begin = torch.from_numpy(rng.integers(0, size, (2, count, 1)))
    end = begin + torch.from_numpy(rng.integers(0, size // 5 + 1, (2, count, 1)))
    at = torch.arange(size)
    return ((at >= begin) & (at < end)).any(0)
