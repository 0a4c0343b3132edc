"""Writes the seeds of the fuzzer and of test_models.c: one small model per operator, two of more channels than
pixels, one of inverted residuals that threads run in all their ways, and what LiteRT's reference kernels answer to the
noise that test_models.c makes:
python tests/engine/make_corpus.py device/csrc/fuzz/corpus.
"""

import sys
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from single_op_models import STRATEGIES

from distillnet.engine.litert import LiteRTModel
from distillnet.engine.profile_networks import Blocks, Network, whole
from distillnet.engine.tflite_writer import Builder

_BLOCKS = (Blocks(1, 8, 3, 1, 1), Blocks(4, 8, 5, 1, 2), Blocks(4, 12, 3, 2, 2), Blocks(22, 12, 3, 2, 1))
"""Of 20 lines, 10 and 5; 64 KiB as a file, of which the fuzzer takes no more."""


def main(directory: Path) -> None:
    models = {name: _smallest_of_the_middling(strategy) for name, strategy in STRATEGIES.items()}
    models |= {f"{name}_channels": _more_channels_than_pixels(name) for name in ("CONV_2D", "DEPTHWISE_CONV_2D")}
    models["blocks"], _ = whole(Network("blocks", 40, 8, _BLOCKS, 260, 16))
    for name, model in models.items():
        (directory / f"{name.lower()}.tflite").write_bytes(model)
        if name != "borders":  # noise makes no sensible floats
            (directory / f"{name.lower()}.expected").write_bytes(_expected(model))


def _expected(model: bytes) -> bytes:
    reference = LiteRTModel(model, reference=True)
    shape, state = reference.info["input"]["shape"], 1
    noise = bytearray()
    for _ in range(int(np.prod(shape))):
        state = (state * 1664525 + 1013904223) % 2**32
        noise.append(state >> 24)
    output: bytes = reference.run_tensor(np.frombuffer(bytes(noise), np.int8).reshape(shape)).tobytes()
    return output


def _more_channels_than_pixels(operator: str) -> bytes:
    """6×6 pixels; the bias of a dead channel leaves the first channels no quick requantisation."""
    rng, depthwise, n = np.random.default_rng(0), operator == "DEPTHWISE_CONV_2D", 184
    b = Builder()
    x = b.tensor((1, 6, 6, n if depthwise else 8), 0.02, -3)
    scales = (0.004 * np.exp(rng.uniform(-1, 1, n))).astype(np.float32)
    shape = (1, 3, 3, n) if depthwise else (n, 1, 1, 8)
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    w = b.tensor(shape, scales, data=weights, axis=3 if depthwise else 0)
    bias = rng.integers(-4000, 4000, n).astype(np.int32)
    bias[7] = -(2**31)
    inputs = [x, w, b.tensor((n,), np.float32(0.02) * scales, dtype="int32", data=bias)]
    y = b.tensor((1, 6, 6, n), 0.1, 5)
    common = {"padding": 0, "strideH": 1, "strideW": 1, "fusedActivationFunction": 0}
    if depthwise:
        b.op(operator, inputs, [y], "DepthwiseConv2DOptions", depthMultiplier=1, **common)
    else:
        b.op(operator, inputs, [y], "Conv2DOptions", **common)
    return b.build([x], [y])


def _smallest_of_the_middling(strategy: SearchStrategy[bytes]) -> bytes:
    seen: list[bytes] = []

    @settings(derandomize=True, database=None, deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(model: bytes) -> None:
        seen.append(model)

    collect()
    return sorted(seen, key=len)[len(seen) // 4]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
