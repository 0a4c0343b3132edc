"""What is known about a student when it is finished, as its card and as the report's facts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from distillnet.cloud import accelerator, host
from distillnet.cloud.application import Application
from distillnet.cloud.baselines import Baselines, judge, rows
from distillnet.cloud.candidate import Candidate
from distillnet.cloud.data import Dataset
from distillnet.cloud.export import Gate
from distillnet.cloud.measure import Speed
from distillnet.cloud.metrics import Figure, Floats, Ints, agreement, confusion, det_curves, wilson
from distillnet.cloud.rejection import Decision, alarms
from distillnet.cloud.teacher import LITE_MEAN, LITE_SCALE, Teacher
from distillnet.cloud.views import Views
from distillnet.engine.profile import Profile, this_machine
from distillnet.proto.card import Card, CardEvent, DataInfo, ImageInput, Latency, Metric, TeacherInfo

FEW = 1000


@dataclass(frozen=True)
class Result:
    """One finished distillation. `scores` (V, K+1) are the int8 student's, calibrated; `truth` (V,).

    `borne_out`: see `Wanted`.
    `board_ms`: what the student takes on the budget's board, by its table.
    """

    application: Application
    teacher: Teacher
    dataset: Dataset
    views: Views
    truth: Ints
    borne_out: Figure | None
    scores: Floats
    baselines: Baselines
    candidate: Candidate
    decision: Decision
    gate: Gate
    speed: Speed
    board: Profile
    board_ms: float
    resolution: int
    arena_bytes: int
    curve: list[dict[str, float]]
    seconds: dict[str, float]
    seed: int
    tried: list[dict[str, Any]]


def student_card(result: Result) -> Card:
    """Return the card that travels in the student."""
    test = result.views.where("test")
    found = judge(result.scores[test], result.truth[test], result.views.unseen[test])
    events = [
        CardEvent(
            name=event.name,
            index=index,
            classes=event.classes,
            threshold=result.decision.enter[index],
            exit_threshold=result.decision.leave[index],
        )
        for index, event in enumerate(result.application.event)
    ]
    return Card(
        application=result.application.application.name,
        events=events,
        other=result.dataset.other,
        temperature=result.decision.temperature,
        input=ImageInput(height=result.resolution, width=result.resolution, mean=LITE_MEAN, scale=LITE_SCALE),
        metrics=[
            Metric(name=name, value=f.value, ci_low=f.low, ci_high=f.high, dataset="own", split="test", n=f.n)
            for name, f in found.items()
        ],
        latency=_latencies(result),
        teacher=TeacherInfo(
            name=result.teacher.source,
            source=result.teacher.source,
            digest=result.teacher.digest,
            licence=result.teacher.licence,
        ),
        data=_data(result),
        seed=result.seed,
        git_revision=host.revision(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _latencies(result: Result) -> list[Latency]:
    """What was measured here, and what the table says of the budget's board where that is another machine."""
    speed, board = result.speed, result.board
    here = this_machine()
    measured = Latency(
        board=here,
        ms=speed.student_ms,
        threads=1,
        engine=f"{speed.engine}/{speed.kernels}",
        how=f"measured on {speed.machine}",
    )
    if board.board == here:
        return [measured]
    by_table = Latency(
        board=board.board,
        ms=result.board_ms,
        threads=1,
        engine=f"native/{board.kernels}",
        how=f"by the board's {board.how} table, off by up to {board.error:.0%} for whole networks"
        + (": no board was measured" if board.how == "estimated" else ""),
    )
    return [by_table, measured]


