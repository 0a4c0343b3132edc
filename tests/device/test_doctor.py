"""`distillnet doctor` knows the boards: their names in application files, and what they cannot do."""

from pathlib import Path

import pytest

from distillnet.device import doctor, host
from distillnet.device.config import load
from distillnet.device.update import capabilities
from distillnet.proto.archive import pack, unpack
from distillnet.proto.card import Latency


@pytest.mark.parametrize(
    ("model", "board", "limit"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero2", "512 MB"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "rpi3", "1 GB"),
        ("Raspberry Pi 4 Model B Rev 1.5", "rpi4", ""),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "rpi4", ""),
        ("Raspberry Pi 5 Model B Rev 1.0", "rpi5", ""),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano", "container"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin", "container"),
    ],
)
def test_a_board_is_known_by_its_device_tree(
    model: str, board: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model"
    file.write_bytes(f"{model}\0".encode())
    monkeypatch.setattr(capabilities, "_MODEL_FILES", (file,))
    monkeypatch.setattr(host, "_MODEL", file)
    processor = doctor.examine(None)[0]
    assert processor.found.startswith(f"{board}: {model} (")
    assert limit in processor.advice


def test_the_cards_estimate_stands_beside_what_was_measured(student_bytes: bytes, tmp_path: Path) -> None:
    said = Latency(board="rpi4", ms=5.25, threads=1, engine="native/neon", how="by the board's estimated table")
    parts = unpack(student_bytes)
    path = tmp_path / "student.tflite"
    path.write_bytes(pack(parts.model, parts.card.model_copy(update={"latency": [said]}), parts.golden))
    device_file = tmp_path / "device.toml"
    device_file.write_text(
        f'[device]\nname = "a"\nboard = "rpi4"\nstate_dir = "{tmp_path}"\n'
        f'[model]\napplication = "colours"\npath = "{path}"\n[[source]]\nid = "a"\n'
        f'url = "{tmp_path}"\n[mqtt]\nport = 1\n'
    )
    found = next(finding for finding in doctor.examine(load(device_file)) if finding.what == "student").found
    assert "ms here; its card says 5.25 ms, by the board's estimated table" in found
