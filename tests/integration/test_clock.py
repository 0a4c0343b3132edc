"""A board without a clock battery: what a wrong clock may and may not break, with real processes on both sides.

libfaketime turns the clock of the board's processes, their TLS included, and nobody else's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MAIN = [sys.executable, "-c", "from distillnet.device.cli import main; main()"]
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
sys.path.insert(0, str(ROOT / "tests" / "cloud" / "fleet"))
from tiny_student import tiny_student  # noqa: E402


class Home:
    """A service whose clock is right and a board whose clock is what `turn` says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._clock = directory / "clock"
        self.turn("1970-01-01 00:00:05")
        faketime = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        # Intervals go on as they are: that is what a jump of the clock is.
        options = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_RESET": "1"}
        self._board = {**os.environ, **faketime, **options}
        self.running: list[subprocess.Popen[str]] = []

    def turn(self, moment: str) -> None:
        """Set the board's clock, in UTC; an empty moment is the real one."""
        scratch = self._clock.with_suffix(".new")
        scratch.write_text(f"@{moment}" if moment else "+0")
        scratch.rename(self._clock)

    def start(self, words: list[str], *, board: bool) -> subprocess.Popen[str]:
        with (self.directory / f"{words[0]}.log").open("a") as log:
            environment = self._board | {"TZ": "UTC"} if board else None
            process = subprocess.Popen(
                [*MAIN, *words], cwd=self.directory, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.running.append(process)
        return process

    def do(self, words: list[str], *, board: bool = False) -> Any:
        """Run a command to its end; returns its JSON."""
        process = self.start([*words, "--json"], board=board)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, (words, self.log(words[0]))
        return json.loads(out)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()[-4000:]

    def publish(self, version: int) -> None:
        student = self.directory / f"v{version}.student.tflite"
        student.write_bytes(tiny_student("pets", version))
        self.do(["publish", str(student), "--data", "fleet"])

    def version(self) -> int:
        """What the cloud believes the board runs; 0 = nothing."""
        (device,) = self.do(["devices", "--data", "fleet"])
        return max((model["version"] for model in device["models"]), default=0)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed (apt install faketime): would have shown boards with a wrong clock")
    made = Home(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_board_that_wakes_in_1970_enrols_and_updates_and_one_in_the_future_waits_until_its_clock_is_right(home):
    service = home.start(["serve", "--data", "fleet", "--port", "0", "--enroll-port", "0", "--json"], board=False)
    ready = json.loads(service.stdout.readline())
    token = home.do(["token", "create", "--data", "fleet", "--application", "pets"])["token"]
    device_file(home.directory)
    server = f"127.0.0.1:{ready['enroll_port']}"
    home.do(["enroll", "--server", server, "--token", token, "--config", "board.toml"], board=True)
    home.publish(1)
    home.start(["run", "board.toml"], board=True)
    until(lambda: home.version() == 1, lambda: home.log("run"))
    assert "clock is" in home.log("run") and "behind the fleet's" in home.log("run")

    home.turn("2090-06-01 00:00:00")
    home.publish(2)
    until(lambda: "this board's clock is wrong" in home.log("run"), lambda: home.log("run"))
    assert home.version() == 1

    home.turn("")
    until(lambda: home.version() == 2, lambda: home.log("run"))


def device_file(directory: Path) -> None:
    pictures = directory / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "0.png"), np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    (directory / "board.toml").write_text(
        f'[device]\nname = "board"\nstate_dir = "{directory}/state"\n[model]\napplication = "pets"\n'
        f'[[source]]\nid = "camera"\nkind = "images"\nurl = "{pictures}"\nloop = true\nrate_hz = 10\n'
        f"[mqtt]\nport = 1\nhome_assistant = false\n[update]\nprobation_s = 0\npoll_s = 3\n"
    )


def until(check: Callable[[], Any], log: Callable[[], str], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"did not happen in time\n{log()}"
        time.sleep(0.3)
