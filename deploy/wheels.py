"""Build the abi3 wheels that a release ships, and prove their tags from the bytes inside.

    python deploy/wheels.py [x86_64] [aarch64]        # both by default, into dist/

The x86_64 wheel is compiled by the host's compiler, the aarch64 one by Debian's cross compiler against the headers in
`build/arm64-root`. A wheel is tagged manylinux_2_28 and refused here when a symbol in it needs a newer glibc, when it
wants a library that manylinux does not promise, or when its machine is not the tag's.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import arm_root
import debian_archive
import wheelhouse

DIST = wheelhouse.ROOT / "dist"
GLIBC = (2, 28)
ARCHITECTURES = ("x86_64", "aarch64")
MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}
PROMISED = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"}


class WheelError(Exception):
    """A wheel does not keep what its tag promises, or cannot be built here."""


def build(arch: str) -> Path:
    """Build one wheel into dist/ and audit it; returns its path.

    Raises:
        WheelError: the toolchain is missing or the wheel breaks its tag's promise.
        subprocess.CalledProcessError: the compiler or pip failed; it has said why.

    """
    python = wheelhouse.ROOT / ".venv/bin/python"
    tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{arch}"
    flags = f"-include {wheelhouse.ROOT}/deploy/glibc.h"
    options = [f"--config-settings=build-dir={wheelhouse.BUILD}/wheel-{arch}"]
    if arch != os.uname().machine:
        if shutil.which("aarch64-linux-gnu-gcc-12") is None and shutil.which("aarch64-linux-gnu-gcc") is None:
            raise WheelError("no cross compiler: apt-get install gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross")
        flags += f" -idirafter {arm_root.build()}/usr/include"  # Debian's pyconfig.h includes the architecture's own
        options += [f"--config-settings=cmake.define.CMAKE_TOOLCHAIN_FILE={wheelhouse.ROOT}/deploy/arm/toolchain.cmake"]
    options += [f"--config-settings=cmake.define.CMAKE_C_FLAGS={flags}"]
    environment = {**os.environ, "_PYTHON_HOST_PLATFORM": tag}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps"]
        command += ["--no-build-isolation", *options, "-w", folder, str(wheelhouse.ROOT)]
        subprocess.run(command, check=True, env=environment)
        (built,) = Path(folder).glob("*.whl")
        audit(built, arch)
        DIST.mkdir(exist_ok=True)
        return Path(shutil.copy(built, DIST / built.name))


def audit(wheel: Path, arch: str) -> list[str]:
    """Check every shared object of a wheel against its tag; returns one line per object.

    Raises:
        WheelError: what is wrong, with the symbol or library that is.

    """
    tag = f"-cp311-abi3-manylinux_{GLIBC[0]}_{GLIBC[1]}_{arch}.whl"
    if not wheel.name.endswith(tag):
        raise WheelError(f"{wheel.name}: the tag must be {tag}")
    lines = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in (name for name in archive.namelist() if name.endswith(".so")):
            lines.append(_audit_object(Path(archive.extract(name, folder)), name, arch))
    if not lines:
        raise WheelError(f"{wheel.name}: holds no engine")
    return lines


def _audit_object(path: Path, name: str, arch: str) -> str:
    facts = subprocess.run(["readelf", "-hdW", path], check=True, capture_output=True, text=True).stdout
    machine = re.search(r"Machine:\s+(.*)", facts)
    if machine is None or machine[1].strip() != MACHINES[arch]:
        raise WheelError(f"{name}: made for {machine and machine[1]}, the wheel says {arch}")
    if strangers := set(re.findall(r"Shared library: \[(.*?)\]", facts)) - PROMISED:
        raise WheelError(f"{name}: needs {', '.join(sorted(strangers))}, which a board may not have")
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", path], check=True, capture_output=True, text=True).stdout
    needed = {(int(m[1]), int(m[2])): m[0] for m in re.finditer(r"\S+@GLIBC_(\d+)\.(\d+)", symbols)}
    newest = max(needed, default=(2, 0))
    if newest > GLIBC:
        raise WheelError(f"{name}: {needed[newest]} is newer than the tag's glibc {GLIBC[0]}.{GLIBC[1]}")
    return f"{name}: {arch}, glibc ≥ {newest[0]}.{newest[1]}, {path.stat().st_size // 1024} KB"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build and audit the release's wheels.")
    parser.add_argument("arch", nargs="*", help=f"of {', '.join(ARCHITECTURES)}; both by default")
    try:
        for arch in parser.parse_args().arch or ARCHITECTURES:
            wheel = build(arch)
            sys.stdout.write("\n".join([str(wheel.relative_to(wheelhouse.ROOT)), *audit(wheel, arch)]) + "\n")
    except (WheelError, debian_archive.ArchiveError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
