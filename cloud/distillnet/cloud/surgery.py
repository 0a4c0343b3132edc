"""Cutting a network down to a cost: which channels go, and the cut itself.

Whole blocks go first, then channels in steps the engine likes, always those that buy the most cost for the least
relevance. Masks are not smaller networks: this removes weights.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud.relevance import Group, dependency_graph

STEP = 8
FEWEST = 8
KEPT_SHARE = 0.2
LEAST_RELAX = 0.05

LayerCost = Callable[["Layer", int, int], float]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as it is used. `positions`: output height × width."""

    name: str
    kernel: int
    stride: int
    positions: int
    depthwise: bool
    into: int
    out: int


def layers_of(network: nn.Module, example: Tensor) -> dict[str, Layer]:
    """Return every convolution and linear layer as it is used on one example, float32 (1, 3, H, W)."""
    found: dict[str, Layer] = {}
    handles = []

    def note(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                positions, kernel, stride = output.shape[2] * output.shape[3], module.kernel_size[0], module.stride[0]
                depthwise = module.groups > 1
                found[name] = Layer(
                    name, kernel, int(stride), positions, depthwise, module.in_channels, module.out_channels
                )
            elif isinstance(module, nn.Linear):
                found[name] = Layer(name, 1, 1, 1, False, module.in_features, module.out_features)

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(note(name, module)))
    try:
        with torch.inference_mode():
            network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def layer_macs(layer: Layer, into: int, out: int) -> float:
    """Multiply-accumulates of a layer with that many channels."""
    return float(layer.positions * layer.kernel**2 * out * (1 if layer.depthwise else into))


def layer_weights(layer: Layer, into: int, out: int) -> float:
    """Weights of a layer with that many channels."""
    return float(layer.kernel**2 * out * (1 if layer.depthwise else into))


def total_cost(layers: dict[str, Layer], cost: LayerCost = layer_macs) -> float:
    """Cost of a network as it is."""
    return sum(cost(layer, layer.into, layer.out) for layer in layers.values())


def choose(
    groups: list[Group],
    layers: dict[str, Layer],
    relevance: dict[str, NDArray[np.float32]],
    budget: float,
    *,
    cost: LayerCost = layer_macs,
    most_weights: float = math.inf,
    keeps: dict[str, float] | None = None,
    step: int = STEP,
    isomorphic: bool = True,
) -> dict[str, list[int]]:
    """Choose the channels to remove so that the network costs at most `budget` and has at most `most_weights`.

    Args:
        groups: of the network.
        layers: of the network.
        relevance: of every group's channels.
        budget: in the unit of `cost`.
        cost: of one layer with so many channels in and out.
        most_weights: of all these layers together.
        keeps: least share of its channels a group of a kind keeps, unless the budget cannot be met otherwise.
        step: channels kept are multiples of it.
        isomorphic: compare groups only after scaling each kind to mean 1.

    Returns:
        The channels to remove by the group's root name; the budget may be missed when no group can give any more.

    """
    scale = _scales(groups, relevance) if isomorphic else dict.fromkeys((g.root for g in groups), 1.0)
    state = _Widths(groups, layers, [(cost, budget), (layer_weights, most_weights)])
    order = {group.root: np.argsort(relevance[group.root]) for group in groups}
    removed: dict[str, int] = defaultdict(int)
    relax = 1.0
    while state.exceeds():
        best, best_price, best_count = None, np.inf, 0
        for group in groups:
            left = group.channels - removed[group.root]
            count = left % step or step
            if left - count < max(FEWEST, relax * (keeps or {}).get(group.kind, KEPT_SHARE) * group.channels):
                continue
            gain = state.gain(group, count)
            if gain <= 0:
                continue
            lost = relevance[group.root][order[group.root][removed[group.root] :][:count]].sum() * scale[group.root]
            if float(lost) / gain < best_price:
                best, best_price, best_count = group, float(lost) / gain, count
        if best is None:
            if relax < LEAST_RELAX:
                break
            relax *= 0.7
            continue
        state.remove(best, best_count)
        removed[best.root] += best_count
    return {root: sorted(order[root][:count].tolist()) for root, count in removed.items() if count}


def _scales(groups: list[Group], relevance: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        by_kind[group.kind] += relevance[group.root].tolist()
    means = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    return {group.root: 1.0 / max(means[group.kind], 1e-12) for group in groups}


class _Widths:
    """Channels each layer has left while choosing, and by how much each budget is exceeded."""

    def __init__(self, groups: list[Group], layers: dict[str, Layer], budgets: list[tuple[LayerCost, float]]) -> None:
        self._layers, self._budgets = layers, budgets
        self._current = [total_cost(layers, cost) for cost, _ in budgets]
        self._into = {name: layer.into for name, layer in layers.items()}
        self._out = {name: layer.out for name, layer in layers.items()}
        self._touched = {g.root: tuple(n for n in dict.fromkeys(g.out + g.into) if n in layers) for g in groups}

    def exceeds(self) -> bool:
        return any(current > most for current, (_, most) in zip(self._current, self._budgets, strict=True))

    def gain(self, group: Group, count: int) -> float:
        """What `count` channels less save of the budgets that are exceeded, each in shares of itself."""
        saved = self._saved(group, count)
        return sum(
            value / most
            for value, current, (_, most) in zip(saved, self._current, self._budgets, strict=True)
            if current > most
        )

    def remove(self, group: Group, count: int) -> None:
        self._current = [left - saved for left, saved in zip(self._current, self._saved(group, count), strict=True)]
        for name in self._touched[group.root]:
            into, out = self._less(group, name, count)
            self._into[name] -= into
            self._out[name] -= out

    def _saved(self, group: Group, count: int) -> list[float]:
        saved = [0.0] * len(self._budgets)
        for name in self._touched[group.root]:
            layer, into, out = self._layers[name], self._into[name], self._out[name]
            less_into, less_out = self._less(group, name, count)
            for place, (cost, _) in enumerate(self._budgets):
                saved[place] += cost(layer, into, out) - cost(layer, into - less_into, out - less_out)
        return saved

    def _less(self, group: Group, name: str, count: int) -> tuple[int, int]:
        loses_output = name in group.out
        loses_input = name in group.into or (loses_output and self._layers[name].depthwise)
        return count * loses_input, count * loses_output


def cut(network: nn.Module, example: Tensor, remove: dict[str, list[int]]) -> None:
    """Remove channels from a network in place, and from every layer that depends on them.

    Args:
        network: to be cut.
        example: one input, float32 (1, 3, H, W).
        remove: channels by the name of the group's root layer.

    """
    graph = dependency_graph(network, example)
    for root, channels in remove.items():
        layer = network.get_submodule(root)
        graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, idxs=channels).prune()


def drop_blocks(blocks: nn.ModuleList, which: list[int]) -> nn.ModuleList:
    """Return the blocks without those; each of them must add to its input, so that it can be skipped."""
    for index in which:
        if not getattr(blocks[index], "residual", False):
            raise ValueError(f"block {index} changes its input's shape and cannot be dropped")
    return nn.ModuleList(block for index, block in enumerate(blocks) if index not in which)


def reestimate_norms(network: nn.Module, batches: list[Tensor]) -> None:
    """Set every BatchNorm's statistics anew from batches of pictures, float32 (N, 3, H, W)."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # cumulative average
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for module, momentum in zip(norms, kept, strict=True):
        module.momentum = momentum
    network.eval()
