"""The demo's child processes: started together, stopped together, none left behind."""

import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

MOSQUITTO_PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_STOP_S = 8.0


class DemoError(Exception):
    """A step of the demo failed; the message says which, and where its log lies."""


class Processes:
    """A context in which children run. Leaving it, by whatever way, stops them in reverse order."""

    def __init__(self, logs: Path) -> None:
        """Keep each child's stderr in `logs`/NAME.log."""
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        """Start with no child."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every child, last started first."""
        for child in reversed(self._children):
            child.stop()

    def start(self, name: str, *command: str) -> "Child":
        """Start a child that runs until it is stopped."""
        child = Child(name, command, self._logs / f"{name}.log")
        self._children.append(child)
        return child


class Child:
    """One long-running process whose standard output is JSON lines."""

    def __init__(self, name: str, command: tuple[str, ...], log: Path) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the demo first and the demo decides."""
        self.name = name
        self.log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
            )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    def line(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next JSON line, or None when there is none in time.

        Raises:
            DemoError: the process has ended and said all it had to say.

        """
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.check()
            return None

    def check(self) -> None:
        """Raise `DemoError` with the tail of its log when the process has ended by itself."""
        if self._process.poll() is not None and self._lines.empty():
            raise DemoError(f"{self.name} ended with status {self._process.returncode}:\n{tail(self.log)}")

    def stop(self) -> None:
        """Ask it to end, wait, and kill what does not listen."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(timeout=1.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            try:
                value = json.loads(raw)
            except ValueError:
                continue  # a broker's chatter
            if isinstance(value, dict):
                self._lines.put(value)


def command_line(*arguments: str) -> tuple[str, ...]:
    """Return the command line of a `distillnet` command in this very installation."""
    return (str(Path(sys.executable).with_name("distillnet")), *arguments)


def run(name: str, *arguments: str, log: Path | None = None) -> Any:
    """Run a `distillnet` command to its end and return what its last line of JSON says.

    Its progress goes to our stderr, or to `log`.

    Raises:
        DemoError: it failed or printed nothing.

    """
    stderr = log.open("wb") if log else None
    try:
        process = subprocess.Popen(command_line(*arguments), stdout=subprocess.PIPE, stderr=stderr)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    finally:
        if stderr:
            stderr.close()
    lines = output.decode().strip().splitlines()
    if process.returncode != 0 or not lines:
        detail = f":\n{tail(log)}" if log else ""
        raise DemoError(f"{name}: `distillnet {' '.join(arguments)}` ended with status {process.returncode}{detail}")
    return json.loads(lines[-1])


def start_broker(processes: Processes, directory: Path) -> tuple[str, int]:
    """Start Mosquitto where it is installed, else amqtt; returns its name and port."""
    port = free_port()
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path=MOSQUITTO_PLACES)
    if mosquitto:
        name, config = "Mosquitto", directory / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        child = processes.start("broker", mosquitto, "-c", str(config))
    else:
        name, config = "amqtt", directory / "amqtt.yaml"
        config.write_text(
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
            "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        )
        child = processes.start("broker", str(Path(sys.executable).with_name("amqtt")), "-c", str(config))
    _wait_for_port(port, child)
    return name, port


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _wait_for_port(port: int, child: Child, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        child.check()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.05)
    raise DemoError(f"{child.name} does not listen on port {port} after {timeout_s:.0f} s:\n{tail(child.log)}")
