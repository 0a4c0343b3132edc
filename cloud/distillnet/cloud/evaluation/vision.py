"""Runs the comparison: one job per application, seed and arm; each result is on disk before the next job begins.

Started again, it goes on with what is missing. Results of other settings are kept and never mixed.
"""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillnet.cloud import metrics
from distillnet.cloud.evaluation.arms import ARMS, Ground, Outcome, Settings, prepare
from distillnet.cloud.evaluation.tiny_imagenet import Archive, Task, load
from distillnet.cloud.export import dequantise, input_tensor, run_int8, to_int8
from distillnet.cloud.measure import compare_speed, int8_teacher, machine
from distillnet.cloud.metrics import Floats, softmax
from distillnet.cloud.progress import Steps
from distillnet.cloud.teacher import Teacher, normalise
from distillnet.cloud.training import predict
from distillnet.cloud.views import shrink_all
from distillnet.engine import load as load_model
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

ALARM_RATE = 0.01
CALIBRATION_PICTURES = 64


def run(
    archive: Archive,
    teacher: Teacher,
    results: Path,
    *,
    applications: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    minutes: float,
    cache: Path,
    steps: Steps,
) -> int:
    """Run what is missing until the time is spent; returns how many jobs are still missing.

    A job that has begun is finished: the budget bounds when the last one starts.

    Raises:
        ConfigError: `results` is not one of our files.

    """
    done = read(results)
    end = time.monotonic() + 60 * minutes
    missing = [job for job in _jobs(applications, arms, seeds) if _key(*job, settings) not in {r["key"] for r in done}]
    tasks: dict[str, Task] = {}
    ground: Ground | None = None
    for number, (application, seed, arm) in enumerate(missing):
        if time.monotonic() >= end:
            steps.say(f"out of time: {len(missing) - number} of {len(missing)} jobs are left; run again to go on")
            return len(missing) - number
        if application not in tasks:
            tasks = {application: load(archive, application, teacher, cache, steps)}
        if ground is None or ground.task.name != application or ground.seed != seed:
            ground = prepare(tasks[application], teacher, settings, seed)
        result = _job(ground, arm, cache, steps)
        done.append(result | {"key": _key(application, seed, arm, settings)} | _provenance(archive, teacher))
        text = json.dumps({"results": done}, allow_nan=False, indent=1, sort_keys=True)
        write_whole(results, (text + "\n").encode())
    return 0


def read(results: Path) -> list[dict[str, Any]]:
    """Return the results so far.

    Raises:
        ConfigError: the file is not one of ours.

    """
    if not results.exists():
        return []
    try:
        return list(json.loads(results.read_text(encoding="utf-8"))["results"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"results {results}: not a file of this comparison: {exc}; move it away") from exc


def judge(val: Floats, val_labels: metrics.Ints, unseen: Floats) -> dict[str, Any]:
    """Return the figures of scores float32 (N, K+1): on `val`, and events of `val` against `unseen` negatives."""
    is_event = val_labels != val.shape[1] - 1
    return {
        "macro_recall": metrics.macro_recall(val, val_labels).to_json(),
        "recall_at_1_percent": metrics.recall_at_alarm_rate(
            val[is_event], val_labels[is_event], unseen, ALARM_RATE
        ).to_json(),
        "unseen_rejected": metrics.wilson(int((unseen.argmax(1) == unseen.shape[1] - 1).sum()), len(unseen)).to_json(),
    }


def _jobs(applications: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int, str]]:
    """Yield every arm once on everything before any gets a second seed."""
    for seed in seeds:
        for application in applications:
            for arm in arms:
                yield application, seed, arm


def _key(application: str, seed: int, arm: str, settings: Settings) -> str:
    of_settings = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:8]
    return f"{application}/{seed}/{arm}/{of_settings}"


def _job(ground: Ground, arm: str, cache: Path, steps: Steps) -> dict[str, Any]:
    begun = time.monotonic()
    task, settings = ground.task, ground.settings
    with steps.step("arm", f"{task.name}, seed {ground.seed}: {arm}", total=settings.steps) as advance:
        outcome = ARMS[arm][0](ground, advance)
    trained_s = time.monotonic() - begun
    facts: dict[str, Any] = {
        "application": task.name,
        "seed": ground.seed,
        "arm": arm,
        "settings": asdict(settings),
        "macs": int(outcome.macs),
        "n": {"train": len(task.train.labels), "val": len(task.val.labels), "unseen": len(task.unseen.labels)},
        "curve": [{name: round(value, 4) for name, value in point.items()} for point in outcome.curve],
    }
    if outcome.scores is not None:
        facts["float"] = judge(outcome.scores[0], task.val.labels, outcome.scores[1])
    else:
        facts |= _measured(outcome, ground, cache)
    return facts | {"seconds": {"training": trained_s, "total": time.monotonic() - begun}}


def _measured(outcome: Outcome, ground: Ground, cache: Path) -> dict[str, Any]:
    """Return figures of the float network in torch, and of the int8 file in the engine with its latency."""
    network, task, side = outcome.network, ground.task, ground.settings.resolution
    assert network is not None
    mean, scale = ground.teacher.mean, ground.teacher.scale
    parts = [shrink_all(part.pixels, side) for part in (task.val, task.unseen)]
    floats = [softmax(predict(network, pixels, mean, scale)) for pixels in parts]
    every = max(1, len(ground.lessons.pixels) // CALIBRATION_PICTURES)
    data = to_int8(network, normalise(ground.lessons.pixels[::every][:CALIBRATION_PICTURES], mean, scale))
    model = load_model(data)
    int8 = []
    for pixels in parts:
        inputs = input_tensor(model, (pixels.astype(np.float32) - mean) / scale)
        int8.append(softmax(dequantise(model, run_int8(model, inputs))))
    speed = compare_speed(data, int8_teacher(ground.teacher, task.train.pixels, cache))
    return {
        "float": judge(floats[0], task.val.labels, floats[1]),
        "int8": judge(int8[0], task.val.labels, int8[1]),
        "bytes": len(data),
        "latency_ms": speed.student_ms,
        "teacher_litert_ms": speed.teacher_ms,
        "teacher_bytes": speed.teacher_bytes,
        "table_ms": ground.budget.network_ms(network, side),
        "engine": {name: model.info[name] for name in ("engine", "kernels", "threads")},
    }


def _provenance(archive: Archive, teacher: Teacher) -> dict[str, Any]:
    return {
        "provenance": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "revision": _revision(),
            "data": archive.digest,
            "teacher": {"source": teacher.source, "resolution": teacher.resolution, "digest": teacher.digest},
        }
    }


def _revision() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
