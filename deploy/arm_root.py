"""An arm64 Debian without a board: a folder of unpacked packages in which qemu-user runs Debian's own Python.

    python deploy/arm_root.py

Builds `build/arm64-root` with the host's Debian sources and a package state of its own under `build/arm64-apt`: nothing
on the host changes and no root is needed. Resumable: each finished step leaves a stamp. `site/` in it holds the aarch64
wheels of the device's dependencies. Refuses to run where the host is not the Debian release whose Python is wanted.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import wheelhouse

ROOTFS = wheelhouse.BUILD / "arm64-root"
SITE = ROOTFS / "site"
STATE = wheelhouse.BUILD / "arm64-apt"
RELEASE = "bookworm"
# Python itself, the headers to build against it, and CA certificates are all a device needs from the distribution.
PACKAGES = ["python3.11", "libpython3.11-dev", "libportaudio2"]


class RootError(Exception):
    """The root cannot be built here; the message says why and what to do."""


def build() -> Path:
    """Build or complete the root; returns its folder.

    Raises:
        RootError: not a Debian 12 host, or no network.
        subprocess.CalledProcessError: apt, dpkg or pip failed; it has said why.

    """
    _unpack_packages()
    _unpack_wheels()
    return ROOTFS


def _unpack_packages() -> None:
    stamp = ROOTFS / ".packages"
    if stamp.exists() and stamp.read_text().split() == PACKAGES:
        return
    environment = {**os.environ, "APT_CONFIG": str(_apt_configuration())}
    _run(["apt-get", "-qq", "update"], environment)
    _run(["apt-get", "-qq", "install", "-y", "--download-only", "--no-install-recommends", *PACKAGES], environment)
    shutil.rmtree(ROOTFS, ignore_errors=True)
    ROOTFS.mkdir(parents=True)
    for package in sorted((STATE / "cache/archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(ROOTFS)], environment)
    stamp.write_text(" ".join(PACKAGES))


def _apt_configuration() -> Path:
    sources = _debian_sources()
    for folder in ("state/lists/partial", "cache/archives/partial", "etc"):
        (STATE / folder).mkdir(parents=True, exist_ok=True)
    for old in (STATE / "etc").iterdir():
        old.unlink()
    for source in sources:
        shutil.copy(source, STATE / "etc" / source.name)
    (STATE / "status").write_text("")
    configuration = STATE / "apt.conf"
    configuration.write_text(
        f'Dir::State "{STATE}/state";\nDir::State::status "{STATE}/status";\nDir::Cache "{STATE}/cache";\n'
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{STATE}/etc";\n'
        'Dir::Etc::preferencesparts "/dev/null";\n'
        'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nAPT::Sandbox::User "";\n'
    )
    return configuration


def _debian_sources() -> list[Path]:
    """The host's own source files that speak of the release: mirrors and keys are the host's business."""
    folder = Path("/etc/apt")
    candidates = [*sorted((folder / "sources.list.d").glob("*")), folder / "sources.list"]
    found = [path for path in candidates if path.is_file() and f"{RELEASE} " in f"{_active_lines(path)} "]
    found = [path for path in found if "debian" in path.read_text().lower() and "main" in path.read_text()]
    debian = [path for path in found if f"{RELEASE}-security" in path.read_text() or "debian.org" in path.read_text()]
    if not debian:
        raise RootError(
            f"no apt source of Debian {RELEASE} on this machine: run this on Debian 12 (a container will do)"
        )
    return debian


def _active_lines(path: Path) -> str:
    return " ".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


def _unpack_wheels() -> None:
    house = wheelhouse.fetch("aarch64")
    stamp = SITE / ".complete"
    pins = (house / ".complete").read_text()
    if stamp.exists() and stamp.read_text() == pins:
        return
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir()
    for wheel in sorted(house.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(SITE)
    stamp.write_text(pins)


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> int:
    """The command line."""
    try:
        sys.stdout.write(f"{build()}\n")
    except RootError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
