"""Weights are rounded to int8 with regard to what they are used for, before the converter rounds to the nearest.

Each weight in turn is rounded, and those of its channel that are not yet rounded make up for the error, as far as
inputs of the layer vary together: GPTQ (Frantar, Ashkboos, Hoefler and Alistarh, ICLR 2023). Then each layer's bias
takes back by how much its mean output has moved, as Nagel et al. (ICCV 2019) do. Forward passes of pictures, no labels.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillnet.cloud.core import Classifier, CoreNet, InvertedResidual, SameConv2d, same_pad, scale_of

LARGEST = 127
POSITIONS = 60_000
RIDGE = 1e-2
Layer = tuple[SameConv2d, nn.BatchNorm2d]
Pair = tuple[Tensor, Tensor]
"""What the network being rounded makes of the pictures, and what the network that it was does."""


def rounded(network: Classifier, pictures: Tensor) -> Classifier:
    """Return a copy of a network whose weights, folded with their norms, lie on the grid the converter rounds to.

    The greatest weight of each channel keeps its value, and with it the channel's grid: 255 even steps.

    Args:
        network: its core a `CoreNet`.
        pictures: float32 (N, 3, H, W), normalised, in any order.

    """
    ours, was = copy.deepcopy(network).eval(), network.eval()
    core, core_was = ours.core, was.core
    assert isinstance(core, CoreNet) and isinstance(core_was, CoreNet)
    with torch.inference_mode():
        x = _convolution((core.stem, core.stem_bn), (core_was.stem, core_was.stem_bn), (pictures, pictures))
        for block, block_was in zip(core.blocks, core_was.blocks, strict=True):
            assert isinstance(block, InvertedResidual) and isinstance(block_was, InvertedResidual)
            x = _block(block, block_was, x)
        a, b = _convolution((core.head, core.head_bn), (core_was.head, core_was.head_bn), x)
        felt, felt_was = a.mean((2, 3)), b.mean((2, 3))
        _round(ours.classify.weight, felt.T[None], torch.ones(len(ours.classify.weight)))
        ours.classify.bias.add_((was.classify(felt_was) - ours.classify(felt)).mean(0))
    return ours


def _block(block: InvertedResidual, was: InvertedResidual, x: Pair) -> Pair:
    y = x
    if block.expand is not None:
        y = _convolution((block.expand, block.expand_bn), (was.expand, was.expand_bn), y)  # type: ignore[arg-type]
    y = _convolution((block.depthwise, block.depthwise_bn), (was.depthwise, was.depthwise_bn), y)
    y = _convolution((block.project, block.project_bn), (was.project, was.project_bn), y, active=False)
    return (x[0] + y[0], x[1] + y[1]) if block.residual else y


def _convolution(layer: Layer, was: Layer, x: Pair, *, active: bool = True) -> Pair:
    """Round a convolution in place and let its norm take back what its mean moves by; return what both make of x."""
    (conv, norm), (conv_was, norm_was), (ours, theirs) = layer, was, x
    assert norm.running_mean is not None
    _round(conv.weight, _inputs(conv, ours), scale_of(norm))
    a, b = conv(ours), conv_was(theirs)
    norm.running_mean += (a - b).mean((0, 2, 3))
    a, b = norm(a), norm_was(b)
    return (F.relu6(a), F.relu6(b)) if active else (a, b)


def _inputs(conv: SameConv2d, x: Tensor) -> Tensor:
    """Return what a channel's weights are multiplied with in some of x, (groups, weights, positions)."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    x = x[:: max(1, x.shape[0] * x.shape[2] * x.shape[3] // stride**2 // POSITIONS)]
    (top, bottom), (left, right) = (same_pad(size, kernel, stride) for size in x.shape[-2:])
    patches = F.unfold(F.pad(x, (left, right, top, bottom)), kernel, stride=stride)
    return patches.transpose(0, 1).reshape(conv.groups, -1, patches.shape[0] * patches.shape[2])


def _round(weight: Tensor, inputs: Tensor, scale: Tensor) -> None:
    """Round weights (O, ...) in place, so that `scale` (O,) times them lies on the grid; inputs (groups, I, positions).

    A channel whose scale is 0 is left alone: nothing comes of it.
    """
    groups, count = inputs.shape[:2]
    products = (inputs @ inputs.mT).double()
    heights = products.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(torch.float32).tiny
    products += RIDGE * heights[:, None, None] * torch.eye(count, dtype=torch.float64)
    passes_on = torch.linalg.cholesky(torch.linalg.inv(products), upper=True)
    left = (weight.flatten(1) * scale[:, None]).double().reshape(groups, -1, count)
    top, at = left.abs().max(2)
    step, end = top.clamp(min=1e-12) / LARGEST, left.gather(2, at[..., None])[..., 0]
    chosen = torch.empty_like(left)
    for index in range(count):
        now = left[..., index]
        chosen[..., index] = torch.where(at == index, end, (now / step).round().clamp(-LARGEST, LARGEST) * step)
        error = (now - chosen[..., index]) / passes_on[:, index, index, None]
        left[..., index:] -= error[..., None] * passes_on[:, index, None, index:]
    on_grid = (chosen.reshape(len(weight), -1) / scale[:, None]).float().reshape(weight.shape)
    weight[scale != 0] = on_grid[scale != 0]
