"""Many updates in a row under a live stream, some of them bad on purpose; what was dropped, leaked and reported.

python tests/device/update/support/hundred.py [--updates 100] [--json]
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from simulated_cloud import SimulatedCloud
from stream import BAD_KINDS, FPS, LiveBoard, bad, good, install_faults

from distillnet.proto.v1 import fleet_pb2

TWO_PERIODS_MS = 2000 / FPS
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def campaign(updates: int, directory: Path, progress: Callable[[str], None], bad_every: int = 5) -> dict:
    """Take `updates` students one after another; one in `bad_every` is bad. Returns the facts."""
    undo = install_faults()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    warm_at = max(2, updates // 5)
    warm = (0, 0.0)
    durations: list[float] = []
    with SimulatedCloud() as cloud:
        board = LiveBoard(cloud, directory / "board").enroll().start()
        try:
            board.take(1, good(1))
            started = time.monotonic()
            for number in range(updates):
                version, kind = number + 2, ""
                if number % bad_every == bad_every - 1:
                    kind = BAD_KINDS[(number // bad_every) % len(BAD_KINDS)]
                before = board.running_version
                began = time.monotonic()
                report = board.take(version, bad(version, kind) if kind else good(version))
                cloud.forget_old()
                durations.append(time.monotonic() - began)
                expected = fleet_pb2.UPDATE_PHASE_ROLLED_BACK if kind else fleet_pb2.UPDATE_PHASE_COMMITTED
                runs = before if kind else version
                if report.phase != expected or board.running_version != runs or report.version != runs:
                    wrong.append(f"update {number} ({kind or 'good'}): {report.phase} {report.reason}")
                if kind:
                    reasons[f"{kind} → {report.reason.split(':')[-1].strip()[:40]}"] += 1
                if number == warm_at:
                    gc.collect()
                    warm = (descriptors(), resident_mb())
                progress(f"{number + 1} of {updates}")
            time.sleep(0.3)
            gc.collect()
            now = (descriptors(), resident_mb())
            gaps, at_switch = board.gaps_ms(started)
        finally:
            board.stop()
            undo()
    return {
        "updates": updates,
        "bad": updates // bad_every,
        "wrong": wrong,
        "reasons": dict(reasons),
        "frames": board.summary.frames,
        "dropped": board.summary.dropped,
        "switches": len(at_switch),
        "gap_p50_ms": round(float(np.median(gaps)), 2),
        "gap_p99_ms": round(float(np.quantile(gaps, 0.99)), 2),
        "gap_max_ms": round(float(gaps.max()), 2),
        "gap_at_switch_p50_ms": round(float(np.median(at_switch)), 2),
        "gap_at_switch_max_ms": round(float(at_switch.max()), 2),
        "gaps_over_two_periods": int((gaps > TWO_PERIODS_MS).sum()),
        "descriptors_leaked": now[0] - warm[0],
        "megabytes_grown": round(now[1] - warm[1], 2),
        "seconds_per_update": float(np.median(durations)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        facts = campaign(arguments.updates, Path(directory), lambda text: sys.stderr.write(f"\r{text:<30}"))
    if arguments.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name:<24} {value}\n")
    return 1 if facts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
