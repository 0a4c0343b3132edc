"""Distils as a user would, from folders and an application file, and judges the student beside what it must beat."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distillnet.cloud import metrics
from distillnet.cloud.evaluation.distilled.cases import Case
from distillnet.cloud.evaluation.vision import judge
from distillnet.cloud.media import Picture
from distillnet.cloud.metrics import Floats, softmax
from distillnet.cloud.pipeline import distill
from distillnet.cloud.probe import apply_probe, fit_probe
from distillnet.cloud.rejection import one_hot
from distillnet.cloud.teacher import Teacher
from distillnet.cloud.views import shrink
from distillnet.cloud.wanted import restricted
from distillnet.engine.student import Student


def compare(case: Case, teacher: Teacher, minutes: float, seed: int) -> dict[str, Any]:
    """Distil, and judge the student beside the teacher as it is and a probe on the labelled pictures."""
    with tempfile.TemporaryDirectory(prefix="distillnet-eval-") as folder:
        out = Path(folder) / "out"
        facts = distill(laid_out(case, Path(folder)), out, minutes=minutes, seed=seed, quiet=False)
        student = Student.load((out / "student.tflite").read_bytes())
    asked = [*case.test, *case.unseen]
    logits, features = _outputs(teacher, asked)
    words = tuple(teacher.classes.resolve(list(own), event=event) for event, own in case.words.items())
    probe = fit_probe(_outputs(teacher, case.labelled)[1], one_hot(case.labels, case.labels.max() + 1), seed=seed)
    said = {
        "teacher as it is": restricted(logits, words),
        "probe on the labelled pictures": softmax(apply_probe(probe, features)),
        "student, int8": np.stack([student.scores(np.ascontiguousarray(p[:, :, ::-1])) for p in asked]),
    }
    return {
        "minutes": minutes,
        "n": {
            "labelled": len(case.labelled),
            "heap": len(case.heap),
            "test": len(case.test),
            "unseen": len(case.unseen),
        },
        "seconds": facts["seconds"],
        "speedup": facts.get("speedup"),
        "latency_ms": facts["student_latency_ms"],
        "bytes": facts["student_bytes"],
        "teacher_bytes": facts.get("teacher_bytes"),
        "int8_loss": facts["int8_loss"],
        "winner": next(row["name"] for row in facts["candidates"] if row["chosen"]),
        "figures": {name: _judged(case, scores) for name, scores in said.items()},
    }


def _judged(case: Case, scores: Floats) -> dict[str, Any]:
    """Figures as JSON; without negatives the events are told from each other only."""
    count, events = len(case.test), len(case.words)
    if not case.unseen:
        return {"macro_recall": metrics.macro_recall(scores[:, :events], case.test_labels).to_json()}
    return judge(scores[:count], case.test_labels, scores[count:])


def laid_out(case: Case, folder: Path) -> Path:
    """Write pictures and application file as a user has them; returns the file."""
    words = {name.replace(" ", "_"): own for name, own in case.words.items()}
    names = [*words, "other"]
    for index, (picture, label) in enumerate(zip(case.labelled, case.labels, strict=True)):
        _write(folder / "labelled" / names[label] / f"{index}.png", picture)
    for index, picture in enumerate(case.heap):
        _write(folder / "heap" / f"{index}.png", picture)
    heap = 'unlabelled = ["heap"]\n' if case.heap else ""
    events = "".join(f"[[event]]\nname = {json.dumps(e)}\nclasses = {json.dumps(w)}\n" for e, w in words.items())
    text = f'[application]\nname = "{case.name}"\n{events}[data]\nlabelled = "labelled"\n{heap}'
    file = folder / f"{case.name}.app.toml"
    file.write_text(text + "validation_share = 0.1\ntest_share = 0.01\n")
    return file


def _write(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[:, :, ::-1])


def _outputs(teacher: Teacher, pictures: Sequence[Picture]) -> tuple[Floats, Floats]:
    logits, features = teacher.outputs(np.stack([shrink(picture, teacher.resolution) for picture in pictures]))
    assert features is not None
    return logits, features
