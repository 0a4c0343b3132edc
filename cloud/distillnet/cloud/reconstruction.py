"""What a cut leaves is taught in closed form what it stood for, before any gradient does.

Every block that is left has its last convolution solved anew, by ridge regression, so that it hands on what the next
block got in the whole network: channels that are gone are made up for by those that stay, a dropped block by the one
before it. (He, Zhang and Sun, ICCV 2017, do so for channels.) Forward passes of some hundred pictures, no labels.
"""

import torch
from torch import Tensor, nn

from distillnet.cloud.core import CoreNet, InvertedResidual

ROWS = 24_000
RIDGE = 1e-3
_BATCH = 64


def reconstruct(
    core: CoreNet, whole: CoreNet, origins: list[int], channels: list[Tensor], pictures: Tensor, *, seed: int = 0
) -> None:
    """Refit the projections of a cut network in place.

    Args:
        core: the cut network.
        whole: what it was cut from, not changed.
        origins: the block of `whole` that each block of `core` was.
        channels: for each block of `core`, which of its output channels in `whole` are left, int64.
        pictures: float32 (N, 3, H, W), normalised.
        seed: of the positions looked at.

    """
    generator = torch.Generator().manual_seed(seed)
    core.eval()
    whole.eval()
    with torch.inference_mode():
        ours, theirs = _stem(core, pictures), _stem(whole, pictures)
        for place, block in enumerate(core.blocks):
            assert isinstance(block, InvertedResidual)
            following = origins[place + 1] if place + 1 < len(origins) else len(whole.blocks)
            for index in range(origins[place] if place else 0, following):
                theirs = _through(whole.blocks[index], theirs)
            _refit(block, ours, theirs[:, channels[place]], generator)
            ours = _through(block, ours)


def _stem(core: CoreNet, pictures: Tensor) -> Tensor:
    return _through(nn.Sequential(core.stem, core.stem_bn, nn.ReLU6()), pictures)


def _through(part: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([part(piece) for piece in torch.split(x, _BATCH)])


def _refit(block: InvertedResidual, x: Tensor, aim: Tensor, generator: torch.Generator) -> None:
    inside = _through(_Inside(block), x)
    wanted = aim - x if block.residual else aim
    a, y = _rows(inside), _rows(wanted)
    chosen = torch.randperm(len(a), generator=generator)[:ROWS]
    a, y = a[chosen].double(), y[chosen].double()
    a_mean, y_mean = a.mean(0), y.mean(0)
    a, y = a - a_mean, y - y_mean
    gram = a.T @ a
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, a.T @ y)  # (expanded, out)
    spread = (a @ weight).std(0) + 1e-6
    norm = block.project_bn
    block.project.weight.copy_(weight.T[:, :, None, None])
    norm.running_mean.copy_(a_mean @ weight)  # type: ignore[union-attr]
    norm.running_var.copy_(spread.square())  # type: ignore[union-attr]
    norm.weight.copy_((spread.square() + norm.eps).sqrt())
    norm.bias.copy_(y_mean)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _Inside(nn.Module):
    """A block up to its projection."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block.inside(x)
