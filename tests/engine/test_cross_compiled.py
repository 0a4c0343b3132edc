"""The engine's C tests, cross-compiled for ARM, under qemu-user: NEON, dot-product and 32-bit kernels, bit for bit."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "device" / "csrc" / "fuzz" / "corpus"
TOOLS = {"aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64"), "armv7l": ("arm-linux-gnueabihf-gcc", "qemu-arm")}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, Path]]:
    """Compiles the tests for a machine, once; returns its emulator and their folder."""

    @cache
    def built(machine: str) -> tuple[str, Path]:
        compiler, emulator = TOOLS[machine]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        found = {tool: shutil.which(tool, path=path) for tool in ("cmake", "ninja")}
        found[compiler] = shutil.which(compiler) or shutil.which(f"{compiler}-12")
        found[emulator] = shutil.which(emulator) or shutil.which(f"{emulator}-static")
        for tool, where in found.items():
            if where is None:
                pytest.skip(f"{tool} is not installed: would have shown the kernels of {machine} to be bit-exact")
        folder = tmp_path_factory.mktemp(machine)
        toolchain = ROOT / "device" / "csrc" / f"{machine}.cmake"
        options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={found['ninja']}", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
        cmake = str(found["cmake"])
        subprocess.run([cmake, "-S", str(ROOT), "-B", str(folder), *options], check=True, capture_output=True)
        targets = ["--target", "test_kernels", "test_models", "test_frontend"]
        subprocess.run([cmake, "--build", str(folder), *targets], check=True, capture_output=True)
        return str(found[emulator]), folder / "device" / "csrc" / "tests"

    return built


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "cpu", "kernels"),
    [
        ("aarch64", "cortex-a53", "neon"),
        ("aarch64", "cortex-a72", "neon"),
        ("aarch64", "max", "neondot"),
        ("armv7l", "cortex-a7", "scalar"),
    ],
)
def test_kernels_and_models_are_bit_exact(
    build: Callable[[str], tuple[str, Path]], machine: str, cpu: str, kernels: str
) -> None:
    emulator, tests = build(machine)
    ran = subprocess.run([emulator, "-cpu", cpu, tests / "test_kernels"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{kernels} equals scalar")
    ran = subprocess.run([emulator, "-cpu", cpu, tests / "test_models", CORPUS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["aarch64", "armv7l"])
def test_the_front_end_is_as_defined(build: Callable[[str], tuple[str, Path]], machine: str) -> None:
    emulator, tests = build(machine)
    ran = subprocess.run([emulator, tests / "test_frontend"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
