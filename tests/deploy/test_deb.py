"""The Debian packages in a clean root: they install offline, run, upgrade, and purge without a trace."""

import os
import shutil
import subprocess
from pathlib import Path

import debs
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old/` with both packages and `new/` with the next revision of ours."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: not shown that the packages build")
    folder = tmp_path_factory.mktemp("debs")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")
    options = debs.Options(compression=("-Znone",))
    debs.build(os.uname().machine, options._replace(out=folder / "old"))
    own, _ = debs.build(os.uname().machine, options._replace(out=folder / "all", revision="+1"))
    (folder / "new").mkdir()
    own.rename(folder / "new" / own.name)
    shutil.rmtree(folder / "all")
    return folder


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
    again, _ = debs.build(os.uname().machine, debs.Options(out=tmp_path, compression=("-Znone",)))
    assert again.read_bytes() == own.read_bytes()


def test_install_run_upgrade_and_purge_in_a_clean_root(
    packages: Path, student: Path, pictures: Path, tmp_path: Path
) -> None:
    root = _clean_root(tmp_path)
    shutil.copytree(packages, root / "debs")
    shutil.copytree(pictures, root / "trial/pictures")
    shutil.copy(student, root / "trial/student.tflite")
    shutil.copy(ROOT / "deploy/debian/trial.sh", root / "tmp/trial.sh")
    done = subprocess.run(
        ["chroot", root, "sh", "/tmp/trial.sh"],
        capture_output=True,
        text=True,
        timeout=600,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for wanted in ("kept the edited device file", "kept the state", "removed, device file kept", "clean"):
        assert wanted in lines, done.stdout + done.stderr
    assert any('"phase":"new"' in line for line in lines), "the installed command replayed no event"


def _clean_root(tmp_path: Path) -> Path:
    """A copy of a Debian 12 with nothing but Python; made once under build/."""
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap: not shown that the packages install in a clean Debian")
    base = ROOT / f"build/chroot-{ARCH}"
    if not (base / ".complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(base)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            pytest.skip(f"debootstrap cannot fetch Debian 12 here: {done.stdout.splitlines()[-1:]}")
        (base / ".complete").touch()
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", base, root], check=True)
    return root
