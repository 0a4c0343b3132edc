"""Writes the fuzzer's seeds, one small model per operator: python tests/engine/make_corpus.py device/csrc/fuzz/corpus."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from single_op_models import STRATEGIES


def main(directory: Path) -> None:
    for name, strategy in STRATEGIES.items():
        (directory / f"{name.lower()}.tflite").write_bytes(_smallest_of_the_middling(strategy))


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
