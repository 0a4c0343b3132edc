"""Nothing decided is lost: brokers that come and go, daemons that are killed, disks that fill up or turn read-only.

`make test-endurance` (DISTILLNET_LONG=1) runs the long form and prints how many events each part was about.
"""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distillnet.device.outbox import Outbox

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

LONG = os.environ.get("DISTILLNET_LONG") == "1"
RESTARTS, EVENTS = (20, 10_000) if LONG else (4, 1_000)
KILLS = 200 if LONG else 6
SICK = 5 if LONG else 1
log = logging.getLogger(__name__)

_DAEMON = """
import os, signal, sys
from pathlib import Path
from distillnet.device.config import load
from distillnet.device.daemon import Daemon

tap = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
limit = int(sys.argv[3])

def record(event):
    os.write(tap, f"{event.session} {event.seq} {event.id} {event.phase}\\n".encode())
    if event.seq >= limit:
        daemon.stop("enough")

daemon = Daemon(load(Path(sys.argv[1])), tap=record)
daemon.handle_signals()
daemon.run()
"""


class Run:
    """A daemon in a process of its own, on a flickering video as fast as it goes."""

    def __init__(self, directory: Path, port: int, student: Path, video: Path) -> None:
        self.tap = directory / "tap.txt"
        self.log = directory / "daemon.log"
        self._config = directory / "device.toml"
        self._settings = (port, student, video)
        self._started: list[subprocess.Popen[bytes]] = []
        self.keep_state_in(directory / "state")

    def keep_state_in(self, state: Path) -> None:
        self.state = state
        port, student, video = self._settings
        self._config.write_text(
            f'[device]\nname = "bench"\nstate_dir = "{self.state}"\n'
            f'[model]\napplication = "colours"\npath = "{student}"\n'
            f"[mqtt]\nport = {port}\nhome_assistant = false\n[telemetry]\ninterval_s = 5\n"
            f'[[source]]\nid = "desk"\nurl = "{video}"\nloop = true\npace = "fast"\n'
            '[[event]]\nname = "red"\nconfirm = 1\nwindow = 1\n'
        )

    def start(self, limit: int = 10**9) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", _DAEMON, str(self._config), str(self.tap), str(limit)]
        with self.log.open("wb") as log:
            self._started.append(subprocess.Popen(arguments, stderr=log))
        return self._started[-1]

    def end(self) -> None:
        """Leave none running, whatever has failed."""
        for process in self._started:
            process.kill()
            process.wait()

    def start_and_wait(self) -> subprocess.Popen[bytes]:
        """Start, and wait until something has been decided."""
        before, process = len(self.tapped()), self.start()
        while len(self.tapped()) <= before:
            assert process.poll() is None, f"the start was wedged: {self.log.read_text()}"
            time.sleep(0.02)
        return process

    def let_it_empty(
        self, subscriber: Any, in_flight: set[tuple[str, str]], until: Callable[..., None]
    ) -> set[tuple[str, str]]:
        """Run once more and check that everything decided has arrived or waits, in order; returns what was decided."""
        process = self.start(limit=10)
        assert process.wait(120) == 0
        decided = {line[2:] for line in self.tapped()}
        needed = decided - in_flight - self.waiting()
        until(lambda: {(e["id"], e["phase"]) for e in list(subscriber.events)} >= needed, 60, "every event is there")
        assert in_order(subscriber.events)
        return decided

    def tapped(self) -> list[tuple[str, int, str, str]]:
        """Session, seq, id and phase of everything that was decided; torn last lines left out."""
        text = self.tap.read_text() if self.tap.exists() else ""
        found = []
        for line in text.splitlines():
            session, seq, identity, phase = line.split()
            found.append((session, int(seq), identity, phase))
        return found

    def waiting(self) -> set[tuple[str, str]]:
        outbox = Outbox(self.state / "outbox.db", clock=time.time)
        events = [json.loads(entry.payload) for entry in outbox.peek(0, 10**6)]
        outbox.close()
        return {(event["id"], event["phase"]) for event in events}


