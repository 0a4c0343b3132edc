"""Writes the seeds of the fuzzer and of test_models.c: one small model per operator, and what LiteRT's reference
kernels answer to the noise that test_models.c makes: python tests/engine/make_corpus.py device/csrc/fuzz/corpus.
"""

import sys
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from single_op_models import STRATEGIES

from distillnet.engine.litert import LiteRTModel


def main(directory: Path) -> None:
    for name, strategy in STRATEGIES.items():
        model = _smallest_of_the_middling(strategy)
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
