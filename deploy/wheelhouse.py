"""Fetch the device's dependencies as binary wheels of another architecture: never compiled, pinned by constraints.txt.

    python deploy/wheelhouse.py aarch64 [--python 3.11]

Fills `build/wheelhouse/<arch>-cp311/` and prints its path. Resumable: a complete set is left alone until the pins
change. Called by `deploy/arm_root.py` and `deploy/debs.py`; needs the project's `.venv`, whose pip resolves.
"""

import argparse
import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PYTHON = "3.11"
# Newest glibc first: a board with Debian 12 or Raspberry Pi OS 12 has 2.36, Ubuntu 22.04 has 2.35.
GLIBC_MINORS = (35, 34, 31, 28, 27, 24, 17)


def fetch(arch: str, python: str = PYTHON) -> Path:
    """Download what `pip install distillnet` brings on a board of `arch`, and microphones; returns the folder.

    Raises:
        subprocess.CalledProcessError: pip found no wheel for a requirement; it has said which.

    """
    house = BUILD / "wheelhouse" / f"{arch}-cp{python.replace('.', '')}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        line for line in project["optional-dependencies"]["audio"] if line.startswith("sounddevice")
    ]
    pins = [*requirements, (ROOT / "constraints.txt").read_text()]
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    stamp = house / ".complete"
    if stamp.exists() and stamp.read_text() == digest:
        return house
    for old in house.glob("*.whl"):
        old.unlink()
    stamp.unlink(missing_ok=True)
    house.mkdir(parents=True, exist_ok=True)
    subprocess.run([*pip("download", arch, python), "-d", str(house), *requirements], check=True)
    stamp.write_text(digest)
    return house


def pip(verb: str, arch: str, python: str = PYTHON) -> list[str]:
    """The command line of pip's `download` or `install` with the wheels of another machine; say where and what."""
    command = [str(ROOT / ".venv/bin/python"), "-m", "pip", "--disable-pip-version-check", verb, "-qq"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += ["--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    command += ["-c", str(ROOT / "constraints.txt")]
    for platform in [f"manylinux_2_{minor}_{arch}" for minor in GLIBC_MINORS] + [f"manylinux2014_{arch}"]:
        command += ["--platform", platform]
    return command


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fetch the device's dependencies for another architecture.")
    parser.add_argument("arch", choices=["x86_64", "aarch64"])
    parser.add_argument("--python", default=PYTHON, help="the board's Python, for example 3.11 (Debian 12)")
    arguments = parser.parse_args()
    sys.stdout.write(f"{fetch(arguments.arch, arguments.python)}\n")


if __name__ == "__main__":
    main()
