"""Run the aarch64 wheel as a board would, under qemu-user: the same file, the same Python, another instruction set.

    python deploy/arm_board.py [--cpu cortex-a72] -- doctor
    python deploy/arm_board.py [--cpu cortex-a53] -- replay door.mp4 --student student.tflite --json

Everything after `--` goes to the command `distillnet`. Processors: cortex-a53 (Raspberry Pi 3, Zero 2) and cortex-a72
(Pi 4) have NEON alone; `max` has dotprod, as a Pi 5 has, and i8mm, as newer ones have. Speed under emulation says
nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import arm_root
import debian_archive
import wheelhouse
import wheels

CPUS = ("cortex-a53", "cortex-a72", "max")
APP = wheelhouse.BUILD / "arm64-app"
COMMAND = "import sys; from distillnet.device.cli import main; main()"


def why_not() -> str | None:
    """Say what is missing here to run at all, or None."""
    if emulator() is None:
        return "no qemu-aarch64: apt-get install qemu-user"
    for tool, package in (("dpkg", "dpkg"), ("apt-get", "apt")):
        if shutil.which(tool) is None:
            return f"no {tool}: apt-get install {package}"
    if shutil.which("aarch64-linux-gnu-gcc-12") is None and shutil.which("aarch64-linux-gnu-gcc") is None:
        return "no cross compiler: apt-get install gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross"
    return None


def emulator() -> str | None:
    """Where qemu-user is; the static one will do for all but plugins."""
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def install() -> Path:
    """Build the root and the wheel where they are missing or old, unpack the wheel; returns its folder.

    Raises:
        debian_archive.ArchiveError, wheels.WheelError: what cannot be built here.

    """
    wheel = wheels.build("aarch64")
    shutil.rmtree(APP, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(APP)
    return APP


def command(
    *arguments: str, cpu: str = "max", program: str = COMMAND, environment: dict[str, str] | None = None
) -> list[str]:
    """The host's command line that runs a Python program with `arguments` on the emulated processor."""
    paths = f"{APP}:{arm_root.SITE}"
    line = [emulator() or "qemu-aarch64", "-L", str(arm_root.ROOTFS), "-cpu", cpu, "-E", f"PYTHONPATH={paths}"]
    children = {"QEMU_LD_PREFIX": str(arm_root.ROOTFS), "QEMU_CPU": cpu}  # where the kernel knows how to start them
    once = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name, value in {**children, **once, **(environment or {})}.items():
        line += ["-E", f"{name}={value}"]
    return [*line, str(arm_root.ROOTFS / "usr/bin/python3.11"), "-c", program, *arguments]


def run(
    *arguments: str, cpu: str = "max", program: str = COMMAND, timeout_s: float = 600.0, also: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, with one more folder of packages; nothing is raised for a status other than 0."""
    paths = f"{APP}:{arm_root.SITE}{f':{also}' if also else ''}"
    line = command(*arguments, cpu=cpu, program=program, environment={"PYTHONPATH": paths})
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_s)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the device's aarch64 wheel under qemu-user.")
    parser.add_argument("--cpu", default="max", help=f"of qemu: {', '.join(CPUS)}, …")
    parser.add_argument("--keep", action="store_true", help="use the wheel that is unpacked already")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"error: {reason}\n")
        return 2
    try:
        if not given.keep or not APP.exists():
            install()
    except (debian_archive.ArchiveError, wheels.WheelError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    arguments = given.arguments[1:] if given.arguments[:1] == ["--"] else given.arguments
    line = command(*arguments, cpu=given.cpu)
    os.execvp(line[0], line)


if __name__ == "__main__":
    sys.exit(main())
