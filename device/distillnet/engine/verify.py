"""Is the native engine bit for bit LiteRT's reference kernels on a model? Called by `distillnet bench verify`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from distillnet.engine.backend import Tensor
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.native import NativeModel


def sample_inputs(tensor: dict[str, Any], count: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield `count` inputs for a tensor as described by `Model.info`: the extremes first, then noise of three kinds."""
    rng = np.random.default_rng(seed)
    shape, dtype = tensor["shape"], np.dtype(tensor["dtype"])
    if dtype.kind == "f":
        for _ in range(count):
            yield rng.standard_normal(shape).astype(dtype)
        return
    limits = np.iinfo(dtype)
    for index in range(count):
        if index < 3:
            yield np.full(shape, (limits.min, limits.max, tensor["zero_point"])[index], dtype)
        elif index % 3 == 0:
            yield rng.choice([limits.min, limits.max], shape).astype(dtype)
        elif index % 3 == 1:
            yield rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        else:
            noise = rng.normal(tensor["zero_point"], 20, shape)
            yield np.clip(np.round(noise), limits.min, limits.max).astype(dtype)


def mismatches(data: bytes, *, inputs: int, threads: int = 1, kernels: str | None = None) -> dict[str, Any]:
    """Run both engines on the same inputs.

    Returns:
        `engine`, `kernels`, `threads`, `inputs`, `mismatches` (inputs whose output differs in any value) and
        `largest_difference` (in steps of the output).

    Raises:
        UnsupportedError: the native engine does not know the model.
        ModelError: malformed.

    """
    native = NativeModel(data, threads=threads, kernels=kernels, max_arena_bytes=1 << 30)
    reference = LiteRTModel(data, reference=True)
    wrong, largest = 0, 0.0
    for x in sample_inputs(native.info["input"], inputs):
        got, expected = native.run_tensor(x), reference.run_tensor(x)
        if not np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f"):
            wrong += 1
            difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
            largest = max(largest, float(difference.max()))
    return {
        "engine": "native",
        "kernels": native.info["kernels"],
        "threads": threads,
        "inputs": inputs,
        "mismatches": wrong,
        "largest_difference": largest,
    }
