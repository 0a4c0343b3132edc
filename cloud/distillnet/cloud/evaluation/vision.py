"""Runs the comparison: one job per application, seed and arm; each result is on disk before the next job begins.

Started again, it goes on with what is missing. Results of other settings are kept and never mixed. A machine that only
trains keeps its students in the cache; any other that finds them there converts, judges and times them.
"""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillnet.cloud import accelerator, host, metrics
from distillnet.cloud.core import Classifier, CoreNet, CoreShape
from distillnet.cloud.evaluation.arms import ARMS, COARSE, Ground, prepare
from distillnet.cloud.evaluation.settings import Settings
from distillnet.cloud.evaluation.tiny_imagenet import Archive, Task, load
from distillnet.cloud.export import dequantise, input_tensor, run_int8, to_int8
from distillnet.cloud.measure import compare_speed, int8_teacher
from distillnet.cloud.metrics import Floats, softmax
from distillnet.cloud.progress import Steps
from distillnet.cloud.rounding import rounded
from distillnet.cloud.teacher import Teacher, normalise
from distillnet.cloud.training import predict
from distillnet.cloud.views import shrink_all
from distillnet.engine import load as load_model
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

ALARM_RATE = 0.01
CALIBRATION_PICTURES = 64
STUDENTS = Path("evaluation") / "students"


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
    only_train: bool = False,
) -> int:
    """Run what is missing until the time is spent; returns how many jobs are still missing.

    A job that has begun is finished: the budget bounds when the last one starts. `only_train`: do not convert.

    Raises:
        ConfigError: `results` is not one of our files.

    """
    done = read(results)
    end = time.monotonic() + 60 * minutes
    if not only_train:
        for place, result in enumerate(done):
            if "student" in result and (cache / STUDENTS / result["student"]).is_file() and time.monotonic() < end:
                with steps.step("int8", f"{result['key']}: conversion"):
                    done[place] = _measured(result, archive, teacher, cache)
                _write(results, done)
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
            coarse = partial(load, archive, application, replace(teacher, resolution=COARSE), cache, steps)
            ground = prepare(tasks[application], teacher, settings, seed, coarse)
        key = _key(application, seed, arm, settings)
        result = {"key": key} | _job(ground, arm, cache / STUDENTS, steps, key) | _provenance(archive, teacher)
        if "student" in result and not only_train:
            result = _measured(result, archive, teacher, cache)
        done.append(result)
        _write(results, done)
    return 0


def _write(results: Path, done: list[dict[str, Any]]) -> None:
    text = json.dumps({"results": done}, allow_nan=False, indent=1, sort_keys=True)
    write_whole(results, (text + "\n").encode())


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


def _job(ground: Ground, arm: str, students: Path, steps: Steps, key: str) -> dict[str, Any]:
    begun = time.monotonic()
    task, settings = ground.task, ground.settings
    with steps.step("arm", f"{task.name}, seed {ground.seed}: {arm}", total=settings.steps) as advance:
        outcome = ARMS[arm][0](ground, advance)
    facts: dict[str, Any] = {
        "application": task.name,
        "seed": ground.seed,
        "arm": arm,
        "settings": asdict(settings),
        "macs": int(outcome.macs),
        "n": {"train": len(task.train.labels), "val": len(task.val.labels), "unseen": len(task.unseen.labels)},
        "curve": [{name: round(value, 4) for name, value in point.items()} for point in outcome.curve],
        "seconds": {"training": time.monotonic() - begun},
    }
    scores = outcome.scores
    if outcome.network is not None:
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
        write_whole(students / name, _to_file(outcome.network))
        network = _from_file((students / name).read_bytes())
        mean, scale, side = ground.teacher.mean, ground.teacher.scale, settings.resolution
        parts = [shrink_all(part.pixels, side) for part in (task.val, task.unseen)]
        logits = [predict(network, pixels, mean, scale) for pixels in parts]
        scores = softmax(logits[0]), softmax(logits[1])
        facts |= {"student": name, "table_ms": ground.budget.network_ms(network, side)}
    assert scores is not None
    return facts | {"float": judge(scores[0], task.val.labels, scores[1])}


def _to_file(network: Classifier) -> bytes:
    """Write a student so that it can travel: its layers' weights as float16."""
    assert isinstance(network.core, CoreNet)
    state = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    shape = {"shape": network.core.shape.to_json(), "outputs": network.classify.out_features}
    buffer = io.BytesIO()
    torch.save(shape | {"state": state}, buffer)
    return buffer.getvalue()


def _from_file(data: bytes) -> Classifier:
    kept = torch.load(io.BytesIO(data), weights_only=True)
    shape = CoreShape.from_json(kept["shape"])
    network = Classifier(CoreNet(shape), shape.head, kept["outputs"])
    network.load_state_dict(kept["state"])
    return network.eval()


def _measured(result: dict[str, Any], archive: Archive, teacher: Teacher, cache: Path) -> dict[str, Any]:
    """Return the result with the figures of the int8 file in the engine, and its latency beside the teacher's."""
    begun = time.monotonic()
    kept = cache / STUDENTS / result["student"]
    network, side = _from_file(kept.read_bytes()), result["settings"]["resolution"]
    mean, scale = teacher.mean, teacher.scale
    trained_on = archive.labelled(result["application"], "train")[0]
    chosen = trained_on[:: max(1, len(trained_on) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    calibration = normalise(shrink_all(chosen, side), mean, scale)
    data = to_int8(rounded(network, calibration), calibration)
    model = load_model(data)
    val, labels = archive.labelled(result["application"], "val")
    unseen = archive.labelled(result["application"], "unseen")[0]
    scores = []
    for pixels in (val, unseen):
        inputs = input_tensor(model, (shrink_all(pixels, side).astype(np.float32) - mean) / scale)
        scores.append(softmax(dequantise(model, run_int8(model, inputs))))
    speed = compare_speed(data, int8_teacher(teacher, trained_on, cache))
    kept.unlink()
    measured = {
        "int8": judge(scores[0], labels, scores[1]),
        "bytes": len(data),
        "latency_ms": speed.student_ms,
        "teacher_litert_ms": speed.teacher_ms,
        "teacher_bytes": speed.teacher_bytes,
        "engine": {name: model.info[name] for name in ("engine", "kernels", "threads")} | {"machine": speed.machine},
        "seconds": result["seconds"] | {"int8": time.monotonic() - begun},
    }
    return {name: value for name, value in result.items() if name != "student"} | measured


def _provenance(archive: Archive, teacher: Teacher) -> dict[str, Any]:
    return {
        "provenance": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": host.machine(),
            "trained_on": accelerator.describe(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "revision": host.revision(),
            "data": archive.digest,
            "teacher": {"source": teacher.source, "resolution": teacher.resolution, "digest": teacher.digest},
        }
    }
