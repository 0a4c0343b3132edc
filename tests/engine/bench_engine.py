"""The native engine against its peers on real models: `python tests/engine/bench_engine.py [MODEL…] [--threads 1,2]`.

Models: those given, else a student, EfficientNet-Lite0@224 and the int8 ones in DISTILLNET_DATA/models. Prints a table,
milliseconds of one inference (medians, interleaved), per layer with --layers, and writes the facts as JSON lines to
--output. A peer that is not installed, or that cannot have a model, is said to be so and left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import bench_models

from distillnet.engine.backend import ModelError
from distillnet.engine.bench import compare
from distillnet.engine.bench_peers import PEERS
from distillnet.engine.native import UnsupportedError

ACCOUNT = f"{'GMAC/s':>7} {'load ms':>8} {'peak MB':>8} {'kept MB':>8}"


def main() -> None:
    """The command line."""
    options = _options()
    facts: list[dict[str, Any]] = []
    print(f"{'model':36} kernels     threads {'native':>8}", *(f"{p:>11} ratio" for p in options.peers), ACCOUNT)  # noqa: T201
    for path in options.models or bench_models.all_models():
        for threads in options.threads:
            for kernels in options.kernels:
                try:
                    fact = _measure(path, threads, kernels, options)
                except UnsupportedError as exc:
                    print(f"{path.name:36} not native: {exc}")  # noqa: T201
                    break
                facts.append({"model": path.name, **fact})
                _print(path, fact, options)
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
    parser.add_argument("--layers", action="store_true", help="where the time goes")
    parser.add_argument("--output", type=Path, help="JSON lines")
    return parser.parse_args()


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
    if options.layers:
        for layer in sorted(fact["layers"], key=lambda layer: -layer["ms"])[:15]:
            speed = layer["macs"] / layer["ms"] / 1e6 if layer["ms"] else 0.0
            print(f"    {layer['index']:3} {layer['op']:24} {layer['ms']:8.4f} ms {speed:7.1f} GMAC/s")  # noqa: T201


if __name__ == "__main__":
    main()
