"""From a frame of 1280×720 to a student's input of 96×96: the engine beside cv2.resize(INTER_AREA) and NumPy's
quantisation, interleaved, medians: `python tests/engine/bench_preprocess.py`. `make bench-engine` prints it too.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distillnet.engine.preprocess import Preparation
from distillnet.proto.card import ImageInput

SPEC = ImageInput(width=96, height=96, colour="rgb", mean=127.0, scale=128.0)
SCALE, ZERO_POINT = 1 / 128, -1


def compare(seconds: float = 2.0) -> dict[str, Any]:
    """Time both; `ratio` is OpenCV's and NumPy's time over the engine's, OpenCV on one thread."""
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    preparation = Preparation(frame.shape, [None], SPEC, SCALE, ZERO_POINT)
    runs = {"native": lambda: preparation.fill(frame, 0), "opencv": lambda: _opencv(frame)}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = _interleaved(runs, seconds)
    finally:
        cv2.setNumThreads(threads)
    most = int(np.abs(runs["native"]()[0].astype(int) - runs["opencv"]()).max())
    native_ms, opencv_ms = (statistics.median(times[name]) for name in ("native", "opencv"))
    return {
        "preprocess": "1280x720 BGR to 96x96 int8",
        "native_ms": native_ms,
        "opencv_ms": opencv_ms,
        "ratio": opencv_ms / native_ms,
        "largest_difference": most,
        "rounds": len(times["native"]),
    }


def describe(fact: dict[str, Any]) -> str:
    """Put it in one line."""
    return (
        f"{fact['preprocess']}: native {fact['native_ms']:.3f} ms, OpenCV and NumPy {fact['opencv_ms']:.3f} ms,"
        f" {fact['ratio']:.2f}x as long; they differ by {fact['largest_difference']} at most"
    )


def _opencv(frame: NDArray[np.uint8]) -> NDArray[np.int8]:
    small = cv2.resize(frame, (SPEC.width, SPEC.height), interpolation=cv2.INTER_AREA)
    real = (small[..., ::-1].astype(np.float32) - np.float32(SPEC.mean)) / np.float32(SPEC.scale)
    quantised: NDArray[np.int8] = np.clip(np.round(real / np.float32(SCALE)) + ZERO_POINT, -128, 127).astype(np.int8)
    return quantised


def _interleaved(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begun) * 1e3)
    return times


if __name__ == "__main__":
    print(describe(compare()))  # noqa: T201
