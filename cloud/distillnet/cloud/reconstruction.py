"""What a cut leaves is taught in closed form what it stood for, before any gradient does.

Nothing clips what one block hands to the next, so that stream can be turned: what is left of it are not some of its
channels but the directions that matter most to the convolution that takes it: reduced-rank regression (Izenman, 1975),
as Ashkboos et al. (ICLR 2024) cut transformers.

Every block that is left then has its last convolution solved anew, by ridge regression, so that it hands on what the
next block got in the whole network: channels that are gone are made up for by those that stay, a dropped block by the
one before it. (He, Zhang and Sun, ICCV 2017, do so for channels.) Forward passes of pictures, no labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from distillnet.cloud.core import CoreNet, InvertedResidual, scale_of

ROWS = 24_000
FEWEST_PICTURES, POSITIONS = 384, 300_000
RIDGE = 1e-3
_BATCH = 64


@dataclass(frozen=True)
class Left:
    """What a cut left of the whole network, int64: for each block of the cut one `origins`, which block it was; which
    channels are left of what it expands to (`expanded`; None where it does not expand) and of what it hands on
    (`streams`: how many are left is what counts); and those of the head.
    """

    origins: Sequence[int]
    expanded: Sequence[Tensor | None]
    streams: Sequence[Tensor]
    head: Tensor


@dataclass(frozen=True)
class _Turn:
    """How a cut network sees a stream of C channels: z = (x − mean) · down, and x is about mean + up · z.

    `mean` float64 (C,); `down` and `up` float64 (C, d).
    """

    mean: Tensor
    down: Tensor
    up: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, d, H, W)."""
        shifted = x - self.mean.float()[:, None, None]
        return torch.einsum("nchw,cd->ndhw", shifted, self.down.float())


