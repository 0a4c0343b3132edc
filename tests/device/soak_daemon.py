"""The daemon under an accelerated stream for a long time: does its memory grow, does it leak descriptors or threads?

`python tests/device/soak_daemon.py [--minutes 60] [--json]`. A looping video as fast as it goes (hundreds of frames and
many events a second), with a real Mosquitto that is restarted every minute. Reports the slope of the resident memory
after a warm-up with its 95 % interval from block means (neighbouring samples are no independent ones).
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
from bench_daemon import ROOT, build_student, rss_mb

_SAMPLE_S = 2.0
_WARM_UP_SHARE = 0.2
_BLOCKS = 10
_T_95 = 2.306
"""Student's t for eight degrees of freedom, two-sided 95 %."""


def flickering_video(path: Path) -> None:
    """Three seconds of noise whose brightness jumps: motion, scene changes, a decoder opened again and again."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (640, 360))
    rng = np.random.default_rng(0)
    for index in range(90):
        noise = rng.integers(-20, 21, (360, 640, 3))
        writer.write(np.clip(noise + (60 if index // 10 % 2 else 180), 0, 255).astype(np.uint8))
    writer.release()


def slope(seconds: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope per hour and the half width of its 95 % interval, from a line through block means."""
    x = np.array([block.mean() for block in np.array_split(seconds, _BLOCKS)]) / 3600.0
    y = np.array([block.mean() for block in np.array_split(values, _BLOCKS)])
    centred = x - x.mean()
    rise = float((centred * y).sum() / (centred**2).sum())
    residual = y - y.mean() - rise * centred
    error = float(np.sqrt((residual**2).sum() / (_BLOCKS - 2) / (centred**2).sum()))
    return rise, _T_95 * error


def soak(minutes: float, directory: Path, port: int) -> dict[str, Any]:
    """Run, sample, and return the figures."""
    student = ROOT / "build" / "bench" / "mobilenet.tflite"
    student.parent.mkdir(parents=True, exist_ok=True)
    if not student.exists():
        build_student(student)
    video = directory / "flicker.mp4"
    flickering_video(video)
    config = directory / "soak.device.toml"
    config.write_text(
        f'[device]\nname = "soak"\nstate_dir = "{directory}"\n[model]\napplication = "bench"\npath = "{student}"\n'
        f"[mqtt]\nport = {port}\n[telemetry]\ninterval_s = 1\n"
        f'[evidence]\nmode = "clip"\nbefore_s = 1\nafter_s = 1\nmax_bytes = 4194304\n'
        f'[[source]]\nid = "camera"\nurl = "{video}"\nloop = true\npace = "fast"\ngate = "on"\n'
        '[[event]]\nname = "thing0"\nthreshold = 0\nexit_threshold = 0\nupdate_s = 0.5\n'
    )
    program = "from distillnet.device.cli import main; main()"
    daemon = subprocess.Popen([sys.executable, "-c", program, "run", str(config)], stderr=subprocess.PIPE, text=True)
    broker = start_broker(port)
    samples: list[tuple[float, float, int, int]] = []
    started = restarted = time.monotonic()
    try:
        while (now := time.monotonic()) - started < minutes * 60:
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
        assert daemon.stderr is not None
        last = daemon.stderr.read().strip().splitlines()[-1]
        daemon.wait(10)
        broker.kill()
        broker.wait()
    table = np.array(samples)
    kept = table[table[:, 0] > minutes * 60 * _WARM_UP_SHARE]
    rise, half = slope(kept[:, 0], kept[:, 1])
    return {
        "minutes": minutes,
        "rss_mb_first": kept[0, 1],
        "rss_mb_last": kept[-1, 1],
        "rss_mb_max": float(table[:, 1].max()),
        "rss_slope_mb_per_hour": rise,
        "rss_slope_95_half_width": half,
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
    parser.add_argument("--port", type=int, default=18832)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = soak(options.minutes, Path(directory), options.port)
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return
    for name, value in result.items():
        print(f"{name:26} {value:.2f}" if isinstance(value, float) else f"{name:26} {value}")  # noqa: T201


if __name__ == "__main__":
    main()
