"""The native engine against its peers on real models: `python tests/engine/bench_engine.py [MODEL…] [--threads 1,2]`.

Models: those given, else a student, EfficientNet-Lite0@224 and the int8 ones in DISTILLNET_DATA/models. Prints a table,
milliseconds of one inference (medians, interleaved), per layer with --layers, and writes the facts as JSON lines to
--output. A peer that is not installed, or that cannot have a model, is said to be so and left out. Where one thread
and two are timed, it says how much the second brings, and what the machine has to give: how much more two processes
of one thread each do than one. --hide makes AVX-512, or all of VNNI, invisible to every engine (mask_cpuid.c).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_models
import bench_preprocess

from distillnet.engine.backend import ModelError
from distillnet.engine.bench import compare
from distillnet.engine.bench_peers import PEERS
from distillnet.engine.native import UnsupportedError

ACCOUNT = f"{'GMAC/s':>7} {'load ms':>8} {'peak MB':>8} {'kept MB':>8}"
PACE_SECONDS = 1.0
PACE_PROGRAM = """
import sys, time
import numpy as np
from distillnet.engine.native import NativeModel
model = NativeModel(open(sys.argv[1], "rb").read(), kernels=sys.argv[2] or None, max_arena_bytes=1 << 30)
x, runs = np.zeros(model.info["input"]["shape"], model.info["input"]["dtype"]), 0
model.run_tensor(x)
print("ready", flush=True)
sys.stdin.readline()
end = time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < end:
    model.run_tensor(x)
    runs += 1
print(runs)
"""


def main() -> None:
    """The command line."""
    options = _options()
    if options.hide and "HIDE" not in os.environ:
        _start_again_without(options.hide)
    facts: list[dict[str, Any]] = []
    print(f"{'model':36} kernels     threads {'native':>8}", *(f"{p:>11} ratio" for p in options.peers), ACCOUNT)  # noqa: T201
    for path in options.models or bench_models.all_models():
        for kernels in options.kernels:
            try:
                timed = {threads: _measure(path, threads, kernels, options) for threads in options.threads}
            except UnsupportedError as exc:
                print(f"{path.name:36} not native: {exc}")  # noqa: T201
                break
            if {1, 2} <= timed.keys():
                timed[2]["speedup"] = timed[1]["native_ms"] / timed[2]["native_ms"]
                timed[2]["two_processes"] = _two_processes(path, kernels)
            for fact in timed.values():
                facts.append({"model": path.name, "hidden": options.hide, **fact})
                _print(path, fact, options)
    if not (options.models or options.hide):
        facts.append(bench_preprocess.compare())
        print(bench_preprocess.describe(facts[-1]))  # noqa: T201
    if options.output is not None:
        options.output.write_text("".join(json.dumps(fact) + "\n" for fact in facts))


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--kernels", type=names, default=[None], help="e.g. avx512vnni,avx2,scalar")
    parser.add_argument("--peers", type=names, default=list(PEERS), help=f"of {', '.join(PEERS)}; all by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="per line of the table")
    parser.add_argument("--hide", choices=["avx512", "vnni"], help="from all engines: AVX-512, or AVX-VNNI as well")
    parser.add_argument("--layers", action="store_true", help="where the time goes")
    parser.add_argument("--output", type=Path, help="JSON lines")
    return parser.parse_args()


def _start_again_without(instructions: str) -> None:
    mask = Path(tempfile.gettempdir()) / f"distillnet-mask-cpuid-{os.getuid()}.so"
    source = Path(__file__).with_name("mask_cpuid.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", mask, source], check=True)
    environment = {**os.environ, "HIDE": instructions, "LD_PRELOAD": str(mask)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def _two_processes(path: Path, kernels: str | None) -> float:
    """Inferences of two processes at the same time over those of one."""
    paces = {1: 0, 2: 0}
    for _ in range(2):
        for processes in paces:
            paces[processes] += _pace(path, kernels, processes)
    return paces[2] / paces[1]


def _pace(path: Path, kernels: str | None, processes: int) -> int:
    command = [sys.executable, "-c", PACE_PROGRAM, str(path), kernels or "", str(PACE_SECONDS)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate()[0]) for process in running)


def _measure(path: Path, threads: int, kernels: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Time it beside those peers that can have it, interleaved."""
    files = {peer: bench_models.peer_file(path, peer) for peer in ("onnxruntime", "ncnn") if peer in options.peers}
    peers, data = list(options.peers), path.read_bytes()
    while True:
        try:
            return compare(
                data,
                peers=tuple(peers),
                threads=threads,
                seconds=options.seconds,
                kernels=kernels,
                onnx=files.get("onnxruntime"),
                ncnn=files.get("ncnn"),
            )
        except ModelError as exc:
            absent = next((peer for peer in peers if peer in str(exc)), None)
            if absent is None:
                raise
            sys.stderr.write(f"{path.name}: without {absent}: {exc}\n")
            peers.remove(absent)


def _print(path: Path, fact: dict[str, Any], options: argparse.Namespace) -> None:
    columns = [f"{path.name:36} {fact['kernels']:11} {fact['threads']:7} {fact['native_ms']:8.3f}"]
    for peer in options.peers:
        there = f"{peer}_ms" in fact
        columns.append(f"{fact[f'{peer}_ms']:11.3f} {fact[f'{peer}_ratio']:5.2f}" if there else f"{'-':>11} {'-':>5}")
    peak, kept = fact["peak_memory_bytes"], fact["arena_bytes"] + fact["weights_bytes"]
    columns.append(f"{fact['gmacs_per_second']:7.1f} {fact['load_ms']:8.2f} {(peak or 0) / 1e6:8.2f} {kept / 1e6:8.2f}")
    print(*columns, flush=True)  # noqa: T201
    if "speedup" in fact:
        print(  # noqa: T201
            f"    {fact['speedup']:.2f}x of its speed with one thread;"
            f" two processes of one thread do {fact['two_processes']:.2f}x of what one does"
        )
    if options.layers:
        for layer in sorted(fact["layers"], key=lambda layer: -layer["ms"])[:15]:
            speed = layer["macs"] / layer["ms"] / 1e6 if layer["ms"] else 0.0
            print(f"    {layer['index']:3} {layer['op']:24} {layer['ms']:8.4f} ms {speed:7.1f} GMAC/s")  # noqa: T201


if __name__ == "__main__":
    main()
