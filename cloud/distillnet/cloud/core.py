"""The network family of teachers and students: EfficientNet-Lite's inverted residuals, any channels, any blocks.

`CoreNet` is plain torch: a stem, inverted-residual blocks, a head convolution, mean pooling. It takes any resolution
(padding is TensorFlow's SAME) and ends in pooled features; classifiers sit on top of it.
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.05
FEW_POSITIONS = 64


@dataclass(frozen=True)
class BlockShape:
    """One inverted residual: channels in, expanded, out. No expansion convolution where `expands` is false."""

    into: int
    expanded: int
    out: int
    kernel: int
    stride: int
    expands: bool
    residual: bool


@dataclass(frozen=True)
class CoreShape:
    """Everything needed to build a `CoreNet`: serialisable, so that a cut network can be rebuilt."""

    stem: int
    blocks: tuple[BlockShape, ...]
    head: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "CoreShape":
        """Read what `to_json` gave."""
        blocks = tuple(BlockShape(**block) for block in values["blocks"])
        return CoreShape(stem=values["stem"], blocks=blocks, head=values["head"])


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output = ceil(input / stride) at any resolution."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """Build without a bias; a BatchNorm follows."""
        super().__init__(into, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, into, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.convolve(x, self.weight, None)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Do the same with other weights, and a bias."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if x.device.type == "cpu" and x.shape[-2] * x.shape[-1] <= FEW_POSITIONS and self._learns_by_channel():
            return _by_channel(x, weight, bias, stride)
        if kernel > 1:
            pads = [same_pad(int(size), kernel, stride) for size in x.shape[-2:]]
            (top, bottom), (left, right) = pads
            if top == bottom == left == right:
                padded: Tensor = F.conv2d(x, weight, bias, stride, top, 1, self.groups)
                return padded
            x = F.pad(x, (left, right, top, bottom))
        y: Tensor = F.conv2d(x, weight, bias, stride, 0, 1, self.groups)
        return y

    def _learns_by_channel(self) -> bool:
        return self.groups == self.in_channels > 1 and self.training and torch.is_grad_enabled()


def _by_channel(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve each channel by itself, as one matrix product from its positions to those of the output.

    For few positions that is several times quicker on a processor than the gradients of the usual way.
    """
    count, channels, height, width = x.shape
    paths, size = _paths(height, width, weight.shape[-1], stride)
    matrices = (weight.reshape(channels, -1) @ paths).reshape(channels, height * width, -1)
    y = x.permute(1, 0, 2, 3).reshape(channels, count, height * width).contiguous() @ matrices
    y.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]  # products of matrices that lie otherwise are done one by one
    if bias is not None:
        y = y + bias[:, None, None]
    return y.reshape(channels, count, *size).permute(1, 0, 2, 3).contiguous(memory_format=torch.channels_last)


