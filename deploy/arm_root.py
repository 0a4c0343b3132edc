"""An arm64 Debian without a board: a folder of unpacked packages in which qemu-user runs Debian's own Python.

    python deploy/arm_root.py

Builds `build/arm64-root` from Debian's packages (`deploy/debian_archive.py`): nothing on the host changes, nobody
needs to be root. Resumable: each finished step leaves a stamp. `site/` in it holds the aarch64 wheels of the device's
dependencies.
"""

import shutil
import sys
import zipfile
from pathlib import Path

import debian_archive
import wheelhouse

ROOTFS = wheelhouse.BUILD / "arm64-root"
SITE = ROOTFS / "site"
# Python itself, the headers to build against it, and CA certificates are all a device needs from the distribution.
PACKAGES = ["python3.11", "libpython3.11-dev", "libportaudio2"]


def build() -> Path:
    """Build or complete the root; returns its folder.

    Raises:
        debian_archive.ArchiveError: not a Debian 12 host.
        subprocess.CalledProcessError: apt, dpkg or pip failed; it has said why.

    """
    _unpack_packages()
    _unpack_wheels()
    return ROOTFS


def _unpack_packages() -> None:
    stamp = ROOTFS / ".packages"
    if stamp.exists() and stamp.read_text().split() == PACKAGES:
        return
    packages = debian_archive.fetch("arm64", PACKAGES, wheelhouse.BUILD / "arm64-packages")
    shutil.rmtree(ROOTFS, ignore_errors=True)
    ROOTFS.mkdir(parents=True)
    for package in packages:
        debian_archive.unpack(package, ROOTFS)
    stamp.write_text(" ".join(PACKAGES))


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


def main() -> int:
    """The command line."""
    try:
        sys.stdout.write(f"{build()}\n")
    except debian_archive.ArchiveError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
