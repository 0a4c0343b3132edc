"""Cuts the power at every operation an update makes on the disk, and shows that the board always comes back.

    python tests/device/update/support/power_cut.py [--short] [--json]

The cloud is one process, each life of the board another, forked so that it starts in a moment and killed by SIGKILL.
A board that was cut must start again with a valid student, the old or the new one, and then finish the update.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiny
from cutting import MODES, CuttingFiles

from distillnet.device.config import DeviceConfig
from distillnet.device.slot import ModelSlot
from distillnet.device.update import admission
from distillnet.device.update.backoff import Backoff
from distillnet.device.update.enroll import enroll
from distillnet.device.update.identity import load_identity
from distillnet.device.update.machine import ENDS
from distillnet.device.update.record import Record
from distillnet.device.update.service import UpdateService, startup_student

FILLER = 40_000  # three pieces
FAILING, REFUSED = 3, 4
LIFE_S = 30.0


@dataclass(frozen=True)
class Scenario:
    """An update to watch: `directive` is open when the board connects."""

    name: str
    version: int
    result: str
    ends_with: int


SCENARIOS = (
    Scenario("an update that is committed", 2, "committed", 2),
    Scenario("an update that fails on probation", FAILING, "rolled-back", 1),
    Scenario("an update that fails its self-test", REFUSED, "refused", 1),
)


@dataclass
class Cut:
    """One cut and what came of it."""

    scenario: str
    operation: str
    file: str
    phase: str
    modes: dict[str, str] = field(default_factory=dict)


class CloudProcess:
    """The simulated cloud in a process of its own: a process with gRPC in it cannot fork."""

    def __enter__(self) -> "CloudProcess":
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--cloud"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = json.loads(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(10)

    def ask(self, command: str) -> str:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def serve_cloud() -> None:
    from simulated_cloud import SimulatedCloud

    students = {version: tiny.numbered(version, filler=FILLER) for version in (1, 2, FAILING)}
    students[REFUSED] = tiny.student(REFUSED, filler=FILLER, golden_shift=1)
    with SimulatedCloud() as cloud:
        directives = {}
        sys.stdout.write(json.dumps({"address": cloud.address, "enroll": cloud.enroll_address}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            verb, _, argument = line.strip().partition(" ")
            if verb == "open":
                if int(argument) not in directives:  # so that every scenario has new metadata to store, too
                    directives[int(argument)] = cloud.publish(int(argument), students[int(argument)])
                cloud.open_directives["porch"] = directives[int(argument)]
            sys.stdout.write((cloud.token() if verb == "token" else "ok") + "\n")
            sys.stdout.flush()


def config_of(state_dir: Path) -> DeviceConfig:
    return DeviceConfig.model_validate(
        {
            "device": {"name": "porch", "state_dir": str(state_dir)},
            "model": {"application": tiny.APPLICATION},
            "source": [{"id": "door", "url": "none"}],
            "update": {"shadow_s": 0.02, "probation_s": 0.05, "poll_s": 3600, "max_crashes": 3},
        }
    )


def live(state_dir: Path, files: CuttingFiles, version: int, out: Path) -> None:
    """One life of the board, until the directive for `version` has ended. Writes what it was to `out`."""
    admission.try_apart = lambda *_, **__: None  # writes nothing; a second each
    config = config_of(state_dir)
    data = startup_student(config, files)
    student = admission.load(data, config) if data is not None else None
    if student is not None:
        student.self_test()
    life = {"started": student.card.version if student else 0}
    out.write_text(json.dumps(life))
    slot = ModelSlot(student)
    ended = threading.Event()

    def shown(payload) -> None:
        files.phase = payload.phase
        record: Record = service.record
        past = [past for past in record.history if past.version == version]
        if past and record.update.phase in ENDS:
            ended.set()

    service = UpdateService(config, slot, shown, files=files)
    service._link._backoff = Backoff(first_s=0.02, limit_s=0.1)
    service.start()
    while not ended.wait(0.005):
        running = slot.current()
        if running is not None and running.card.version == FAILING:
            slot.record_error()
    service.stop()
    record = service.record
    current = record.slots.current
    life |= {"result": record.history[-1].result, "ended": current.version if current else 0}
    life["running"] = slot.current().card.version
    out.write_text(json.dumps(life))


def in_process(action: Callable[[], None], timeout_s: float = LIFE_S) -> int:
    """Run `action` in a fork; returns its wait status, -1 if it hung. Time both were stopped for does not count."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException as exc:  # the child must not go on as a second parent
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
        finally:
            os._exit(status)
    waited_s, before = 0.0, time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        waited_s += min(time.monotonic() - before, 1.0)
        before = time.monotonic()
        if waited_s > timeout_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -1
        time.sleep(0.002)


