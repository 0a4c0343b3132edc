"""The operations guide is followed as it is written: from nothing to a rollout on two boards."""

import json
import re
import shlex
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
GUIDE = (ROOT / "deploy" / "cloud" / "README.md").read_text()
MAIN = [sys.executable, "-c", "from distillnet.device.cli import main; main()"]
sys.path.insert(0, str(ROOT / "tests" / "cloud" / "fleet"))
from tiny_student import tiny_student  # noqa: E402


def commands(text: str) -> list[list[str]]:
    """Every `distillnet …` line of the guide's indented blocks, without its comment."""
    lines = re.findall(r"^ {4}(distillnet .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_of_the_guide_exists_with_its_options():
    for words in commands(GUIDE):
        names = [word for word in words[:2] if not word.startswith("-")]
        shown = ""
        while names and not (shown := _help(names)):
            names.pop()
        assert shown, words
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, f"{' '.join(words)}: no {option}"


def _help(names: list[str]) -> str:
    done = subprocess.run([*MAIN, *names, "--help"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""


class Place:
    """A directory in which the guide's commands run, some of them for long."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: list[subprocess.Popen[str]] = []

    def do(self, words: list[str], **replaced: str) -> str:
        """Run a command to its end; returns what it printed."""
        words = [replaced.get(word, word) for word in words]
        done = subprocess.run([*MAIN, *words], cwd=self.home, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def fail(self, words: list[str]) -> str:
        """Run a command that must be refused; returns why."""
        done = subprocess.run([*MAIN, *words], cwd=self.home, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode != 0, words
        return " ".join(done.stderr.split())

    def leave(self, words: list[str], log: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        with (self.home / log).open("w") as errors:
            process = subprocess.Popen([*MAIN, *words], cwd=self.home, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.running.append(process)
        return process


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for process in reversed(made.running):
        process.send_signal(signal.SIGTERM)
    for process in made.running:
        process.wait(30)


def test_two_boards_take_a_version_and_then_a_rollout(place):
    for version in (1, 2):
        (place.home / f"v{version}").mkdir()
        (place.home / f"v{version}" / "student.tflite").write_bytes(tiny_student("pets", version))
    serve, token, other, enroll, run, publish, hold, start, status, *more = commands(GUIDE)
    service = place.leave([*serve, "--port", "0", "--enroll-port", "0", "--web-port", "0", "--json"], "serve.log")
    ready = json.loads(service.stdout.readline())
    for board, words in (("one", token), ("two", other)):
        config = device_file(place.home, board)
        given = {"SERVER:7444": f"127.0.0.1:{ready['enroll_port']}", "TOKEN": place.do(words)}
        place.do(enroll, **given, **{"device.toml": config})
        place.leave([config if word == "device.toml" else word for word in run], f"{board}.log")

    def running() -> list[int]:
        devices = json.loads(place.do(["devices", "--data", "fleet", "--json"]))
        return sorted(model["version"] for device in devices for model in device["models"])

    until(lambda: len(connected(place)) == 2)
    place.do(publish)
    until(lambda: running() == [1, 1])
    place.do(hold)
    place.do(["0.5" if word == "600" else word for word in start])
    until(lambda: json.loads(place.do([*status, "--json"]))[0]["state"] == "done")
    assert running() == [2, 2]
    back = next(words for words in more if "--downgrade" in words)
    unsigned = [word for word in back if word != "--downgrade"]
    assert "would refuse it (one, two)" in place.fail(unsigned)
    place.do([*back, "--soak", "0"])
    until(lambda: json.loads(place.do([*status, "--json"]))[0]["state"] == "done")
    time.sleep(5)  # the boards look by themselves meanwhile, and must not take version 2 again
    assert running() == [1, 1]
    held = {row["version"]: row["held"] for row in json.loads(place.do(["models", "--data", "fleet", "--json"]))}
    assert held == {1: False, 2: True}


def connected(place: Place) -> list[str]:
    devices = json.loads(place.do(["devices", "--data", "fleet", "--json"]))
    return [device["device"] for device in devices if device["connected"]]


def device_file(home: Path, board: str) -> str:
    """A board that looks at a few pictures for ever, and has a broker that is away."""
    pictures = home / f"{board}-pictures"
    pictures.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), noise)
    (home / f"{board}.toml").write_text(
        f'[device]\nname = "{board}"\nstate_dir = "{home}/{board}-state"\n[model]\napplication = "pets"\n'
        f'[[source]]\nid = "camera"\nkind = "images"\nurl = "{pictures}"\nloop = true\nrate_hz = 10\n'
        f"[mqtt]\nport = 1\nhome_assistant = false\n[update]\nprobation_s = 0\npoll_s = 2\n"
    )
    return f"{board}.toml"


def until(check: Callable[[], Any], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.2)
