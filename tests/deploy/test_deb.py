"""The Debian packages in a clean root: they install offline, run, upgrade, and purge without a trace.

This machine's architecture by default; `make test-deb` takes both, and lets lintian look at everything.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import clean_root
import debs
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
HERE = clean_root.NATIVE[os.uname().machine]
ARCHS = os.environ.get("DISTILLNET_DEB_ARCHS", HERE).split(",")
MOST_BYTES = 250_000_000


@pytest.fixture(scope="module", params=ARCHS)
def packages(request: pytest.FixtureRequest, packages_for: Callable[[str], Path]) -> Path:
    return packages_for(request.param)


def _field(package: Path, name: str) -> str:
    done = subprocess.run(["dpkg-deb", "-f", package, name], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_device_package_is_small_and_brings_no_cloud(packages: Path) -> None:
    (own,) = (packages / "old").glob("distillnet_*.deb")
    (libs,) = (packages / "old").glob("distillnet-libs_*.deb")
    assert int(_field(own, "Installed-Size")) < 15_000
    assert _field(libs, "Provides") in _field(own, "Depends")
    listing = subprocess.run(["dpkg-deb", "-c", own], check=True, capture_output=True, text=True).stdout
    assert "./etc/distillnet/device.toml" in listing
    assert "./lib/systemd/system/distillnet-device.service" in listing
    assert "/distillnet/cloud/" not in listing


def test_the_same_tree_gives_the_same_package(packages: Path, tmp_path: Path) -> None:
    (own,) = (packages / "old").glob("distillnet_*.deb")
    machine = debs.MACHINES[packages.name]
    again = debs.build_device(machine, debs.Options(out=tmp_path, compression=debs.QUICK))
    assert again.read_bytes() == own.read_bytes()


def test_lintian_finds_nothing(packages: Path) -> None:
    """The libraries take it a minute, so only where both architectures are asked for."""
    if shutil.which("lintian") is None:
        pytest.skip("no lintian: not shown that the packages keep Debian's rules; apt-get install lintian")
    pattern = "distillnet_*.deb" if ARCHS == [HERE] else "*.deb"
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", *(packages / "old").glob(pattern)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_install_run_upgrade_and_purge_in_a_clean_root(
    packages: Path, student: Path, pictures: Path, tmp_path: Path
) -> None:
    try:
        base = clean_root.build(packages.name)
    except clean_root.RootError as exc:
        pytest.skip(f"{exc}: not shown that the packages install in a clean Debian")
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", base, root], check=True)
    shutil.copytree(packages, root / "debs")
    shutil.copytree(pictures, root / "trial/pictures")
    shutil.copy(student, root / "trial/student.tflite")
    shutil.copy(ROOT / "deploy/debian/trial.sh", root / "tmp/trial.sh")
    done = subprocess.run(
        ["chroot", root, "sh", "/tmp/trial.sh"],
        capture_output=True,
        text=True,
        timeout=1500,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for wanted in ("kept the edited device file", "kept the state", "removed, device file kept", "clean"):
        assert wanted in lines, done.stdout + done.stderr
    assert any('"phase":"new"' in line for line in lines), "the installed command replayed no event"
    (size,) = (int(line.rpartition(" ")[2]) for line in lines if line.startswith("installed bytes"))
    assert size <= MOST_BYTES, "with everything, compiled Python included"
