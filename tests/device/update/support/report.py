"""Everything that is claimed of updates, measured and printed as tables. `make test-updates` runs it.

    python tests/device/update/support/report.py [--short] [--only SECTION …] [--json FILE]

Sections: timing, attacks, network, stream, crashes, rpc, power-cut.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import crash_loop
import hundred
import tiny
from attacks import ATTACKS, run
from bad_network import BadNetwork, Faults
from board import Board
from simulated_cloud import SimulatedCloud

from distillnet.device.update import admission, effects
from distillnet.device.update.fetcher import FetchLimits
from distillnet.proto.v1 import fleet_pb2

_REAL_TRIAL = admission.try_apart
NETWORKS = {
    "loopback": Faults(),
    "300 ms round trip": Faults(latency_s=0.15),
    "lost packets: a read in fifty is late by 1 s": Faults(stall=0.02),
    "64 kbit/s": Faults(rate_bytes_per_s=8000),
    "break every 200 kB": Faults(break_after_bytes=200_000),
    "break every 200 kB, 300 ms": Faults(break_after_bytes=200_000, latency_s=0.15),
    "64 kbit/s, break every 200 kB, silences": Faults(
        rate_bytes_per_s=8000, break_after_bytes=200_000, latency_s=0.15, stall=0.01
    ),
}


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def power_cut(short: bool) -> dict:
    command = [sys.executable, str(Path(__file__).with_name("power_cut.py")), *(["--short"] if short else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    show(done.stdout)
    return {"ok": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1]}


def attacks(short: bool) -> dict:
    before = effects.FetchLimits, effects.MAX_FRUITLESS, effects.MAX_BUSY_S
    limits = FetchLimits(stall_s=0.3, grace_s=0.3, minimum_rate_bytes_per_s=20_000)
    effects.FetchLimits = lambda **_: limits
    effects.MAX_FRUITLESS, effects.MAX_BUSY_S = 2, 1.0
    failed = []
    chosen = ATTACKS[:: 5 if short else 1]
    for attack in chosen:
        admission.try_apart = _REAL_TRIAL if attack.trial else lambda *_, **__: None
        with SimulatedCloud() as cloud, tempfile.TemporaryDirectory() as directory:
            board = Board(cloud, Path(directory)).enroll().start()
            try:
                board.take(1)
                reason = run(attack, cloud, board)
                show(f"refused  {attack.name:<58} {reason[:110]}")
            except AssertionError as exc:
                failed.append(attack.name)
                show(f"FAILED   {attack.name:<58} {exc}")
            finally:
                board.stop()
    effects.FetchLimits, effects.MAX_FRUITLESS, effects.MAX_BUSY_S = before
    show(f"{len(chosen) - len(failed)} of {len(chosen)} attacks refused; the board ran on and took the next update")
    return {"ok": not failed, "attacks": len(chosen), "failed": failed}


def network(short: bool) -> dict:
    admission.try_apart = lambda *_, **__: None
    size = 60_000 if short else 600_000
    rows, worst = {}, 0.0
    show(f"{'network':<44} {'bytes':>9} {'fetched':>9} {'connections':>12} {'seconds':>8}")
    for name, faults in NETWORKS.items():
        with (
            SimulatedCloud() as cloud,
            tempfile.TemporaryDirectory() as directory,
            BadNetwork(cloud.address, faults) as proxy,
        ):
            board = Board(cloud, Path(directory), update={"server": proxy.address}).enroll().start()
            data = tiny.student(1, filler=size)
            directive = cloud.publish(1, data)
            before, started = proxy.down_bytes, time.monotonic()
            cloud.send(board.name, directive)
            report = cloud.wait_outcome(directive, 590)
            share = (proxy.down_bytes - before) / len(data)
            board.stop()
        worst = max(worst, share)
        rows[name] = {"share": share, "committed": report.phase == fleet_pb2.UPDATE_PHASE_COMMITTED}
        seconds = time.monotonic() - started
        show(f"{name:<44} {len(data):>9} {share:>8.3f}× {proxy.connections:>12} {seconds:>8.1f}")
    return {"ok": all(row["committed"] for row in rows.values()) and worst <= (1.2 if short else 1.1), "rows": rows}


def stream(short: bool) -> dict:
    admission.try_apart = (lambda *_, **__: None) if short else _REAL_TRIAL
    with tempfile.TemporaryDirectory() as directory:
        facts = hundred.campaign(10 if short else 100, Path(directory), lambda text: sys.stderr.write(f"\r{text:<20}"))
    for name, value in facts.items():
        show(f"{name:<24} {value}")
    ok = not facts["wrong"] and facts["dropped"] == 0 and facts["descriptors_leaked"] <= 0
    return {"ok": ok and facts["gap_at_switch_max_ms"] <= hundred.TWO_PERIODS_MS, **facts}


def crashes(short: bool) -> dict:
    """Daemons that really die of their new student, started again as systemd would."""
    wrong, rows = [], []
    for kind in list(crash_loop.KINDS)[: 1 if short else None]:
        with tempfile.TemporaryDirectory() as directory:
            facts = crash_loop.run(kind, Path(directory))
        rows.append(facts)
        if not crash_loop.as_expected(facts):
            wrong.append(kind)
        show(f"{kind:<40} {' '.join(facts['deaths']):<26} {facts['phase'].lower():<12} {facts['reason']}")
    show(f"{len(rows) - len(wrong)} of {len(rows)} daemons went back by themselves, took the next update and ran on")
    return {"ok": not wrong, "rows": rows}


def rpc(short: bool) -> dict:
    """The gRPC surface of a real service, fuzzed; needs the cloud's half."""
    script = Path(__file__).parents[3] / "cloud" / "fleet" / "fuzz_rpc.py"
    command = [sys.executable, str(script), "--json", "--seconds", "20" if short else "300"]
    facts = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    show(f"{facts['actions']} attempts: " + ", ".join(f"{name} {count}" for name, count in facts["by_action"].items()))
    for state in facts["states"]:
        show(", ".join(f"{what} {value}" for what, value in state.items()))
    show(f"wrong: {facts['wrong'] or 'nothing'}; answered INTERNAL or UNKNOWN: {facts['internal'] or 'never'}")
    return {"ok": not facts["wrong"], **facts}


