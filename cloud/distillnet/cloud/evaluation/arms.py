"""The arms of the comparison: what a student could have been instead.

Every trained arm sees the same pictures, the same teacher, the same recipe and the same number of steps, and may cost
the same milliseconds by the board's measured table; only the fine-tuned teacher costs more and is there as the ceiling.
Where an arm stands for a method that has no distillation, it has none: it learns from labels alone.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from distillnet.cloud import boards
from distillnet.cloud.budget import LatencyBudget
from distillnet.cloud.candidate import MOST_PICTURES, essential_core
from distillnet.cloud.core import Classifier, CoreNet, CoreShape, macs, slimmed, weights
from distillnet.cloud.evaluation.settings import Settings
from distillnet.cloud.evaluation.tiny_imagenet import Task
from distillnet.cloud.metrics import Floats, softmax
from distillnet.cloud.probe import apply_probe, fit_probe
from distillnet.cloud.progress import Advance
from distillnet.cloud.rejection import one_hot
from distillnet.cloud.relevance import Criterion
from distillnet.cloud.teacher import Teacher, normalise
from distillnet.cloud.training import Lessons, Recipe, ThrowAwayHead, balanced, distil, start_heads
from distillnet.cloud.views import shrink_all
from distillnet.cloud.wanted import restricted

COARSE = 128
Lesson = Literal["distil", "labels", "none"]


@dataclass(frozen=True)
class Ground:
    """What is computed once per application and seed. `coarse`: the task as the teacher sees it at `COARSE` pixels."""

    task: Task
    teacher: Teacher
    classifier: Classifier
    probe: nn.Module
    wanted: Floats
    lessons: Lessons
    settings: Settings
    budget: LatencyBudget
    seed: int
    coarse: Callable[[], Task]

    @property
    def most_weights(self) -> float:
        """How many weights a student may have, so that its file is a `smaller`th of the teacher's."""
        return weights(self.classifier) / self.settings.smaller

    @property
    def outputs(self) -> int:
        """How many there are: the events and `other`."""
        return len(self.task.events) + 1


@dataclass(frozen=True)
class Outcome:
    """What an arm became: scores float32 (N, K+1) on `val` and `unseen`, or the network that gives them."""

    macs: float
    scores: tuple[Floats, Floats] | None = None
    network: Classifier | None = None
    curve: tuple[dict[str, float], ...] = ()


def prepare(task: Task, teacher: Teacher, settings: Settings, seed: int, coarse: Callable[[], Task]) -> Ground:
    """Fit the probe and render the lessons.

    Raises:
        AssertionError: the teacher is of a family that cannot be cut.

    """
    classifier = teacher.classifier
    assert classifier is not None
    wanted = one_hot(task.train.labels, len(task.events) + 1)
    lessons = Lessons(
        pixels=shrink_all(task.train.pixels, settings.resolution),
        wanted=wanted,
        logits=task.train.logits,
        features=task.train.features,
        weights=balanced(wanted),
        mean=teacher.mean,
        scale=teacher.scale,
    )
    probe = fit_probe(task.train.features, wanted, seed=seed)
    budget = LatencyBudget(boards.find(settings.board, Path()), settings.budget_ms)
    return Ground(task, teacher, classifier, probe, wanted, lessons, settings, budget, seed, coarse)


def _zero_shot(ground: Ground, advance: Advance) -> Outcome:
    task = ground.task
    scores = [restricted(part.logits, task.event_classes) for part in (task.val, task.unseen)]
    return Outcome(_teacher_macs(ground, ground.teacher.resolution), (scores[0], scores[1]))


def _probe(ground: Ground, advance: Advance) -> Outcome:
    return _probed(ground.probe, ground.task, _teacher_macs(ground, ground.teacher.resolution))


def _coarse_probe(ground: Ground, advance: Advance) -> Outcome:
    task = ground.coarse()
    probe = fit_probe(task.train.features, ground.wanted, seed=ground.seed)
    return _probed(probe, task, _teacher_macs(ground, COARSE))


def _probed(probe: nn.Module, task: Task, macs: int) -> Outcome:
    scores = [softmax(apply_probe(probe, part.features)) for part in (task.val, task.unseen)]
    return Outcome(macs, (scores[0], scores[1]))


