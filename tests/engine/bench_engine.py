"""The native engine against its peers on real models: `python tests/engine/bench_engine.py [MODEL…] [--threads 1,2]`.

Models: those given, else all int8 ones in DISTILLNET_DATA/models. Prints a table, per layer with --layers, and writes
the facts as JSON lines to --output.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from distillnet.engine.bench import compare
from distillnet.engine.native import UnsupportedError

ROOT = Path(__file__).parents[2]
HEADER = f"{'model':36} kernels     threads native ms LiteRT ms  ratio  GMAC/s  load ms"


def main() -> None:
    options = _options()
    facts = []
    print(HEADER)  # noqa: T201
    for path in options.models or _models():
        for threads in options.threads:
            for kernels in options.kernels:
                try:
                    fact = compare(path.read_bytes(), threads=threads, seconds=options.seconds, kernels=kernels)
                except UnsupportedError as exc:
                    print(f"{path.name:36} not native: {exc}")  # noqa: T201
                    break
                facts.append({"model": path.name, **fact})
                _print(path, fact, options.layers)
    if options.output is not None:
        options.output.write_text("".join(json.dumps(fact) + "\n" for fact in facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument(
        "--kernels", type=lambda text: text.split(","), default=[None], help="e.g. avx512vnni,avx2,scalar"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="per line of the table")
    parser.add_argument("--layers", action="store_true", help="where the time goes")
    parser.add_argument("--output", type=Path, help="JSON lines")
    return parser.parse_args()


def _models() -> list[Path]:
    data = Path(os.environ.get("DISTILLNET_DATA", ROOT.parent / "shared" / "data"))
    models = sorted((data / "models").glob("*int8.tflite"))
    if not models:
        sys.exit(f"no int8 models in {data / 'models'}: set DISTILLNET_DATA or name some")
    return models


def _print(path: Path, fact: dict[str, Any], layers: bool) -> None:
    print(  # noqa: T201
        f"{path.name:36} {fact['kernels']:11} {fact['threads']:7} {fact['native_ms']:9.3f} {fact['litert_ms']:9.3f} "
        f"{fact['ratio']:6.2f} {fact['gmacs_per_second']:7.1f} {fact['load_ms']:8.1f}"
    )
    if layers:
        for layer in sorted(fact["layers"], key=lambda layer: -layer["ms"])[:15]:
            speed = layer["macs"] / layer["ms"] / 1e6 if layer["ms"] else 0.0
            print(f"    {layer['index']:3} {layer['op']:24} {layer['ms']:8.4f} ms {speed:7.1f} GMAC/s")  # noqa: T201


if __name__ == "__main__":
    main()