def student_facts(result: Result, student_bytes: int) -> dict[str, Any]:
    """Return the report's facts; keys as `report.write` lists them."""
    views, truth, speed = result.views, result.truth, result.speed
    test = views.where("test")
    agreed = (
        agreement(result.scores[test], result.baselines.zero_shot[test])
        if result.baselines.zero_shot is not None
        else None
    )
    unseen = views.unseen[test]
    negative = unseen if unseen.any() else truth[test] == result.dataset.other
    raised = alarms(result.scores[test][negative], result.decision)
    alarm = wilson(int(raised.sum()), len(raised))
    facts: dict[str, Any] = {
        "application": result.application.application.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": speed.machine,
        "trained_on": accelerator.describe(),
        "threads": 1,
        "engine": speed.engine,
        "kernels": speed.kernels,
        "student_bytes": student_bytes,
        "student_latency_ms": speed.student_ms,
        "student_latency_litert_ms": speed.student_litert_ms,
        "budget_ms": result.application.budget.latency_ms,
        "macs": int(result.candidate.macs),
        "arena_bytes": result.arena_bytes,
        "resolution": result.resolution,
        "temperature": result.decision.temperature,
        "int8_loss": result.gate.to_json(),
        "int8_agreement": result.gate.agreement,
        "false_alarms": alarm.to_json(),
        "events": [_event(result, index) for index in range(result.dataset.other)],
        "baselines": [
            *rows("teacher as it is", result.baselines.zero_shot, views, truth, result.baselines.zero_shot),
            *rows("probe on the teacher's features", result.baselines.probe, views, truth, result.baselines.zero_shot),
            *(
                row | {"chosen": True}
                for row in rows("student, int8", result.scores, views, truth, result.baselines.zero_shot)
            ),
        ],
        "candidates": result.tried,
        "confusion": {
            "labels": [*result.dataset.events, "other"],
            "matrix": confusion(result.scores[test], truth[test]).tolist(),
        },
        "relevance": [
            {
                "layer": group.root.removeprefix("core."),
                "kept": result.candidate.kept[group.root],
                "total": group.channels,
                "scores": [float(f"{v:.4g}") for v in np.sort(result.candidate.relevance[group.root])[::-1]],
            }
            for group in reversed(result.candidate.groups)
        ],
        "block_relevance": {str(k): v for k, v in result.candidate.block_rises.items()},
        "blocks_dropped": result.candidate.dropped,
        "det": det_curves(
            result.scores[test], result.truth[test], negative, result.dataset.events, result.decision.enter
        ),
        "learning": [_point(point) for point in result.curve],
        "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
        "teacher": {
            "name": result.teacher.source,
            "source": result.teacher.source,
            "licence": result.teacher.licence,
            "digest": result.teacher.digest,
        },
        "data": [entry.model_dump() for entry in _data(result)],
        "splits": {split: len(views.where(split)) for split in ("train", "validation", "test")},
        "seed": result.seed,
        "notes": _notes(result, len(test)),
    }
    if agreed is not None:
        facts |= {"agreement": agreed.value, "agreement_ci": agreed.ci, "agreement_n": agreed.n}
    if speed.teacher_ms is not None:
        facts |= {
            "teacher_bytes": speed.teacher_bytes,
            "teacher_latency_ms": speed.teacher_ms,
            "speedup": speed.teacher_ms / speed.student_ms,
        }
    return facts


def _event(result: Result, index: int) -> dict[str, Any]:
    test = result.views.where("test")
    own = test[result.truth[test] == index]
    recall = wilson(int((result.scores[own, index] >= result.decision.enter[index]).sum()), len(own))
    event = result.application.event[index]
    return {
        "name": event.name,
        "classes": event.classes,
        "threshold": result.decision.enter[index],
        "exit_threshold": result.decision.leave[index],
        "recall": recall.value,
        "recall_ci": recall.ci,
        "n": recall.n,
    }


def _point(point: dict[str, float]) -> dict[str, float]:
    kept = {"step": point["step"], "seconds": round(point["seconds"], 2), "loss": point["loss"]}
    return kept | ({"agreement": point["merit"]} if "merit" in point else {})


def _notes(result: Result, n: int) -> list[str]:
    notes = []
    if (result.views.labels < 0).all():
        notes.append(
            "No picture is labelled: the teacher's word is taken for the truth, so every figure is agreement with it."
        )
    if result.borne_out is not None:
        unlabelled = np.count_nonzero(result.views.labels[result.views.where("test")] < 0)
        notes.append(
            f"{unlabelled} of {n} test views have no label: what the teacher and a probe on the labelled views say "
            f"together is taken for their truth. On labelled views that the probe had not seen, its macro recall is "
            f"{result.borne_out}."
        )
    if n < FEW:
        notes.append(f"The test split has {n} views only: mind the intervals.")
    if not result.views.unseen.any():
        notes.append(
            "There are too few negative classes to keep some back: false alarms are measured on classes it has seen."
        )
    if result.teacher.module is None:
        notes.append("The teacher is a black box: there was nothing to cut, and its latency was not measured.")
    return notes


def _data(result: Result) -> list[DataInfo]:
    counts: dict[str, int] = {}
    for item in result.dataset.items:
        counts[item.source] = counts.get(item.source, 0) + 1
    return [DataInfo(name=name, digest=result.views.digest, n=n) for name, n in counts.items()]
