"""Packages of Debian 12, of any architecture, fetched with a package state of their own under `build/apt-<arch>`.

The host's Debian sources and keys are used; nothing on the host changes and no root is needed. Called by
`deploy/arm_root.py`, `deploy/debs.py` and `deploy/debian_sounds.py`. Refuses to work where the host knows no source of
that release.
"""

import os
import subprocess
from pathlib import Path

import wheelhouse

RELEASE = "bookworm"


class ArchiveError(Exception):
    """Packages cannot be fetched here; the message says why and what to do."""


def fetch(arch: str, packages: list[str], folder: Path) -> list[Path]:
    """Download `packages` and what they depend on, for Debian's `arch`, into `folder`; returns every `.deb` there.

    Raises:
        ArchiveError: no apt, or no source of Debian 12 on this machine.
        subprocess.CalledProcessError: apt failed; it has said why.

    """
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    download = ["install", "-y", "--download-only", "--no-install-recommends", *packages]
    _apt_get(arch, [f"-oDir::Cache::archives={folder.resolve()}", *download], folder)
    return sorted(folder.glob("*.deb"))


def download(arch: str, package: str, folder: Path) -> Path:
    """Download one package, without what it depends on, into `folder`; returns the `.deb`.

    Raises:
        ArchiveError: no apt, or no source of Debian 12 on this machine.
        subprocess.CalledProcessError: apt failed; it has said why.

    """
    _apt_get(arch, ["download", package], folder)
    (found,) = folder.glob("*.deb")
    return found


def unpack(package: Path, target: Path) -> None:
    """Put a package's files under `target`; none of its scripts runs."""
    subprocess.run(["dpkg", "-x", package, target], check=True)


def _apt_get(arch: str, command: list[str], folder: Path) -> None:
    """Run one command of apt in `folder`, with fresh lists."""
    configuration = _configuration(wheelhouse.BUILD / f"apt-{arch}", arch)
    environment = {**os.environ, "APT_CONFIG": str(configuration)}
    for own in (["update"], command):
        subprocess.run(["apt-get", "-qq", *own], check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)


def _configuration(state: Path, arch: str) -> Path:
    sources = _debian_sources()
    for folder in ("state/lists/partial", "cache", "etc"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    for old in (state / "etc").iterdir():
        old.unlink()
    for source in sources:
        (state / "etc" / source.name).write_bytes(source.read_bytes())
    (state / "status").write_text("")
    configuration = state / "apt.conf"
    configuration.write_text(
        f'Dir::State "{state}/state";\nDir::State::status "{state}/status";\nDir::Cache "{state}/cache";\n'
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{state}/etc";\n'
        'Dir::Etc::preferencesparts "/dev/null";\n'
        f'APT::Architecture "{arch}";\nAPT::Architectures {{ "{arch}"; }};\nAPT::Sandbox::User "";\n'
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
        raise ArchiveError(
            f"no apt source of Debian {RELEASE} on this machine: run this on Debian 12 (a container will do)"
        )
    return debian


def _active_lines(path: Path) -> str:
    return " ".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
