"""How fast is a model in the native engine, and in its peers, on the same inputs? Called by `distillnet bench engine`.

Side by side in one process, interleaved in rounds, medians: what the machine does besides hits all alike.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from distillnet.engine.backend import ModelError, Tensor
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.native import NativeModel
from distillnet.engine.verify import sample_inputs

Peer = Literal["litert", "onnxruntime"]
PEERS: tuple[Peer, ...] = ("litert", "onnxruntime")
Run = Callable[[], object]


def compare(
    data: bytes,
    *,
    peers: tuple[str, ...] = ("litert",),
    threads: int = 1,
    seconds: float = 3.0,
    kernels: str | None = None,
    onnx: Path | None = None,
) -> dict[str, Any]:
    """Time one inference in every engine.

    Args:
        data: the `.tflite`.
        peers: of `PEERS`.
        threads: for all engines.
        seconds: to spend on timing, in all.
        kernels: instruction set of the native engine; None = the best.
        onnx: the same network as an int8 ONNX file, for the peer onnxruntime.

    Returns:
        `native_ms`, and for each peer `<peer>_ms` and `<peer>_ratio` (its time over native's); `ratio` is LiteRT's;
        besides `kernels`, `threads`, `rounds`, `load_ms`, `macs`, `gmacs_per_second`, `layers` and `machine`.

    Raises:
        ModelError: malformed, an unknown peer, or a peer that is not installed.

    """
    begun = time.perf_counter()
    native = NativeModel(data, threads=threads, kernels=kernels, max_arena_bytes=1 << 30)
    load_ms = (time.perf_counter() - begun) * 1e3
    x = list(sample_inputs(native.info["input"], 8))[-1]
    runs: dict[str, Run] = {"native": lambda: native.run_tensor(x)}
    for peer in peers:
        runs[peer] = _peer(peer, data, x, threads, onnx)
    times = _interleaved(runs, seconds)
    native_ms = statistics.median(times["native"])
    profile = native.profile()
    macs = sum(layer["macs"] for layer in profile)
    report: dict[str, Any] = {
        "native_ms": native_ms,
        "kernels": native.info["kernels"],
        "threads": threads,
        "rounds": len(times["native"]),
        "load_ms": load_ms,
        "arena_bytes": native.info["arena_bytes"],
        "weights_bytes": native.info["weights_bytes"],
        "macs": macs,
        "gmacs_per_second": macs / native_ms / 1e6,
        "layers": profile,
        "machine": f"{platform.machine()} {cpu_name()}",
    }
    for peer in peers:
        report[f"{peer}_ms"] = statistics.median(times[peer])
        report[f"{peer}_ratio"] = report[f"{peer}_ms"] / native_ms
    if "litert" in peers:
        report["ratio"] = report["litert_ratio"]
    return report


def _interleaved(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["native"]) < 5:
        for name, run in runs.items():
            run()  # warms this engine's caches after the others
            begun = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begun) * 1e3)
    return times


def _peer(name: str, data: bytes, x: Tensor, threads: int, onnx: Path | None) -> Run:
    if name == "litert":
        litert = LiteRTModel(data, threads=threads, reason="peer")
        return lambda: litert.run_tensor(x)
    if name == "onnxruntime":
        return _onnxruntime(x, threads, onnx)
    raise ModelError(f"no peer called {name!r}; there are {', '.join(PEERS)}")


def _onnxruntime(x: Tensor, threads: int, path: Path | None) -> Run:
    if path is None:
        raise ModelError("the peer onnxruntime wants the same network as an ONNX file: --onnx FILE")
    try:
        import onnxruntime
    except ImportError as exc:
        raise ModelError("onnxruntime is not installed: pip install onnxruntime") from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    shape = tuple(1 if not isinstance(n, int) else n for n in wanted.shape)
    if sorted(shape) != sorted(x.shape):
        raise ModelError(f"{path}: takes input {shape}, the .tflite {x.shape}")
    fed = x if shape == x.shape else x.transpose(0, 3, 1, 2)
    fed = fed.astype({"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}[wanted.type])
    return lambda: session.run(None, {wanted.name: fed})


def cpu_name() -> str:
    """Name the processor as Linux does; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