def timing(short: bool) -> dict:
    """Publish → committed on an idle board, loopback, without shadow and probation, per phase."""
    admission.try_apart = _REAL_TRIAL
    totals, phases = [], {}
    with SimulatedCloud() as cloud, tempfile.TemporaryDirectory() as directory:
        board = Board(cloud, Path(directory)).enroll().start()
        board.take(1)
        for version in range(2, 5 if short else 22):
            data = tiny.student(version, seed=version, filler=300_000)
            started = time.monotonic()
            report = board.take(version, data)
            totals.append((time.monotonic() - started) * 1e3)
            for phase, took_ms in report.durations_ms.items():
                phases.setdefault(phase, []).append(took_ms)
        board.stop()
    order = ("fetching", "verifying", "self-test", "switched", "probation")
    medians = {phase: round(statistics.median(phases[phase]), 1) for phase in order}
    medians["signed → committed"] = round(statistics.median(totals), 1)
    for phase, median_ms in medians.items():
        show(f"{phase:<22} {median_ms:>9.1f} ms (median of {len(totals)})")
    show(f"{'slowest update':<22} {max(totals):>9.1f} ms")
    return {"ok": medians["signed → committed"] <= 3000, "median_ms": medians, "max_ms": round(max(totals), 1)}


SECTIONS: dict[str, Callable[[bool], dict]] = {
    "timing": timing,
    "attacks": attacks,
    "network": network,
    "stream": stream,
    "crashes": crashes,
    "rpc": rpc,
    "power-cut": power_cut,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a taste of each, about two minutes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--json", type=Path, help="write the facts here, too")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    facts = {}
    for name in arguments.only:
        show(f"\n== {name}")
        started = time.monotonic()
        facts[name] = {**SECTIONS[name](arguments.short), "seconds": round(time.monotonic() - started, 1)}
    show("\n== in short")
    for name, fact in facts.items():
        show(f"{name:<12} {'ok' if fact['ok'] else 'FAILED':<8} {fact['seconds']:>7.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1))
    return 0 if all(fact["ok"] for fact in facts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
