"""How much each channel group of a network matters to the application.

Channels that must be cut together (torch-pruning's dependency graph) form a group. A channel's relevance is the
expected squared first-order change of the application's loss were its activation gated to zero (Molchanov et al.,
CVPR 2019), taken at the BatchNorm outputs of the group and summed over them. Alternative criteria exist for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud.progress import Advance

Criterion = Literal["taylor", "activation", "magnitude", "random"]
CRITERIA: tuple[Criterion, ...] = ("taylor", "activation", "magnitude", "random")
_BATCH = 32


@dataclass(frozen=True)
class Group:
    """Channels that are cut together. `out` and `into`: names of the convolutions that lose outputs and inputs."""

    root: str
    kind: str
    channels: int
    out: tuple[str, ...]
    into: tuple[str, ...]
    norms: tuple[str, ...]


def find_groups(network: nn.Module, example: Tensor, keep: tuple[nn.Module, ...] = ()) -> list[Group]:
    """Return the groups of a network, in the order of its layers.

    Args:
        network: any torch module.
        example: one input, float32 (1, 3, H, W).
        keep: layers whose outputs must stay (the classifier).

    """
    names = {module: name for name, module in network.named_modules()}
    graph = dependency_graph(network, example)
    groups = []
    for found in graph.get_all_groups(ignored_layers=list(keep), root_module_types=[nn.Conv2d, nn.Linear]):
        out: list[str] = []
        into: list[str] = []
        norms: list[str] = []
        for dependency, _ in found:
            layer, name = dependency.target.module, names.get(dependency.target.module)
            if name is None:
                continue
            if isinstance(layer, nn.BatchNorm2d):
                norms.append(name)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                loses_output = graph.is_out_channel_pruning_fn(dependency.handler)
                (out if loses_output else into).append(name)
        root = found[0].dep.target.module
        groups.append(
            Group(
                root=names[root],
                kind=_kind(network, out),
                channels=int(graph.get_out_channels(root)),
                out=tuple(dict.fromkeys(out)),
                into=tuple(dict.fromkeys(into)),
                norms=tuple(dict.fromkeys(norms)),
            )
        )
    return groups


def dependency_graph(network: nn.Module, example: Tensor) -> Any:
    """Trace a network's dependency graph."""
    return torch_pruning.DependencyGraph().build_dependency(network.eval(), example_inputs=example)


def _kind(network: nn.Module, out: list[str]) -> str:
    """Name the isomorphism class of a group: what kinds of layers its channels run through."""
    layers = [network.get_submodule(name) for name in dict.fromkeys(out)]
    depthwise = sum(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in layers)
    return f"{'expanded' if depthwise else 'stream' if len(layers) > 1 else 'plain'}"


Loss = Callable[[Tensor, Tensor], Tensor]


def application_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the cross-entropy of K+1 logits against wanted probabilities, summed over pictures."""
    return -(wanted * F.log_softmax(logits, 1)).sum()


def rank(
    network: nn.Module,
    groups: list[Group],
    pictures: Tensor,
    wanted: Tensor,
    *,
    criterion: Criterion = "taylor",
    loss: Loss = application_loss,
    seed: int = 0,
    advance: Advance = lambda amount=1.0, note="": None,
) -> dict[str, NDArray[np.float32]]:
    """Return each group's relevance, float32 (channels,), by the name of its root.

    Args:
        network: gives K+1 logits.
        groups: of this network.
        pictures: float32 (N, 3, H, W), normalised.
        wanted: probabilities (N, K+1).
        criterion: `activation`, `magnitude` and `random` are the controls.
        loss: summed over the batch.
        seed: of `random`.
        advance: called with the number of pictures done.

    """
    if criterion == "random":
        rng = np.random.default_rng(seed)
        return {group.root: rng.random(group.channels, np.float32) for group in groups}
    if criterion == "magnitude":
        return {group.root: _magnitude(network, group) for group in groups}
    network.eval()
    outputs: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(_keeper(outputs, name))
        for group in groups
        for name in group.norms
    ]
    totals = {group.root: torch.zeros(group.channels, dtype=torch.float64) for group in groups}
    try:
        for begin in range(0, len(pictures), _BATCH):
            x, y = pictures[begin : begin + _BATCH], wanted[begin : begin + _BATCH]
            outputs.clear()
            with torch.enable_grad():
                loss(network(x.requires_grad_()), y).backward()  # type: ignore[no-untyped-call]
            for group in groups:
                totals[group.root] += _of_batch(outputs, group, criterion)
            network.zero_grad(set_to_none=True)
            advance(len(x))
    finally:
        for handle in handles:
            handle.remove()
    return {root: (total / len(pictures)).float().numpy() for root, total in totals.items()}


def _keeper(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        outputs[name] = output

    return keep


def _of_batch(outputs: dict[str, Tensor], group: Group, criterion: Criterion) -> Tensor:
    total: Tensor | float = 0.0
    for name in group.norms:
        output = outputs[name].detach()
        if criterion == "activation":
            total = total + output.clamp(min=0).mean((2, 3))
        else:
            gradient = outputs[name].grad
            assert gradient is not None
            total = total + (output * gradient).sum((2, 3))
    if not isinstance(total, Tensor):
        return torch.zeros(group.channels, dtype=torch.float64)
    return (total if criterion == "activation" else total.square()).double().sum(0)


def _magnitude(network: nn.Module, group: Group) -> NDArray[np.float32]:
    total = torch.zeros(group.channels)
    for name in group.out:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        total += weight.detach().flatten(1).norm(dim=1)
    return total.numpy()


def block_relevance(
    network: nn.Module, blocks: nn.ModuleList, pictures: Tensor, wanted: Tensor, *, loss: Loss = application_loss
) -> dict[int, float]:
    """Return, for every block that adds to its input, how much the mean loss rises when it is skipped."""
    network.eval()
    with torch.inference_mode():
        base = float(loss(network(pictures), wanted)) / len(pictures)
        rises = {}
        for index, block in enumerate(blocks):
            if getattr(block, "residual", False):
                blocks[index] = nn.Identity()
                rises[index] = float(loss(network(pictures), wanted)) / len(pictures) - base
                blocks[index] = block
    return rises
