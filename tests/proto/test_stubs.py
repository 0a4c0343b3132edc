"""The committed gRPC stubs are what the .proto files say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "proto"
V1 = ROOT / "distillnet" / "proto" / "v1"


def test_stubs_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="regenerating the stubs needs grpcio-tools")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    sources = sorted(str(path) for path in V1.glob("*.proto"))
    assert sources
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *sources], check=True)
    fresh = {path.name: path.read_text() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {path.name: path.read_text() for path in V1.glob("*_pb2*.py*")}
    assert committed == fresh, "run `make stubs` and commit"
