"""The student that hears: depthwise-separable convolutions over log-mel, for a fraction of a millisecond a second."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillnet.cloud.core import SameConv2d


@dataclass(frozen=True)
class StudentShape:
    """Channels of the stem and of each block, and each block's stride."""

    stem: int = 32
    channels: tuple[int, ...] = (64, 128, 128, 256)
    strides: tuple[int, ...] = (2, 1, 2, 1)


SIZES = (
    StudentShape(),
    StudentShape(32, (64, 128, 128, 256, 256), (1, 2, 1, 2, 1)),
    StudentShape(32, (64, 128, 128, 128, 256, 256, 256, 256), (1, 2, 1, 1, 2, 1, 1, 1)),
)
"""From 3 to 15 million multiplications a window. The first hears a second for a twentieth of what YAMNet takes."""


class DsCnn(nn.Module):
    """Log-mel float32 (N, 1, frames, bands), normalised, to logits (N, outputs)."""

    def __init__(self, shape: StudentShape, outputs: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.stem = SameConv2d(1, shape.stem, 3, 2)
        self.stem_bn = nn.BatchNorm2d(shape.stem)
        channels = (shape.stem, *shape.channels)
        self.blocks = nn.ModuleList(
            _Separable(into, out, stride)
            for into, out, stride in zip(channels, shape.channels, shape.strides, strict=False)
        )
        self.features = shape.channels[-1]
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Linear(self.features, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def embed(self, x: Tensor) -> Tensor:
        """Return pooled features, float32 (N, features)."""
        x = F.relu6(self.stem_bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        if x.requires_grad:  # the mean's gradient lies otherwise than x: the last norm would take ten times as long
            x.register_hook(_as_convolutions_want)  # type: ignore[no-untyped-call]
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classify(self.dropout(self.embed(x)))
        return logits


def _as_convolutions_want(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


class _Separable(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SameConv2d(into, into, 3, stride, into)
        self.depthwise_bn = nn.BatchNorm2d(into)
        self.pointwise = SameConv2d(into, out, 1)
        self.pointwise_bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.depthwise_bn(self.depthwise(x)))
        return F.relu6(self.pointwise_bn(self.pointwise(x)))


def predict(network: nn.Module, features: Tensor, batch: int = 512) -> Tensor:
    """Return logits for normalised log-mel windows, float32 (N, 1, frames, bands) to (N, outputs)."""
    network.eval()
    with torch.inference_mode():
        parts = [network(features[at : at + batch]) for at in range(0, len(features), batch)]
    return torch.cat(parts)