@cache
def _paths(height: int, width: int, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Return which weight leads from where to where, float32 (kernel², height · width · positions), and the size."""
    one = torch.eye(height * width).reshape(height * width, 1, height, width)
    (top, bottom), (left, right) = (same_pad(size, kernel, stride) for size in (height, width))
    padded = F.pad(one, (left, right, top, bottom))
    found = F.conv2d(padded, torch.eye(kernel**2).reshape(-1, 1, kernel, kernel), stride=stride)
    return found.transpose(0, 1).reshape(kernel**2, -1).contiguous(), (found.shape[2], found.shape[3])


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how much TensorFlow's SAME puts before and after `size` positions."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def normalised(
    conv: SameConv2d, norm: nn.BatchNorm2d, x: Tensor, *, folds: bool = False, active: bool = True
) -> Tensor:
    """Convolve, normalise, and where `active` clip to 0–6.

    `folds`: the norm's statistics stand still, so it goes into the weights; half the passes over memory are saved.
    """
    if not folds:
        y: Tensor = norm(conv(x))
        return F.relu6(y) if active else y
    assert norm.running_mean is not None
    scale = scale_of(norm)
    y = conv.convolve(x, conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale)
    return F.relu6(y, inplace=True) if active else y


def scale_of(norm: nn.BatchNorm2d) -> Tensor:
    """Return what a norm multiplies each channel by where its statistics stand still, (channels,)."""
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)


class InvertedResidual(nn.Module):
    """Expand (1×1), depthwise (k×k), project (1×1); adds its input where shapes allow."""

    def __init__(self, shape: BlockShape) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.folds = False
        self.residual = shape.residual
        self.expand = SameConv2d(shape.into, shape.expanded, 1) if shape.expands else None
        self.expand_bn = _norm(shape.expanded) if shape.expands else None
        self.depthwise = SameConv2d(shape.expanded, shape.expanded, shape.kernel, shape.stride, shape.expanded)
        self.depthwise_bn = _norm(shape.expanded)
        self.project = SameConv2d(shape.expanded, shape.out, 1)
        self.project_bn = _norm(shape.out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, into, H, W) to (N, out, H', W')."""
        y = normalised(self.project, self.project_bn, self.inside(x), folds=self.folds, active=False)
        return x + y if self.residual else y

    def inside(self, x: Tensor) -> Tensor:
        """Map (N, into, H, W) to what is projected, (N, expanded, H', W')."""
        if self.expand is not None and self.expand_bn is not None:
            x = normalised(self.expand, self.expand_bn, x, folds=self.folds)
        return normalised(self.depthwise, self.depthwise_bn, x, folds=self.folds)

    @property
    def shape(self) -> BlockShape:
        """What is left of it now."""
        return BlockShape(
            into=(self.expand or self.depthwise).in_channels,
            expanded=self.depthwise.out_channels,
            out=self.project.out_channels,
            kernel=self.depthwise.kernel_size[0],
            stride=self.depthwise.stride[0],
            expands=self.expand is not None,
            residual=self.residual,
        )


class CoreNet(nn.Module):
    """Pictures float32 (N, 3, H, W), normalised, to pooled features float32 (N, head).

    `fixed_norms`: BatchNorm keeps its statistics in training as well. Those of a pretrained network stand for a million
    pictures; the application's own would scale up every channel that has little to say about them, and half of what
    the network knows is lost before training begins.
    """

    def __init__(self, shape: CoreShape, *, fixed_norms: bool = False) -> None:
        """Build with fresh weights (Kaiming, as BatchNorm follows every convolution)."""
        super().__init__()
        self.fixed_norms = fixed_norms
        self.folds = False
        self.stem = SameConv2d(3, shape.stem, 3, 2)
        self.stem_bn = _norm(shape.stem)
        self.blocks = nn.ModuleList(InvertedResidual(block) for block in shape.blocks)
        self.head = SameConv2d(shape.blocks[-1].out, shape.head, 1)
        self.head_bn = _norm(shape.head)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.late(self.early(x, 0), 0)

    def early(self, x: Tensor, count: int) -> Tensor:
        """Map pictures to what the stem and the first `count` blocks make of them, (N, channels, H', W')."""
        x = normalised(self.stem, self.stem_bn, x, folds=self.folds)
        for block in self.blocks[:count]:
            x = block(x)
        return x

    def late(self, x: Tensor, count: int) -> Tensor:
        """Map what `early` gave to features (N, head)."""
        for block in self.blocks[count:]:
            x = block(x)
        return normalised(self.head, self.head_bn, x, folds=self.folds).mean((2, 3))

    def train(self, mode: bool = True) -> "CoreNet":
        """Set the mode of all but fixed norms, which training folds into the weights."""
        super().train(mode)
        if self.fixed_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                elif isinstance(module, CoreNet | InvertedResidual):
                    module.folds = mode
        return self

    @property
    def shape(self) -> CoreShape:
        """What is left of it now."""
        blocks = tuple(block.shape for block in self.blocks if isinstance(block, InvertedResidual))
        return CoreShape(stem=self.stem.out_channels, blocks=blocks, head=self.head.out_channels)


class Classifier(nn.Module):
    """A core with a linear layer on its features: pictures (N, 3, H, W) to logits (N, outputs)."""

    def __init__(self, core: nn.Module, features: int, outputs: int) -> None:
        """Put a fresh linear layer on `core`, which gives `features` values a picture."""
        super().__init__()
        self.core = core
        self.classify = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classify(self.core(x))
        return logits


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def from_efficientnet_lite(network: Any) -> Classifier:
    """Copy a network of the package `efficientnet_lite_pytorch` into this family; outputs are equal."""
    blocks = []
    for block in network._blocks:
        args = block._block_args
        expanded = block._depthwise_conv.out_channels
        blocks.append(
            BlockShape(
                into=args.input_filters,
                expanded=expanded,
                out=args.output_filters,
                kernel=args.kernel_size,
                stride=args.stride if isinstance(args.stride, int) else args.stride[0],
                expands=args.expand_ratio != 1,
                residual=bool(block.id_skip and _first(args.stride) == 1 and args.input_filters == args.output_filters),
            )
        )
    shape = CoreShape(network._conv_stem.out_channels, tuple(blocks), network._conv_head.out_channels)
    core = CoreNet(shape, fixed_norms=True)
    pairs: list[tuple[Any, Any]] = [
        (core.stem, network._conv_stem),
        (core.stem_bn, network._bn0),
        (core.head, network._conv_head),
        (core.head_bn, network._bn1),
    ]
    for ours, theirs in zip(core.blocks, network._blocks, strict=True):
        if theirs._block_args.expand_ratio != 1:
            pairs += [(ours.expand, theirs._expand_conv), (ours.expand_bn, theirs._bn0)]
        pairs += [(ours.depthwise, theirs._depthwise_conv), (ours.depthwise_bn, theirs._bn1)]
        pairs += [(ours.project, theirs._project_conv), (ours.project_bn, theirs._bn2)]
    teacher = Classifier(core, network._conv_head.out_channels, network._fc.out_features)
    pairs.append((teacher.classify, network._fc))
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    return teacher.eval()


def _first(stride: Any) -> int:
    return int(stride if isinstance(stride, int) else stride[0])


def shape_of(core: CoreNet, index: int) -> BlockShape:
    """Return the shape of one block."""
    block = core.blocks[index]
    assert isinstance(block, InvertedResidual)
    return block.shape


def slimmed(shape: CoreShape, factor: float) -> CoreShape:
    """Return a shape with every width scaled, at least 8 and a multiple of 8."""

    def width(channels: int) -> int:
        return max(8, round(channels * factor / 8) * 8)

    def block(old: BlockShape) -> BlockShape:
        into = width(old.into)
        expanded = width(old.expanded) if old.expands else into
        return replace(old, into=into, expanded=expanded, out=width(old.out))

    return CoreShape(width(shape.stem), tuple(block(old) for old in shape.blocks), width(shape.head))


def weights(network: nn.Module) -> int:
    """Count the weights of a network's layers."""
    return sum(p.numel() for p in network.parameters() if p.ndim > 1)


def macs(core: CoreShape, resolution: int, outputs: int = 0) -> int:
    """Count multiply-accumulates of one picture of resolution × resolution; `outputs` of the classifier on top."""
    side = math.ceil(resolution / 2)
    total = side * side * 9 * 3 * core.stem
    for block in core.blocks:
        if block.expands:
            total += side * side * block.into * block.expanded
        side = math.ceil(side / block.stride)
        total += side * side * block.expanded * (block.kernel**2 + block.out)
    return total + side * side * core.blocks[-1].out * core.head + core.head * outputs
