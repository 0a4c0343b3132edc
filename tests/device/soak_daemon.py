"""The daemon under an accelerated stream for a long time: does its memory grow, does it leak descriptors or threads?

`make soak-daemon [ARGS="--minutes 60 --fps 120 --json"]`. A looping video several times as fast as a camera, an event
that begins and ends all the time, clips of it within a small quota, a real Mosquitto that is restarted every minute.
Five minutes of warm-up come first and do not count. Of the minutes after them it reports the slope of the resident
memory with its 95 % interval, and how many descriptors and threads there were.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from bench_daemon import ROOT, rss_mb
from conftest import GREY, RED, build_colour_model, card, colour_frame, golden_of
from steadiness import slope

from distillnet.proto.archive import pack

_SAMPLE_S = 0.5
_WARM_UP_S = 300.0


def flickering_video(path: Path, fps: float) -> None:
    """90 noisy frames, half of them red: motion, scene changes, a decoder opened again and again."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (640, 360))
    for index in range(90):
        writer.write(colour_frame(RED if index >= 45 else GREY, index, (640, 360)))
    writer.release()


def colour_student(path: Path) -> None:
    """The tests' student, which tells colours."""
    model = build_colour_model(path.parent)
    path.write_bytes(pack(model, card("red", "green"), golden_of(model)))


def soak(minutes: float, fps: float, directory: Path, port: int, kept_at: Path | None) -> dict[str, Any]:
    """Run, sample, and return the figures."""
    student = ROOT / "build" / "bench" / "colours.tflite"
    student.parent.mkdir(parents=True, exist_ok=True)
    if not student.exists():
        colour_student(student)
    video = directory / "flicker.mp4"
    flickering_video(video, fps)
    config = directory / "soak.device.toml"
    config.write_text(
        f'[device]\nname = "soak"\nstate_dir = "{directory}"\n[model]\napplication = "colours"\npath = "{student}"\n'
        f"[mqtt]\nport = {port}\n[telemetry]\ninterval_s = 1\n"
        f'[evidence]\nmode = "clip"\nbefore_s = 1\nafter_s = 1\nmax_bytes = 4194304\n'
        f'[[source]]\nid = "camera"\nurl = "{video}"\nloop = true\ngate = "on"\n'
    )
    program = "from distillnet.device.cli import main; main()"
    said = directory / "daemon.log"
    with said.open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-c", program, "run", str(config)], stderr=log)
    broker = start_broker(port)
    samples: list[tuple[float, float, int, int]] = []
    started = restarted = time.monotonic()
    try:
        while (now := time.monotonic()) - started < _WARM_UP_S + minutes * 60:
            time.sleep(_SAMPLE_S)
            if daemon.poll() is not None:
                raise SystemExit("the daemon ended")
            process = Path(f"/proc/{daemon.pid}")
            descriptors, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
            samples.append((now - started, rss_mb(daemon.pid), descriptors, threads))
            if now - restarted > 60:
                restarted = now
                broker.kill()
                broker.wait()
                broker = start_broker(port)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
        last = said.read_text().strip().splitlines()[-1]
        broker.kill()
        broker.wait()
    table = np.array(samples)
    if kept_at is not None:
        np.savetxt(kept_at, table, "%.2f", ",")
    kept = table[table[:, 0] > _WARM_UP_S]
    minute = int(60 / _SAMPLE_S)
    rise, half = slope(kept[:, 0], kept[:, 1])
    return {
        "minutes": minutes,
        "fps": fps,
        "rss_mb_first_minute": float(kept[:minute, 1].mean()),
        "rss_mb_last_minute": float(kept[-minute:, 1].mean()),
        "rss_mb_max": float(table[:, 1].max()),
        "rss_slope_mb_per_hour": rise,
        "rss_slope_95_half_width": half,
        "zero_is_within": abs(rise) <= half,
        "descriptors": [int(kept[:, 2].min()), int(kept[:, 2].max()), int(kept[-1, 2])],
        "threads": [int(kept[:, 3].min()), int(kept[:, 3].max()), int(kept[-1, 3])],
        "said": last,
    }


def start_broker(port: int) -> "subprocess.Popen[bytes]":
    """Start Mosquitto."""
    path = next((p for p in ("/usr/sbin/mosquitto", "/usr/bin/mosquitto") if os.access(p, os.X_OK)), None)
    if path is None:
        raise SystemExit("Mosquitto is not installed: apt install mosquitto")
    return subprocess.Popen([path, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--fps", type=float, default=120.0)
    parser.add_argument("--port", type=int, default=18832)
    parser.add_argument("--samples", type=Path, help="keep seconds, MB, descriptors and threads there, as CSV")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = soak(options.minutes, options.fps, Path(directory), options.port, options.samples)
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return
    for name, value in result.items():
        print(f"{name:26} {value:.2f}" if isinstance(value, float) else f"{name:26} {value}")  # noqa: T201


if __name__ == "__main__":
    main()