@dataclass(frozen=True)
class SmallDisk:
    """A file system of 64 megabytes: twice what an outbox may keep."""

    path: Path

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        filler = self.path / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", str(self.path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount: not shown that a full or a read-only disk loses no event")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def run(broker: Any, tmp_path: Path, student_path: Path, make_video: Callable[..., Path]) -> Iterator[Run]:
    red = [(index, index + 5, (20, 20, 230)) for index in range(0, 100, 10)]
    run = Run(tmp_path, broker.port, student_path, make_video("flicker.mp4", 100, red))
    yield run
    run.end()


def in_order(events: list[dict[str, Any]]) -> bool:
    """Whether the events of every session came in order, duplicates left out."""
    seen: dict[str, int] = {}
    known: set[tuple[str, int]] = set()
    for event in events:
        session, seq = event["session"], event["seq"]
        if (session, seq) in known:
            continue
        known.add((session, seq))
        if seq < seen.get(session, -1):
            return False
        seen[session] = seq
    return True


def test_a_broker_that_comes_and_goes_costs_no_event(
    run: Run, broker: Any, persistent_subscriber: Callable[[str], Any], until: Callable[..., None]
) -> None:
    subscriber = persistent_subscriber("distillnet/v1/bench/event/#")
    chance = random.Random(1)
    process = run.start()
    for restarts in range(RESTARTS):
        time.sleep(chance.uniform(0.2, 1.0))
        broker.stop()
        time.sleep(chance.uniform(0.05, 0.5) if restarts else 3.0)
        broker.start()
    until(lambda: len(run.tapped()) >= EVENTS, 600, "enough has been decided")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    decided = {(identity, phase) for _, _, identity, phase in run.tapped()}
    waiting = run.waiting()
    until(
        lambda: {(e["id"], e["phase"]) for e in list(subscriber.events)} | waiting >= decided,
        30,
        "every event is there",
    )
    received = {(event["id"], event["phase"]) for event in subscriber.events}
    assert received <= decided
    assert received | waiting == decided
    assert in_order(subscriber.events)
    assert len(decided) >= EVENTS
    log.info("%d restarts of the broker: %d events decided, %d received", RESTARTS, len(decided), len(received))


def test_a_daemon_killed_at_random_points_loses_nothing_it_had_written(
    run: Run, persistent_subscriber: Callable[[str], Any], until: Callable[..., None]
) -> None:
    subscriber = persistent_subscriber("distillnet/v1/bench/event/#")
    chance = random.Random(2)
    in_flight: set[tuple[str, str]] = set()
    for _ in range(KILLS):
        process = run.start_and_wait()
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # The tap comes before the outbox: only the very last event may have been between the two.
        in_flight.add(run.tapped()[-1][2:])
    decided = run.let_it_empty(subscriber, in_flight, until)
    log.info("%d kills: %d events decided, none lost", KILLS, len(decided))


@pytest.mark.parametrize("sickness", ["full", "read-only"])
def test_a_sick_disk_loses_nothing(
    sickness: str,
    small_disk: SmallDisk,
    run: Run,
    broker: Any,
    persistent_subscriber: Callable[[str], Any],
    until: Callable[..., None],
) -> None:
    """With the broker away: the disk fills up under the daemon, or is read-only at its start; healed, then SIGKILL."""
    subscriber = persistent_subscriber("distillnet/v1/bench/event/#")
    run.keep_state_in(small_disk.path / "state")
    in_flight: set[tuple[str, str]] = set()
    for _ in range(SICK):
        broker.stop()
        process = run.start_and_wait() if sickness == "full" else None
        with small_disk.full() if sickness == "full" else small_disk.read_only():
            process = process or run.start_and_wait()
            until(lambda: "kept in memory" in run.log.read_text(), 30, "the disk is missed")
            seen = len(run.tapped())
            until(lambda seen=seen: len(run.tapped()) > seen + 20, 30, "events go on being decided")
        until(lambda: "can be written again" in run.log.read_text(), 30, "what was in memory is on disk")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        in_flight.add(run.tapped()[-1][2:])
        broker.start()
    decided = run.let_it_empty(subscriber, in_flight, until)
    log.info("%s disk, %d times: %d events decided, none lost", sickness, SICK, len(decided))
