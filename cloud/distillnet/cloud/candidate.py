"""A student before it has learnt: the teacher's essential core, cut to a budget, with the application's head on it."""

import copy
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud.core import Classifier, CoreNet, CoreShape, macs, shape_of
from distillnet.cloud.metrics import Floats
from distillnet.cloud.progress import Advance
from distillnet.cloud.reconstruction import Left, reconstruct
from distillnet.cloud.relevance import Criterion, Group, block_relevance, find_groups, rank
from distillnet.cloud.surgery import (
    Layer,
    LayerCost,
    choose,
    cut,
    drop_blocks,
    layer_macs,
    layer_weights,
    layers_of,
    total_cost,
)

MOST_PICTURES, BLOCK_PICTURES = 1536, 64
KEEPS = {"stream": 0.75, "plain": 0.2, "expanded": 0.25}


@dataclass(frozen=True)
class Candidate:
    """A cut network. `relevance` by group; `kept` how many channels of each group are left."""

    name: str
    student: Classifier
    macs: float
    groups: list[Group]
    relevance: dict[str, NDArray[np.float32]]
    kept: dict[str, int]
    block_rises: dict[int, float]
    dropped: list[int]


class Asked(nn.Module):
    """A network with a question on its features: `core` gives features, `question` turns them into K+1 logits."""

    def __init__(self, core: nn.Module, question: nn.Module) -> None:
        """Share `core`: cutting it here cuts it there."""
        super().__init__()
        self.core = core
        self.question = question

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, K+1)."""
        logits: Tensor = self.question(self.core(x))
        return logits


class ZeroShot(nn.Module):
    """The teacher's own answer about the application: K+1 logits, each the log-sum-exp of its classes' logits."""

    def __init__(self, classify: nn.Linear, event_classes: tuple[tuple[int, ...], ...]) -> None:
        """Take the teacher's last layer; every event has classes."""
        super().__init__()
        self.classify = classify
        used = {index for indices in event_classes for index in indices}
        self._members = [list(indices) for indices in event_classes]
        self._members.append([index for index in range(classify.out_features) if index not in used])

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, F) to (N, K+1)."""
        logits = self.classify(features)
        return torch.stack([logits[:, members].logsumexp(1) for members in self._members], 1)


def essential_core(
    teacher: Classifier,
    question: nn.Module,
    pictures: Tensor,
    wanted: Floats,
    *,
    budget: float,
    cost: LayerCost = layer_macs,
    most_weights: float = math.inf,
    drop: int | None = None,
    criterion: Criterion = "taylor",
    seed: int = 0,
    advance: Advance = lambda amount=1.0, note="": None,
) -> Candidate:
    """Cut the teacher to its essential core.

    Args:
        teacher: of the family that can be cut.
        question: K+1 logits from the teacher's features: `ZeroShot`, or a probe.
        pictures: float32 (N, 3, R, R), normalised, at the student's resolution, in no order; more than
            `MOST_PICTURES` tell nothing more.
        wanted: probabilities (N, K+1).
        budget: of one picture, in the unit of `cost`.
        cost: of one layer; multiply-accumulates, or a board's milliseconds.
        most_weights: of the student, its last layer aside.
        drop: how many blocks to drop; None = as many as budget and `most_weights` suggest.
        criterion: what makes a channel relevant.
        seed: of criterion `random` and the new head.
        advance: called with the number of pictures done.

    """
    torch.manual_seed(seed)
    network = copy.deepcopy(teacher)
    core = network.core
    assert isinstance(core, CoreNet)
    example = pictures[:1]
    targets = torch.from_numpy(wanted)
    judged = Asked(core, question)
    rises = block_relevance(judged, core.blocks, pictures[:BLOCK_PICTURES], targets[:BLOCK_PICTURES])
    uncut = layers_of(core, example)
    before = total_cost(uncut, cost)
    weights_share = most_weights / total_cost(uncut, layer_weights)
    number = _blocks_to_drop(budget / before, weights_share) if drop is None else drop
    prices = {index: _price(rise, f"blocks.{index}", uncut, cost) for index, rise in rises.items()}
    dropped = _least_relevant(core, prices, number)
    core.blocks = drop_blocks(core.blocks, dropped)
    groups = find_groups(network, example, keep=(network.classify,))
    relevance = rank(judged, groups, pictures, targets, criterion=criterion, seed=seed, advance=advance)
    layers = {name: layer for name, layer in layers_of(network, example).items() if name.startswith("core.")}
    remove = choose(groups, layers, relevance, budget, cost=cost, most_weights=most_weights, keeps=KEEPS)
    cut(network, example, remove)
    whole = teacher.core
    assert isinstance(whole, CoreNet)
    origins = [index for index in range(len(whole.blocks)) if index not in dropped]
    reconstruct(core, whole, _what_is_left(core, origins, groups, remove), pictures, seed=seed)
    shape = core.shape
    return Candidate(
        name=f"core-{criterion}",
        student=Classifier(core, shape.head, wanted.shape[1]),
        macs=total_cost(layers_of(core, example)),
        groups=groups,
        relevance=relevance,
        kept={group.root: group.channels - len(remove.get(group.root, ())) for group in groups},
        block_rises=rises,
        dropped=dropped,
    )


def fresh(shape: CoreShape, outputs: int, resolution: int, *, seed: int = 0) -> Candidate:
    """Return a network of that shape with fresh weights: nothing of the teacher is in it."""
    torch.manual_seed(seed)
    return Candidate(
        name="fresh",
        student=Classifier(CoreNet(shape), shape.head, outputs),
        macs=float(macs(shape, resolution)),
        groups=[],
        relevance={},
        kept={},
        block_rises={},
        dropped=[],
    )


def _what_is_left(core: CoreNet, origins: list[int], groups: list[Group], remove: dict[str, list[int]]) -> Left:
    """Say what a cut left; `origins`: the block that each block of `core` was."""

    def of(name: str) -> Tensor:
        group = next(group for group in groups if f"core.{name}" in group.out)
        gone = set(remove.get(group.root, ()))
        return torch.tensor([channel for channel in range(group.channels) if channel not in gone])

    expands = [shape_of(core, place).expands for place in range(len(origins))]
    return Left(
        origins=origins,
        expanded=[of(f"blocks.{place}.expand") if expands[place] else None for place in range(len(origins))],
        streams=[of(f"blocks.{place}.project") for place in range(len(origins))],
        head=of("head"),
    )


def _blocks_to_drop(share: float, weights_share: float) -> int:
    """Deep cuts go through whole blocks first: half-empty blocks cost nearly as much time as full ones.

    Where only weights are many, a few blocks go nevertheless: else every layer becomes too thin to learn.
    """
    if share > 0.7:
        return 0 if weights_share > 0.7 else 4
    return 4 if share > 0.5 else 6


def _least_relevant(core: CoreNet, prices: dict[int, float], number: int) -> list[int]:
    """Choose the residual blocks that are cheapest to lose, but never all of a stage that has several."""
    stages = {index: shape_of(core, index).out for index in prices}
    left, several = Counter(stages.values()), Counter(stages.values())
    chosen: list[int] = []
    for index in sorted(prices, key=prices.__getitem__):
        if len(chosen) < number and (left[stages[index]] > 1 or several[stages[index]] == 1):
            chosen.append(index)
            left[stages[index]] -= 1
    return sorted(chosen)


def _price(rise: float, name: str, layers: dict[str, Layer], cost: LayerCost) -> float:
    """Return what a block's loss costs for each unit it saves."""
    return rise / total_cost({key: layer for key, layer in layers.items() if key.startswith(f"{name}.")}, cost)
