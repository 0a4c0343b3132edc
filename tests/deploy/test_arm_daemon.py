"""The whole daemon on aarch64 under qemu-user, with eyes and ears, against a broker and a cloud on this machine.

In `make test-arm`, not in `make test`: emulated start-up takes its time.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm_board
import clean_root
import paho.mqtt.client as mqtt
import pytest

from distillnet.proto.archive import pack, unpack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("DISTILLNET_ARM_CPUS" not in os.environ, reason="some minutes: make test-arm"),
]
CPU = "cortex-a72"
HERE = [sys.executable, "-c", arm_board.COMMAND]
PATIENCE_S = 900.0
SETTLED = ("idle", "committed", "rolled-back")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def there(*arguments: str) -> list[str]:
    """The command `distillnet` on the board."""
    return arm_board.command(*arguments, cpu=CPU)


@pytest.fixture(scope="module", autouse=True)
def board() -> None:
    if reason := arm_board.why_not():
        pytest.skip(f"{reason}: not shown that the daemon runs on a board")
    arm_board.install()


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes and ends them after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        running.append(subprocess.Popen(command, text=True, **options))
        return running[-1]

    yield start
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


class Heard:
    """Everything a broker says of the devices, in order."""

    def __init__(self, port: int) -> None:
        self.said: list[tuple[str, Any]] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("distillnet/v1/#", qos=1)
        self._client.loop_start()

    def _hear(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        with contextlib.suppress(ValueError):
            self.said.append((message.topic, json.loads(message.payload)))

    def of(self, device: str, what: str) -> list[Any]:
        """Payloads of one device under a topic."""
        prefix = f"distillnet/v1/{device}/{what}"
        return [payload for topic, payload in self.said if topic.startswith(prefix)]


@pytest.fixture
def broker(started: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Iterator[tuple[int, Heard]]:
    if MOSQUITTO is None:
        pytest.skip("no Mosquitto: not shown that a board's events cross a broker")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    started([MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    for _ in range(100):
        with contextlib.suppress(OSError):
            heard = Heard(port)
            break
        time.sleep(0.1)
    yield port, heard
    heard._client.loop_stop()


def _until(check: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.3)


def _device_file(path: Path, name: str, port: int, student: str, sound_student: Path, sources: str) -> Path:
    path.write_text(
        f'[device]\nname = "{name}"\nstate_dir = "{path.parent}/{name}-state"\n'
        f'[model]\napplication = "porch"\n{student}'
        f'[sound_model]\napplication = "tones"\npath = "{sound_student}"\n{sources}'
        f"[mqtt]\nport = {port}\nhome_assistant = false\n[update]\nprobation_s = 1\n"
    )
    return path


def test_the_daemon_tells_a_broker_what_it_tells_it_here(
    broker: tuple[int, Heard],
    student: Path,
    sound_student: Path,
    video: Path,
    pictures: Path,
    sound: Path,
    tmp_path: Path,
) -> None:
    """Pictures and sound, each to the end: the same phases, scores and students in the same order.

    A video gives the same events; its scores may differ in a running daemon, whose colour conversion is FFmpeg's
    fastest on each processor. `replay` takes the plain one.
    """
    port, heard = broker
    files = {"door": video, "shelf": pictures, "yard": sound}
    sources = "".join(f'[[source]]\nid = "{name}"\nurl = "{path}"\npace = "fast"\n' for name, path in files.items())
    for name, command in (("here", [*HERE, "run"]), ("there", there("run"))):
        model = f'path = "{student}"\n'
        config = _device_file(tmp_path / f"{name}.toml", name, port, model, sound_student, sources)
        done = subprocess.run([*command, str(config)], capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        _until(lambda name=name: [s for s in heard.of(name, "status") if s["state"] == "offline"], f"{name} has ended")

    def story(device: str, source: str) -> list[tuple[Any, ...]]:
        keys = ("event", "phase", "score", "top_score", "model_digest")
        return [tuple(event[key] for key in keys) for event in heard.of(device, f"event/{source}/")]

    for source in ("shelf", "yard"):
        assert len(story("here", source)) >= 4, "too few events to compare anything"
        assert story("there", source) == story("here", source)
    assert {told[0] for told in story("there", "door")} == {told[0] for told in story("here", "door")} != set()


def test_a_board_takes_an_update_and_goes_back(
    broker: tuple[int, Heard],
    started: Callable[..., subprocess.Popen[str]],
    student: Path,
    sound_student: Path,
    video: Path,
    sound: Path,
    tmp_path: Path,
) -> None:
    """Enrolled, first student, update, rollback, all while the emulated daemon looks and listens."""
    try:
        clean_root.let_the_kernel_start("arm64")  # the self-test is a process of its own
    except clean_root.RootError as exc:
        pytest.skip(f"{exc}: not shown that a board takes an update")
    port, heard = broker

    def cloud(*arguments: str) -> str:
        command = [*HERE, *arguments, "--data", "fleet"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()

    def publish(version: int) -> None:
        parts = unpack(student.read_bytes())
        path = tmp_path / f"v{version}.tflite"
        path.write_bytes(pack(parts.model, parts.card.model_copy(update={"seed": version}), parts.golden))
        cloud("publish", str(path))

    def runs(version: int) -> bool:
        said = heard.of("board", "model")
        return bool(said) and (said[-1]["installed"] or {}).get("version") == version and said[-1]["phase"] in SETTLED

    log = (tmp_path / "log").open("w")
    serve = [*HERE, "serve", "--data", "fleet", "--port", "0", "--enroll-port", "0", "--json"]
    service = started(serve, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log)
    assert service.stdout is not None
    ready = json.loads(service.stdout.readline())
    sources = f'[[source]]\nid = "door"\nurl = "{video}"\nloop = true\nrate_hz = 2\n'
    sources += f'[[source]]\nid = "yard"\nurl = "{sound}"\nloop = true\n'
    config = str(_device_file(tmp_path / "board.toml", "board", port, "", sound_student, sources))
    token = cloud("token", "create", "--application", "porch")
    enrol = ["--server", f"127.0.0.1:{ready['enroll_port']}", "--token", token, "--config", config]
    done = subprocess.run(there("enroll", *enrol), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    daemon = started(there("run", config), stdout=log, stderr=log)
    publish(1)
    _until(lambda: runs(1), "the first student runs")
    publish(2)
    _until(lambda: runs(2), "the update is committed")
    cloud("rollback", "porch", "--reason", "a test")
    _until(lambda: runs(1), "the first student runs again")
    assert daemon.poll() is None
    assert {event["source"] for event in heard.of("board", "event/")} == {"door", "yard"}
    assert len({event["model_digest"] for event in heard.of("board", "event/door/")}) >= 1