class Harness:
    """Knows the template of a board that runs version 1, and cuts copies of it."""

    def __init__(self, directory: Path, cloud: CloudProcess) -> None:
        self.directory, self.cloud = directory, cloud
        self.template = directory / "template"
        self.log, self.out = directory / "log", directory / "out"
        self.runs = 0
        token = cloud.ask("token")
        assert in_process(lambda: enroll_here(self.template, cloud, token, None)) == 0, "could not enrol"
        cloud.ask("open 1")
        status = in_process(lambda: live(self.template, CuttingFiles(self.log), 1, self.out))
        assert status == 0 and self._life()["ended"] == 1, "the template could not be made"

    def operations(self, scenario: Scenario) -> list[list]:
        """Every operation of an undisturbed update, in order."""
        self.cloud.ask(f"open {scenario.version}")
        state = self._copy()
        assert in_process(lambda: live(state, CuttingFiles(self.log), scenario.version, self.out)) == 0
        assert self._life()["result"] == scenario.result, self._life()
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def cut(self, scenario: Scenario, at: int, mode: str, again_at: int = 0) -> str:
        """Cut at one operation, come back, finish; returns "ok" or what went wrong."""
        state = self._copy()
        lives = [(at, mode)] + ([(again_at, mode)] if again_at else [])
        for number, how in lives:
            files = CuttingFiles(self.log, number, how)
            status = in_process(lambda files=files: live(state, files, scenario.version, self.out))
            self.runs += 1
            if status == 0 and number is lives[-1][0] and not again_at:
                return "never reached"
            if status not in (0, signal.SIGKILL):
                return f"status {status} before the cut"
        self.out.unlink(missing_ok=True)
        status = in_process(lambda: live(state, CuttingFiles(self.log), scenario.version, self.out))
        self.runs += 1
        if not self.out.exists():
            return "did not start again"
        life = self._life()
        if life["started"] not in (1, scenario.version):
            return f"started with version {life['started']}"
        if status != 0:
            return f"did not finish (status {status})"
        got = (life["result"], life["ended"], life["running"])
        wanted = (scenario.result, scenario.ends_with, scenario.ends_with)
        return "ok" if got == wanted else f"ended as {got}"

    def cut_enrolment(self, at: int, mode: str) -> str:
        state, token = self.directory / "fresh", self.cloud.ask("token")
        shutil.rmtree(state, ignore_errors=True)
        in_process(lambda: enroll_here(state, self.cloud, token, CuttingFiles(self.log, at, mode)))
        self.runs += 1
        if load_identity(state) is None and in_process(lambda: enroll_here(state, self.cloud, token, None)) != 0:
            return "the token was wasted"
        return "ok" if load_identity(state) is not None else "no identity"

    def enrolment_operations(self) -> list[list]:
        state, token = self.directory / "fresh", self.cloud.ask("token")
        self.log.unlink(missing_ok=True)
        assert in_process(lambda: enroll_here(state, self.cloud, token, CuttingFiles(self.log))) == 0
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _copy(self) -> Path:
        state = self.directory / "board"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(self.template, state)
        self.log.unlink(missing_ok=True)
        return state

    def _life(self) -> dict:
        return json.loads(self.out.read_text())


