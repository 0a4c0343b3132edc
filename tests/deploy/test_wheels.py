"""The wheels of a release: both architectures build here, and what their tags promise is in the bytes."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import arm_board
import pytest
import wheels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build(os.uname().machine)


def test_the_native_wheel_keeps_its_tag(native: Path) -> None:
    (line,) = wheels.audit(native, os.uname().machine)
    assert "_engine.abi3.so" in line


@pytest.mark.integration
def test_the_aarch64_wheel_cross_compiles_and_keeps_its_tag() -> None:
    if reason := arm_board.why_not():
        pytest.skip(f"{reason}: not shown that the aarch64 wheel builds")
    (line,) = wheels.audit(wheels.build("aarch64"), "aarch64")
    assert "aarch64" in line


def test_a_wheel_of_another_machine_is_refused(native: Path, tmp_path: Path) -> None:
    arch = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    renamed = tmp_path / native.name.replace(os.uname().machine, arch)
    shutil.copy(native, renamed)
    with pytest.raises(wheels.WheelError, match="made for"):
        wheels.audit(renamed, arch)


def test_a_symbol_newer_than_the_tag_is_refused(tmp_path: Path) -> None:
    """arc4random came with glibc 2.36: no board with manylinux_2_28 has it."""
    source = tmp_path / "new.c"
    source.write_text("#include <stdlib.h>\nunsigned f(void) { return arc4random(); }\n")
    compiled = subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "new.so", source], capture_output=True)
    if compiled.returncode != 0:
        pytest.skip("this glibc has no arc4random: not shown that a newer symbol is refused")
    wheel = tmp_path / f"x-0-cp311-abi3-manylinux_2_28_{os.uname().machine}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "new.so", "new.so")
    with pytest.raises(wheels.WheelError, match=r"GLIBC_2\.36 is newer"):
        wheels.audit(wheel, os.uname().machine)