def reconstruct(core: CoreNet, whole: CoreNet, left: Left, pictures: Tensor, *, seed: int = 0) -> None:
    """Refit a cut network in place.

    Args:
        core: the cut network.
        whole: what it was cut from, not changed.
        left: what of it is left.
        pictures: float32 (N, 3, H, W), normalised, in any order but by what they show; not all of them are shown to
            early blocks, which have many positions to look at in each.
        seed: of the positions looked at and of how what is left of a stream is mixed.

    """
    generator = torch.Generator().manual_seed(seed)
    core.eval()
    whole.eval()
    with torch.inference_mode():
        turns = _turns(core, whole, left, pictures, generator)
        ours, theirs = core.early(pictures[:0], 0), whole.early(pictures[:0], 0)
        for place, block in enumerate(core.blocks):
            assert isinstance(block, InvertedResidual)
            origin = left.origins[place]
            positions = ours.shape[2] * ours.shape[3]
            more = pictures[len(ours) : max(FEWEST_PICTURES, POSITIONS // positions)]
            ours = torch.cat([ours, _in_batches(partial(core.early, count=place), more)])
            theirs = torch.cat([theirs, _in_batches(partial(whole.early, count=origin), more)])
            was, channels = whole.blocks[origin], left.expanded[place]
            if place and channels is not None:
                _face(block.expand, block.expand_bn, was.expand, was.expand_bn, channels, turns[place - 1])  # type: ignore[arg-type]
            for index in range(origin, _following(left, whole, place)):
                theirs = _in_batches(whole.blocks[index], theirs)
            _refit(block, ours, turns[place](theirs), generator)
            ours = _in_batches(block, ours)
        _face(core.head, core.head_bn, whole.head, whole.head_bn, left.head, turns[-1])


def _following(left: Left, whole: CoreNet, place: int) -> int:
    """Return the block of the whole network that gets what the block at `place` stands for."""
    return left.origins[place + 1] if place + 1 < len(left.origins) else len(whole.blocks)


def _turns(core: CoreNet, whole: CoreNet, left: Left, pictures: Tensor, generator: torch.Generator) -> list[_Turn]:
    """Return how each block of the cut network sees what it hands on; alike for blocks that add to one stream."""
    stages: list[list[int]] = []
    for place, block in enumerate(core.blocks):
        stages += [[]] if not place or not block.residual else []
        stages[-1].append(place)
    handing = [[_following(left, whole, place) - 1 for place in places] for places in stages]
    products = _products(whole, handing, pictures)
    turns: list[_Turn] = []
    for places, product in zip(stages, products, strict=True):
        takers = [_taker(whole, left, place) for place in places]
        takers += [None] if core.blocks[places[0]].residual else []  # the stem's stream, which is clipped
        turns += [_turn(product, left.streams[places[0]], takers, generator)] * len(places)
    return turns


def _taker(whole: CoreNet, left: Left, place: int) -> Tensor | None:
    """Return the weights, (what is left, C), by which the next 1×1 convolution takes a stream; None: it is another."""
    if place + 1 == len(left.origins):
        return _folded(whole.head, whole.head_bn, left.head)
    block, channels = whole.blocks[left.origins[place + 1]], left.expanded[place + 1]
    return None if channels is None else _folded(block.expand, block.expand_bn, channels)  # type: ignore[arg-type]


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, channels: Tensor) -> Tensor:
    return (conv.weight[:, :, 0, 0] * scale_of(norm)[:, None])[channels].double()


def _products(whole: CoreNet, stages: list[list[int]], pictures: Tensor) -> list[Tensor]:
    """Return for each stage the summed products of what its blocks hand on, and of a 1 beside it, (C + 1, C + 1)."""
    products: dict[int, Tensor] = {}
    for batch in torch.split(pictures, _BATCH):
        x = whole.early(batch, 0)
        for index, block in enumerate(whole.blocks):
            x = block(x)
            for stage in (number for number, blocks in enumerate(stages) if index in blocks):
                rows = _rows(x).double()
                rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
                products[stage] = products.get(stage, 0.0) + rows.T @ rows
    return [products[stage] for stage in range(len(stages))]


def _turn(product: Tensor, stream: Tensor, takers: list[Tensor | None], generator: torch.Generator) -> _Turn:
    """Return the directions in which most of what its takers make of a stream varies, as many as are left of it.

    Where a taker can only take channels, or all are left: those channels.
    """
    count = len(product) - 1
    weights = [weight for weight in takers if weight is not None]
    if len(weights) < len(takers) or len(stream) == count:
        chosen = torch.eye(count, dtype=torch.float64)[:, stream]
        return _Turn(torch.zeros(count, dtype=torch.float64), chosen, chosen)
    mean = product[:-1, -1] / product[-1, -1]
    spread = _ridged(product[:-1, :-1] / product[-1, -1] - mean[:, None] * mean)
    taken = _ridged(torch.cat(weights).T @ torch.cat(weights))
    values, vectors = torch.linalg.eigh(taken)
    root = vectors * values.sqrt() @ vectors.T
    seen = root @ torch.linalg.eigh(root @ spread @ root).eigenvectors[:, -len(stream) :]
    down = torch.linalg.qr(seen).Q
    # Mixed, they vary alike: int8 has one scale for all channels of a stream.
    mixed = torch.linalg.qr(torch.randn(len(stream), len(stream), generator=generator, dtype=torch.float64)).Q
    down = down @ mixed
    return _Turn(mean, down, spread @ down @ torch.linalg.inv(down.T @ spread @ down))


def _face(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, was: nn.Conv2d, norm_was: nn.BatchNorm2d, channels: Tensor, turn: _Turn
) -> None:
    """Let a 1×1 convolution, of which `channels` are left, take a stream as it is turned."""
    weight = was.weight[channels, :, 0, 0].double()
    conv.weight.copy_((weight @ turn.up)[:, :, None, None])
    norm.running_mean.copy_(norm_was.running_mean[channels] - weight @ turn.mean)  # type: ignore[union-attr,index]


def _in_batches(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([part(piece) for piece in torch.split(x, _BATCH)])


def _refit(block: InvertedResidual, x: Tensor, aim: Tensor, generator: torch.Generator) -> None:
    wanted = aim - x if block.residual else aim
    a, y = _rows(_in_batches(block.inside, x)), _rows(wanted)
    chosen = torch.randperm(len(a), generator=generator)[:ROWS]
    a, y = a[chosen].double(), y[chosen].double()
    a_mean, y_mean = a.mean(0), y.mean(0)
    a, y = a - a_mean, y - y_mean
    weight = torch.linalg.solve(_ridged(a.T @ a), a.T @ y)  # (expanded, out)
    spread = (a @ weight).std(0) + 1e-6
    norm = block.project_bn
    block.project.weight.copy_(weight.T[:, :, None, None])
    norm.running_mean.copy_(a_mean @ weight)  # type: ignore[union-attr]
    norm.running_var.copy_(spread.square())  # type: ignore[union-attr]
    norm.weight.copy_((spread.square() + norm.eps).sqrt())
    norm.bias.copy_(y_mean)


def _ridged(products: Tensor) -> Tensor:
    """Make summed products (C, C) regular, however few rows they are of."""
    return products + RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