def enroll_here(state: Path, cloud: CloudProcess, token: str, files: CuttingFiles | None) -> None:
    enroll(state, cloud.ready["enroll"], token, device="porch", files=files)


def campaign(short: bool, progress: Callable[[str], None]) -> tuple[list[Cut], int]:
    """Cut everywhere; returns the table and how many processes lived."""
    table: list[Cut] = []
    with tempfile.TemporaryDirectory() as directory, CloudProcess() as cloud:
        harness = Harness(Path(directory), cloud)
        for number, name, file, _, dirty in harness.enrolment_operations():
            row = Cut("enrolment", name, file, "")
            row.modes = {mode: harness.cut_enrolment(number, mode) for mode in _modes(name, dirty, short)}
            table.append(row)
        for scenario in SCENARIOS[:1] if short else SCENARIOS:
            operations = harness.operations(scenario)
            for number, name, file, phase, dirty in operations:
                row = Cut(scenario.name, name, file, phase or "start")
                row.modes = {mode: harness.cut(scenario, number, mode) for mode in _modes(name, dirty, short)}
                table.append(row)
                progress(f"{scenario.name}: {number} of {len(operations)}")
            if not short:
                table.extend(_twice(harness, scenario, len(operations)))
        return table, harness.runs


def _twice(harness: Harness, scenario: Scenario, operations: int, samples: int = 25) -> list[Cut]:
    """Cut again while coming back from a cut, at random places."""
    source = random.Random(6)
    rows = []
    for _ in range(samples):
        first, second = source.randint(1, operations), source.randint(1, 12)
        mode = source.choice(("killed", "lost", "garbage"))
        row = Cut(scenario.name, f"cut at {first}, again at {second}", "", "twice")
        row.modes = {mode: harness.cut(scenario, first, mode, second)}
        rows.append(row)
    return rows


def _modes(operation: str, dirty: bool, short: bool) -> list[str]:
    modes = ["killed"]
    if operation in ("write", "append"):
        modes.append("torn")
    if dirty:
        modes += ["lost"] if short else ["lost", "garbage"]
    return [mode for mode in modes if not short or mode != "torn" or operation == "append"]


def printed(table: list[Cut], runs: int, seconds: float) -> str:
    lines = [f"{'phase':<12} {'operation':<26} {'file':<40} " + " ".join(f"{mode:<8}" for mode in MODES)]
    scenario = ""
    for row in table:
        if row.scenario != scenario:
            scenario = row.scenario
            lines.append(f"-- {scenario}")
        cells = " ".join(f"{row.modes.get(mode, '·'):<8}" for mode in MODES)
        lines.append(f"{row.phase:<12} {row.operation:<26} {row.file[:39]:<40} {cells}")
    good, total = counts(table)
    lines.append(f"{good} of {total} cuts survived ({100 * good / total:.1f} %), {runs} lives, {seconds:.0f} s")
    return "\n".join(lines)


def counts(table: list[Cut]) -> tuple[int, int]:
    results = [result for row in table for result in row.modes.values()]
    return sum(result == "ok" for result in results), len(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one scenario, fewer ways to lose data")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cloud", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cloud:
        serve_cloud()
        return 0
    started = time.monotonic()
    table, runs = campaign(arguments.short, lambda text: sys.stderr.write(f"\r{text:<70}"))
    good, total = counts(table)
    if arguments.json:
        bad = [(row.scenario, row.operation, row.file, row.modes) for row in table if set(row.modes.values()) - {"ok"}]
        facts = {"cuts": total, "survived": good, "lives": runs, "seconds": time.monotonic() - started, "bad": bad}
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(printed(table, runs, time.monotonic() - started) + "\n")
    return 0 if good == total else 1


if __name__ == "__main__":
    sys.exit(main())
