"""The engine's C tests, cross-compiled for aarch64, under qemu-user: NEON and dot-product kernels, bit for bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("aarch64-linux-gnu-gcc") or shutil.which("aarch64-linux-gnu-gcc-12")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CORPUS = ROOT / "device" / "csrc" / "fuzz" / "corpus"


@pytest.fixture(scope="module")
def arm_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake, ninja = shutil.which("cmake", path=tools), shutil.which("ninja", path=tools)
    for tool, what in ((COMPILER, "aarch64-linux-gnu-gcc"), (QEMU, "qemu-aarch64"), (cmake, "cmake"), (ninja, "ninja")):
        if tool is None:
            pytest.skip(f"{what} is not installed: would have shown the aarch64 kernels to be bit-exact")
    build = tmp_path_factory.mktemp("arm")
    toolchain = ROOT / "device" / "csrc" / "aarch64.cmake"
    options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
    subprocess.run([str(cmake), "-S", str(ROOT), "-B", str(build), *options], check=True, capture_output=True)
    subprocess.run(
        [str(cmake), "--build", str(build), "--target", "test_kernels", "test_models"], check=True, capture_output=True
    )
    return build / "device" / "csrc" / "tests"


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "kernels"), [("cortex-a53", "neon"), ("cortex-a72", "neon"), ("max", "neondot")])
def test_kernels_and_models_are_bit_exact(arm_tests: Path, cpu: str, kernels: str) -> None:
    ran = subprocess.run([str(QEMU), "-cpu", cpu, arm_tests / "test_kernels"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{kernels} equals scalar")
    ran = subprocess.run([str(QEMU), "-cpu", cpu, arm_tests / "test_models", CORPUS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
