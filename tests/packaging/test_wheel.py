"""What a user installs: the wheel holds what it must and nothing else, and the base install needs no torch."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOUD_ONLY = {"torch", "torch_pruning", "litert_torch", "ai_edge_quantizer", "sqlalchemy", "matplotlib", "obstore"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    build_dir = f"--config-settings=build-dir={tmp_path_factory.mktemp('build')}"
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, build_dir, str(ROOT)], check=True, timeout=240)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_what_it_must_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "-cp311-abi3-" in wheel.name
    for wanted in (
        "distillnet/engine/_engine.abi3.so",
        "distillnet/engine/_engine.pyi",
        "distillnet/device/py.typed",
        "distillnet/proto/v1/fleet_pb2.py",
        "distillnet/proto/v1/fleet_pb2.pyi",
        "distillnet/proto/v1/fleet_pb2_grpc.py",
        "distillnet/cloud/demo/demo.app.toml",
    ):
        assert wanted in names, wanted
    assert "distillnet/__init__.py" not in names, "it would break the namespace"
    strangers = [name for name in names if name.endswith((".proto", ".c", ".h", ".tflite", ".mp4")) or "test" in name]
    assert strangers == []
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops  # distillnet and its dist-info


def test_no_module_of_the_tree_is_left_out_of_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for half in ("device", "cloud", "proto"):
        tracked = subprocess.run(
            ["git", "ls-files", f"{half}/distillnet"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
        for path in tracked:
            if not path.endswith(".proto"):
                assert path.removeprefix(f"{half}/") in names, path


def test_the_base_install_runs_without_the_cloud_extra(wheel: Path, tmp_path: Path) -> None:
    """Only base requirements are visible: what the cloud brings is hidden by a finder that refuses it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(line.startswith("torch") for line in extras["cloud"])
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True
    )
    program = f"""
import sys
refused = {CLOUD_ONLY!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(target)!r})
import distillnet.engine, distillnet.device
assert distillnet.device.__file__.startswith({str(target)!r}), distillnet.device.__file__
from distillnet.device.cli import main
sys.argv = ["distillnet", *sys.argv[1:]]
main()
"""
    for arguments in (["run", "--help"], ["--help"], ["doctor", "--help"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Usage: distillnet" in done.stdout
    missing = subprocess.run(
        [sys.executable, "-c", program, "distill", "x.toml", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert missing.returncode == 2
    assert "pip install 'distillnet[cloud]'" in missing.stderr
