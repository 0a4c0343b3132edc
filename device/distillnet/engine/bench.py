"""How fast is a model in the native engine, and in its peers, on the same inputs? Called by `distillnet bench engine`.

Side by side in one process, interleaved in rounds, medians: what the machine does besides hits all alike. With several
threads an engine has a turn of many runs, after a rest in which the threads of the one before fall asleep: they spin on
for up to 0.2 s, on processors that the next one counts on. Memory is measured in a process of its own.
"""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from distillnet.engine.bench_peers import Run, prepare
from distillnet.engine.native import NativeModel
from distillnet.engine.verify import sample_inputs

_LOADS = 7
_REST_S, _TURN_S, _WARM_UPS = 0.25, 0.1, 3
_MEMORY_PROGRAM = """
import re, sys
import numpy as np
from distillnet.engine.native import NativeModel
def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
data = sys.stdin.buffer.read()
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS")
model = NativeModel(data, threads=int(sys.argv[1]), kernels=sys.argv[2] or None, max_arena_bytes=1 << 30)
model.run_tensor(np.zeros(model.info["input"]["shape"], model.info["input"]["dtype"]))
print(status("VmHWM") - before)
"""


def compare(
    data: bytes,
    *,
    peers: tuple[str, ...] = ("litert",),
    threads: int = 1,
    seconds: float = 3.0,
    kernels: str | None = None,
    onnx: Path | None = None,
    ncnn: Path | None = None,
) -> dict[str, Any]:
    """Time one inference in every engine.

    Args:
        data: the `.tflite`.
        peers: of `PEERS`.
        threads: for all engines.
        seconds: to spend on timing, in all, rests included.
        kernels: instruction set of the native engine; None = the best.
        onnx: the same network as an int8 ONNX file, for the peer onnxruntime.
        ncnn: the same network as an ncnn `.param` file, its `.bin` beside it, for the peer ncnn.

    Returns:
        `native_ms`, and for each peer `<peer>_ms`, `<peer>_ratio` (its time over native's) and `<peer>_form` (the
        arithmetic it runs in); `ratio` is LiteRT's; besides `kernels`, `threads`, `rounds`, `load_ms`, `macs`,
        `gmacs_per_second`, `arena_bytes`, `weights_bytes`, `peak_memory_bytes` (what loading and one run added to the
        process; None where the system cannot tell), `layers` and `machine`.

    Raises:
        ModelError: malformed, an unknown peer, or a peer that is not installed.

    """
    loads = []
    for _ in range(_LOADS):
        begun = time.perf_counter()
        native = NativeModel(data, threads=threads, kernels=kernels, max_arena_bytes=1 << 30)
        loads.append((time.perf_counter() - begun) * 1e3)
    x = list(sample_inputs(native.info["input"], 8))[-1]
    runs: dict[str, Run] = {"native": lambda: native.run_tensor(x)}
    forms = {}
    for peer in peers:
        runs[peer], forms[peer] = prepare(peer, data, x, threads=threads, files={"onnxruntime": onnx, "ncnn": ncnn})
    times = _interleaved(runs, seconds) if threads == 1 else _in_turns(runs, seconds)
    native_ms = statistics.median(times["native"])
    profile = native.profile()
    macs = sum(layer["macs"] for layer in profile)
    report: dict[str, Any] = {
        "native_ms": native_ms,
        "kernels": native.info["kernels"],
        "threads": threads,
        "rounds": len(times["native"]),
        "load_ms": statistics.median(loads),
        "peak_memory_bytes": _peak_memory(data, threads, kernels),
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
        report[f"{peer}_form"] = forms[peer]
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


def _in_turns(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["native"]) < 5:
        for name, run in runs.items():
            time.sleep(_REST_S)
            for _ in range(_WARM_UPS):
                run()
            over = time.perf_counter() + _TURN_S
            while time.perf_counter() < over:
                begun = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - begun) * 1e3)
    return times


def _peak_memory(data: bytes, threads: int, kernels: str | None) -> int | None:
    command = [sys.executable, "-c", _MEMORY_PROGRAM, str(threads), kernels or ""]
    done = subprocess.run(command, input=data, capture_output=True)
    return int(done.stdout) if done.returncode == 0 else None


def cpu_name() -> str:
    """Name the processor as Linux does; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