def _cut(criterion: Criterion, *, fresh: bool = False, events_only: bool = False, lesson: Lesson = "distil") -> "Arm":
    """Cut by a criterion; `fresh` keeps the shape and throws the teacher's weights away.

    `events_only`: the criterion looks at pictures of wanted events alone.
    """

    def run(ground: Ground, advance: Advance) -> Outcome:
        rng = np.random.default_rng([ground.seed, 23])
        weights = ground.lessons.weights
        if events_only:
            weights = weights * (ground.wanted.argmax(1) < ground.outputs - 1)
            weights = weights / weights.sum()
        chosen = rng.choice(len(ground.wanted), MOST_PICTURES, p=weights)
        candidate = essential_core(
            ground.classifier,
            ground.probe,
            normalise(ground.lessons.pixels[chosen], ground.teacher.mean, ground.teacher.scale),
            ground.wanted[chosen],
            budget=ground.budget.ms,
            cost=ground.budget.cost,
            most_weights=ground.most_weights,
            criterion=criterion,
            seed=ground.seed,
        )
        student = candidate.student
        if fresh:
            core = student.core
            assert isinstance(core, CoreNet)
            student = _from_scratch(core.shape, ground)
        return _train(student, ground, advance, lesson)

    return run


def _compact(lesson: Lesson) -> "Arm":
    def run(ground: Ground, advance: Advance) -> Outcome:
        return _train(_from_scratch(_slim_shape(ground), ground), ground, advance, lesson)

    return run


def _fine_tuned(ground: Ground, advance: Advance) -> Outcome:
    torch.manual_seed(ground.seed)
    core = copy.deepcopy(ground.classifier.core)
    assert isinstance(core, CoreNet)
    return _train(Classifier(core, core.shape.head, ground.outputs), ground, advance, "distil")


Arm = Callable[[Ground, Advance], Outcome]

ARMS: dict[str, tuple[Arm, str]] = {
    "core": (_cut("taylor"), "the essential core: cut where the application's loss says, refitted, then distilled"),
    "zero-shot": (_zero_shot, "the teacher as it is, asked about the events"),
    "probe": (_probe, "a small classifier on the teacher's features; costs as much as the teacher"),
    "probe-128": (_coarse_probe, f"the same where the teacher sees pictures of {COARSE} px only"),
    "magnitude": (_cut("magnitude"), "cut by the size of weights, which knows no application, then distilled"),
    "activation": (
        _cut("activation", lesson="labels"),
        "cut by mean activation on all the application's pictures, then fine-tuned on labels (OCAP-style)",
    ),
    "untrained": (_cut("taylor", lesson="none"), "the core as cut, only its last layer fitted (CAP'NN-style)"),
    "wanted-activation": (
        _cut("activation", events_only=True, lesson="labels"),
        "cut by mean activation on the wanted events alone, then retrained on labels (a proxy for the paper of 2018)",
    ),
    "compact": (_compact("distil"), "the teacher's shape, uniformly slim, fresh weights, distilled"),
    "compact-labels": (_compact("labels"), "the same, trained on labels alone"),
    "random": (_cut("random"), "cut at random, then distilled"),
    "reinitialised": (_cut("taylor", fresh=True), "the essential core's shape with fresh weights, distilled"),
    "fine-tuned": (_fine_tuned, "the whole teacher, trained in the same way: the ceiling at this resolution"),
}


def network_macs(network: Classifier, resolution: int) -> int:
    """Count multiply-accumulates of one picture."""
    assert isinstance(network.core, CoreNet)
    return macs(network.core.shape, resolution, network.classify.out_features)


def _train(student: Classifier, ground: Ground, advance: Advance, lesson: Lesson) -> Outcome:
    classes = ground.classifier.classify
    throw_away = ThrowAwayHead(student.classify.in_features, classes, classes.out_features)
    recipe = Recipe(seconds=float("inf"), steps=ground.settings.steps, batch=ground.settings.batch)
    lessons = ground.lessons
    if lesson == "distil":
        lessons = replace(lessons, wanted=softmax(apply_probe(ground.probe, ground.task.train.features)))
    else:
        recipe = replace(recipe, logits_weight=0.0, features_weight=0.0)
    if isinstance(student.core, CoreNet) and student.core.fixed_norms:
        start_heads(student, throw_away, lessons, seed=ground.seed)
    curve: list[dict[str, float]] = []
    if lesson != "none":
        curve = distil(student, throw_away, lessons, recipe, seed=ground.seed, advance=advance)
    return Outcome(network_macs(student, ground.settings.resolution), network=student, curve=tuple(curve))


def _from_scratch(shape: CoreShape, ground: Ground) -> Classifier:
    torch.manual_seed(ground.seed)
    return Classifier(CoreNet(shape), shape.head, ground.outputs)


def _slim_shape(ground: Ground) -> CoreShape:
    """Scale every width of the teacher by one factor, in steps of 8, to just within the budget."""
    core = ground.classifier.core
    assert isinstance(core, CoreNet)
    side = ground.settings.resolution
    for factor in np.linspace(1.0, 0.1, 181):
        shape = slimmed(core.shape, float(factor))
        network = Classifier(CoreNet(shape), shape.head, ground.outputs)
        if ground.budget.network_ms(network, side) <= ground.budget.ms and weights(network) <= ground.most_weights:
            break
    return shape


def _teacher_macs(ground: Ground, resolution: int) -> int:
    return network_macs(ground.classifier, resolution)
