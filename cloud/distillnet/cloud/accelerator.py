"""Where training and the teacher's passes compute: the one place that decides.

A CUDA device when torch has one, else the processor; `CUDA_VISIBLE_DEVICES=` hides the former. On the processor a
seed and a number of steps give the same student, bit for bit; a CUDA device adds in no fixed order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distillnet.cloud.host import machine


def device() -> torch.device:
    """Return the device that networks are moved to for as long as they learn or are asked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def memory_format() -> torch.memory_format:
    """Return how networks and pictures lie in memory there: depthwise convolutions are quickest so."""
    return torch.contiguous_format if device().type == "cuda" else torch.channels_last


def describe() -> str:
    """Name the device, for reports."""
    return torch.cuda.get_device_name() if device().type == "cuda" else machine()


def replayed(network: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    """Return what does the same for every `x` of that shape, forwards and backwards, as one recorded CUDA graph.

    A small network's step is hundreds of short kernels, and starting them one by one takes longer than they do. On the
    processor: `network` itself.
    """
    if x.device.type != "cuda":
        return network
    return torch.cuda.make_graphed_callables(network, (x,), allow_unused_input=True)
