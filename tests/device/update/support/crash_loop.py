"""A daemon that really dies of its new student, again and again, and is started again as systemd would.

    python tests/device/update/support/crash_loop.py [KIND …]

Each life is a process of its own; what it knows of the one before is what is on the disk.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import fatal_daemon
import numpy as np
import tiny
from board import Board
from simulated_cloud import SimulatedCloud
from stream import write_video

from distillnet.proto.v1 import fleet_pb2

KINDS = {
    "segmentation fault on the stream": fatal_daemon.SEGFAULT,
    "killed for its memory": fatal_daemon.OUT_OF_MEMORY,
    "inference hangs, the watchdog bites": fatal_daemon.HANG,
    "segmentation fault when loaded": fatal_daemon.AT_LOAD,
}
MAX_CRASHES = 3
_WATCHDOG_S = 3.0


@dataclass
class Supervisor:
    """What systemd does with `Type=notify`, `Restart=on-failure` and `WatchdogSec=`."""

    command: list[str]
    notify_path: Path
    log: Path
    deaths: list[str] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.notify_path))
        self._socket.settimeout(0.05)
        self._fed = 0.0

    def start(self) -> None:
        told = {"NOTIFY_SOCKET": str(self.notify_path), "WATCHDOG_USEC": str(int(_WATCHDOG_S * 1e6))}
        self.process = subprocess.Popen(self.command, env={**os.environ, **told}, stderr=self.log.open("ab"))
        self._fed = time.monotonic() + 30.0  # until it says READY

    def tend(self) -> None:
        """One look: feed on what it says, bite if it says nothing, start it again if it died."""
        try:
            words = self._socket.recv(4096).decode()
        except TimeoutError:
            words = ""
        if "READY=1" in words or "WATCHDOG=1" in words:
            self._fed = time.monotonic()
        if time.monotonic() - self._fed > _WATCHDOG_S:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
        status = self.process.poll()
        if status is not None:
            self.deaths.append(signal.Signals(-status).name if status < 0 else f"exit {status}")
            self.start()

    def stop(self) -> int:
        self._socket.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def run(kind: str, directory: Path, timeout_s: float = 90.0) -> dict:
    """Have a daemon take a fatal student; returns what happened."""
    with SimulatedCloud() as cloud:
        board = Board(cloud, directory / "board", update={"max_crashes": MAX_CRASHES, "server": cloud.address}).enroll()
        board.start()
        board.take(1, quiet(1))
        board.stop()
        command = [sys.executable, str(Path(__file__).with_name("fatal_daemon.py")), str(device_file(board))]
        supervisor = Supervisor(command, directory / "notify", directory / "log")
        supervisor.start()
        try:
            _tend_until(supervisor, lambda: board.name in cloud._streams, timeout_s)
            directive = cloud.publish(2, quiet(2, KINDS[kind]))
            cloud.send(board.name, directive)
            ends = (fleet_pb2.UPDATE_PHASE_ROLLED_BACK, fleet_pb2.UPDATE_PHASE_REFUSED)

            _tend_until(supervisor, lambda: _phase(cloud, directive) in ends, timeout_s)
            outcome = next(r for r in cloud.served.reports if r.directive_id == directive.id and r.phase in ends)
            if KINDS[kind] == fatal_daemon.HANG:  # given up while it hangs; the watchdog then ends that process
                _tend_until(supervisor, lambda: supervisor.deaths and board.name in cloud._streams, timeout_s)
            deaths = list(supervisor.deaths)
            after = cloud.publish(3, quiet(3))
            cloud.send(board.name, after)
            _tend_until(supervisor, lambda: _phase(cloud, after) == fleet_pb2.UPDATE_PHASE_COMMITTED, timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{(directory / 'log').read_text()[-3000:]}") from exc
        finally:
            status = supervisor.stop()
    return {
        "kind": kind,
        "deaths": deaths,
        "phase": fleet_pb2.UpdatePhase.Name(outcome.phase).removeprefix("UPDATE_PHASE_"),
        "runs": outcome.version,
        "reason": outcome.reason,
        "deaths_afterwards": len(supervisor.deaths) - len(deaths),
        "stopped_with": status,
    }


def as_expected(facts: dict) -> bool:
    """Died as often as allowed, went back by itself, took the next update, and never died again."""
    expected = "REFUSED" if KINDS[facts["kind"]] == fatal_daemon.AT_LOAD else "ROLLED_BACK"
    allowed = 1 if KINDS[facts["kind"]] == fatal_daemon.HANG else MAX_CRASHES
    went_back = facts["phase"] == expected and (expected == "REFUSED" or facts["runs"] == 1)
    return went_back and len(facts["deaths"]) == allowed and facts["deaths_afterwards"] == facts["stopped_with"] == 0


def quiet(version: int, seed: int = 0) -> bytes:
    """A student that sees nothing but `other`, so that only its crashes tell it from a good one."""
    bias = np.array([-4, -4, 4], np.int32) * 64 * 128
    return tiny.student(version, weights=np.zeros((3, 48), np.int8), bias=bias, seed=seed)


def _phase(cloud: SimulatedCloud, directive: fleet_pb2.Directive) -> int:
    return next((r.phase for r in reversed(cloud.served.reports) if r.directive_id == directive.id), 0)


def _tend_until(supervisor: Supervisor, condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s; deaths: {supervisor.deaths}"
        supervisor.tend()


def device_file(board: Board) -> Path:
    """Write a device file for a daemon in a process of its own."""
    write_video(board.state_dir / "door.avi", seconds=10)
    path = board.state_dir / "device.toml"
    path.write_text(
        f'[device]\nname = "{board.name}"\nstate_dir = "{board.state_dir}"\n'
        f'[model]\napplication = "{tiny.APPLICATION}"\n'
        f'[[source]]\nid = "door"\nurl = "{board.state_dir / "door.avi"}"\nloop = true\n'
        f"[mqtt]\nport = 1\n"
        f'[update]\nserver = "{board.cloud.address}"\nprobation_s = 2\npoll_s = 3600\nmax_crashes = {MAX_CRASHES}\n'
    )
    return path


def main() -> int:
    wrong = 0
    for kind in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as directory:
            facts = run(kind, Path(directory))
        wrong += not as_expected(facts)
        sys.stdout.write(f"{facts}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
