"""Nothing decided is lost: brokers that come and go, daemons that are killed. DISTILLNET_LONG=1 runs the long form."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillnet.device.outbox import Outbox

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

LONG = os.environ.get("DISTILLNET_LONG") == "1"
RESTARTS, EVENTS = (20, 10_000) if LONG else (4, 1_000)
KILLS = 200 if LONG else 6

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
        self.state = directory / "state"
        self._config = directory / "device.toml"
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
            return subprocess.Popen(arguments, stderr=log)

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


@pytest.fixture
def run(broker: Any, tmp_path: Path, student_path: Path, make_video: Callable[..., Path]) -> Run:
    red = [(index, index + 5, (20, 20, 230)) for index in range(0, 100, 10)]
    return Run(tmp_path, broker.port, student_path, make_video("flicker.mp4", 100, red))


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
    process = run.start(EVENTS)
    restarts = 0
    while process.poll() is None:
        time.sleep(chance.uniform(0.2, 1.0))
        if restarts < RESTARTS:
            broker.stop()
            time.sleep(chance.uniform(0.05, 0.5) if restarts else 3.0)
            broker.start()
            restarts += 1
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
    assert restarts == RESTARTS or not LONG


def test_a_daemon_killed_at_random_points_loses_nothing_it_had_written(
    run: Run, persistent_subscriber: Callable[[str], Any], until: Callable[..., None]
) -> None:
    subscriber = persistent_subscriber("distillnet/v1/bench/event/#")
    chance = random.Random(2)
    in_flight: set[tuple[str, str]] = set()
    for _ in range(KILLS):
        before = len(run.tapped())
        process = run.start()
        while len(run.tapped()) <= before:
            assert process.poll() is None, f"the start was wedged: {run.log.read_text()}"
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # The tap comes before the outbox: only the very last event may have been between the two.
        in_flight.add(run.tapped()[-1][2:])
    process = run.start(limit=10)
    assert process.wait(60) == 0
    decided = {line[2:] for line in run.tapped()}
    waiting = run.waiting()
    needed = decided - in_flight - waiting
    until(lambda: {(e["id"], e["phase"]) for e in list(subscriber.events)} >= needed, 60, "every event is there")
    assert in_order(subscriber.events)
