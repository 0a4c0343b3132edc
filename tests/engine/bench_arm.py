"""Instructions that one inference executes on aarch64, the engine beside tflite-runtime 2.14, under qemu-user.

    python tests/engine/bench_arm.py [MODEL…] [--cpus cortex-a72,max] [--output FILE]

Models: those given, else a student, EfficientNet-Lite0@224 and the int8 models in DISTILLNET_DATA/models. Both engines
run in Debian's arm64 Python, each from its aarch64 wheel, one thread, the same file and input; a plugin of qemu counts
(count_instructions.c). What a few inferences take is subtracted from what more of them take, which leaves inferences
and nothing else. The engine's outputs must be those of this machine. Prints a table; JSON lines with --output.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import bench_models

sys.path.insert(0, str(bench_models.ROOT / "deploy"))
import arm_board
import arm_root
import wheelhouse

PEER = ["tflite-runtime==2.14.0", "numpy==1.26.4"]
PEER_SITE = wheelhouse.BUILD / "arm64-peer"
FEW = 2
ENOUGH_MACS = 100_000_000
HEADER = f"{'model':36} cpu         kernels   engine M  tflite-runtime M  ratio"

ENGINE_PROGRAM = """
import sys, hashlib
import numpy as np
from distillnet.engine.native import NativeModel
model = NativeModel(open(sys.argv[1], "rb").read(), max_arena_bytes=1 << 30)
info = model.info["input"]
limits = np.iinfo(info["dtype"])
x = np.random.default_rng(0).integers(limits.min, limits.max + 1, info["shape"], dtype=info["dtype"])
for _ in range(int(sys.argv[2])):
    y = model.run_tensor(x)
print(model.info["kernels"], hashlib.sha256(y.tobytes()).hexdigest())
"""
PEER_PROGRAM = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
model = Interpreter(sys.argv[1], num_threads=1)
model.allocate_tensors()
input, output = model.get_input_details()[0], model.get_output_details()[0]
limits = np.iinfo(input["dtype"])
x = np.random.default_rng(0).integers(limits.min, limits.max + 1, input["shape"], dtype=input["dtype"])
for _ in range(int(sys.argv[2])):
    model.set_tensor(input["index"], x)
    model.invoke()
    y = model.get_tensor(output["index"])
print("tflite-runtime", "-")
"""


def main() -> None:
    """The command line."""
    options = _options()
    if reason := arm_board.why_not():
        sys.exit(f"error: {reason}")
    try:
        arm_board.install()
    except arm_root.RootError as exc:
        sys.exit(f"error: {exc}")
    _install_peer()
    facts = []
    print(HEADER, flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        plugin = _compile_plugin(Path(folder))
        for path in options.models or bench_models.all_models():
            for cpu in options.cpus.split(","):
                facts.append(_compare(path, cpu, plugin))
                _print(facts[-1])
    if options.output is not None:
        options.output.write_text("".join(json.dumps(fact) + "\n" for fact in facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--cpus", default="cortex-a72,max", help="of qemu; cortex-a72 has NEON alone (default: both)")
    parser.add_argument("--output", type=Path, help="JSON lines")
    return parser.parse_args()


def _install_peer() -> None:
    stamp = PEER_SITE / ".complete"
    if stamp.exists() and stamp.read_text() == " ".join(PEER):
        return
    shutil.rmtree(PEER_SITE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-qq", "--no-deps", "-d", folder]
        options = ["--only-binary=:all:", "--python-version", wheelhouse.PYTHON, "--implementation", "cp"]
        for glibc in ("manylinux_2_34", "manylinux_2_17", "manylinux2014"):
            options += ["--platform", f"{glibc}_aarch64"]
        subprocess.run([*pip, *options, *PEER], check=True)
        for wheel in Path(folder).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(PEER_SITE)
    stamp.write_text(" ".join(PEER))


def _compile_plugin(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("error: no C compiler for the instruction counter: apt-get install gcc")
    plugin = folder / "count_instructions.so"
    source = Path(__file__).with_name("count_instructions.c")
    subprocess.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", source, "-o", plugin], check=True)
    return plugin


def _compare(path: Path, cpu: str, plugin: Path) -> dict[str, Any]:
    here = subprocess.run(
        [sys.executable, "-c", ENGINE_PROGRAM, str(path), "1"], check=True, capture_output=True, text=True
    )
    rounds = _rounds(path)
    native, said = _instructions(ENGINE_PROGRAM, path, cpu, rounds, plugin, {})
    peer, _ = _instructions(PEER_PROGRAM, path, cpu, rounds, plugin, {"PYTHONPATH": str(PEER_SITE)})
    kernels, digest = said
    if digest != here.stdout.split()[1]:
        sys.exit(f"error: {path.name} on {cpu}: the engine's outputs differ from this machine's")
    return {
        "model": path.name,
        "cpu": cpu,
        "kernels": kernels,
        "native_instructions": native,
        "peer_instructions": peer,
        "peer": PEER[0],
        "ratio": native / peer,
        "inferences": rounds,
    }


def _rounds(path: Path) -> int:
    from distillnet.engine.native import NativeModel

    profile = NativeModel(path.read_bytes(), max_arena_bytes=1 << 30).profile()
    return min(100, max(2, ENOUGH_MACS // max(1, sum(layer["macs"] for layer in profile))))


def _instructions(
    program: str, path: Path, cpu: str, rounds: int, plugin: Path, environment: dict[str, str]
) -> tuple[int, list[str]]:
    counted = []
    for runs in (FEW, FEW + rounds):
        count = plugin.with_name("count")
        count.unlink(missing_ok=True)
        fixed = {"PYTHONHASHSEED": "0", **environment}
        line = arm_board.command(str(path), str(runs), cpu=cpu, program=program, environment=fixed)
        line[1:1] = ["-plugin", f"{plugin},out={count}"]
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            sys.exit(f"error: {path.name} on {cpu}: {done.stderr.strip()[-500:]}")
        counted.append(int(count.read_text()))
    return (counted[1] - counted[0]) // rounds, done.stdout.split()


def _print(fact: dict[str, Any]) -> None:
    print(  # noqa: T201
        f"{fact['model']:36} {fact['cpu']:11} {fact['kernels']:8} {fact['native_instructions'] / 1e6:9.2f} "
        f"{fact['peer_instructions'] / 1e6:17.2f} {fact['ratio']:6.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
