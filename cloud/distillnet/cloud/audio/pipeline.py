"""From an audio application file to a student: the module that wires the steps. Called by `distillnet distill`."""

import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillnet.cloud import application as applications
from distillnet.cloud import boards, report
from distillnet.cloud.application import Application
from distillnet.cloud.audio import finish, lessons, speech, streams, training
from distillnet.cloud.audio import heap as heaps
from distillnet.cloud.audio.clips import UNLABELLED, Clip, digest_of, read_clips, read_examples, read_unlabelled
from distillnet.cloud.audio.latency import compare_latency
from distillnet.cloud.audio.students import SIZES, DsCnn, StudentShape, predict
from distillnet.cloud.audio.teacher import Floats, SoundTeacher, load
from distillnet.cloud.budget import LatencyBudget, check_sizes
from distillnet.cloud.export import compare
from distillnet.cloud.metrics import Ints, accuracy, confusion, det_curves, softmax, wilson
from distillnet.cloud.places import locate
from distillnet.cloud.progress import Steps
from distillnet.cloud.rejection import EXIT_RATIO, Decision, fit_decision, one_hot
from distillnet.cloud.surgery import layers_of, total_cost
from distillnet.engine.student import Student
from distillnet.proto.card import DataInfo, Metric
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

WINDOWS_PER_MINUTE, MOST_WINDOWS = 2000, 12000
TRAINING_SHARE = 0.6
DEFAULT_FALSE_ALARMS_PER_HOUR = 1.0
STRANGE_SHARE = 0.3
WINDOW = torch.zeros(1, 1, lessons.FRONT_END.frames, lessons.FRONT_END.mel_bands)


@dataclass(frozen=True)
class _Split:
    train: list[Clip]
    validation: list[Clip]
    test: list[Clip]


@dataclass(frozen=True)
class _Heard:
    """Windows of clips with their truth: `clip[i]` is window i's clip."""

    features: Floats
    truth: Ints
    clip: Ints


def distill(
    file: Path | str,
    out: Path | str,
    *,
    minutes: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Distil a student that hears from an application file.

    Args:
        file: the application file, modality "audio".
        out: folder for `student.tflite`, `report.html` and `report.json`, made if need be.
        minutes: of making lessons and training; None = what the file says.
        seed: None = what the file says.
        resume: accepted for the command's sake; a student that hears is trained in minutes, from the beginning.
        quiet: show no progress on stderr.

    Returns:
        The report's facts, and where `student` and `report` lie.

    Raises:
        ConfigError: the file or its data is wrong.

    """
    del resume
    path, directory = Path(file), Path(out)
    application = applications.load(path)
    minutes = application.search.minutes if minutes is None else minutes
    seed = application.search.seed if seed is None else seed
    steps = Steps(quiet=quiet)
    begun = time.monotonic()
    events = [event.name for event in application.event]
    with steps.step("data", "reading sounds"):
        teacher = load(application.teacher, path.parent)
        columns = [teacher.classes.resolve(event.classes, event=event.name) for event in application.event]
        shape = _shape(application, path.parent, len(events) + 1)
        clips = _clips(application, path.parent, seed)
        split = _divide(clips, events, application, seed)
        unlabelled = _unlabelled(application, path.parent, clips)
    count = int(np.clip(minutes * WINDOWS_PER_MINUTE, 300, MOST_WINDOWS)) * (2 if unlabelled else 1)
    with steps.step("teacher", f"teacher hears {count} windows"):
        heap = heaps.listen(unlabelled, columns, teacher) if unlabelled else None
        taught = lessons.make(split.train, events, teacher, count, heap=heap, strange_share=STRANGE_SHARE, seed=seed)
    with steps.step("distillation", "distillation"):
        recipe = training.Recipe(seconds=minutes * 60 * TRAINING_SHARE)
        if application.search.steps is not None:
            recipe = training.Recipe.of_steps(application.search.steps, len(taught.features))
        student = training.train(taught, shape, recipe, seed=seed)
    with steps.step("export", "int8 conversion and gate"):
        converted = finish.convert(student, taught.features)
        check_sizes(application.budget, len(converted.flatbuffer), int(converted.model.info["arena_bytes"]))
        validation = _hear(split.validation, events, taught)
        test = _hear(split.test, events, taught)
        logits = converted.logits(validation.features)
        data = _data([*clips, *unlabelled])
        parts: dict[str, Any] = {
            "application": application.application.name,
            "events": [(event.name, event.classes) for event in application.event],
            "spec": taught.spec,
            "teacher": teacher,
            "data": data,
            "golden": taught.features,
            "seed": seed,
        }
        budget = application.budget
        decision = fit_decision(
            logits,
            one_hot(validation.truth, len(events) + 1),
            validation.truth == len(events),
            budget.alarm_rate,
        )
        hears = streams.student_hears(Student.load(finish.packed(converted, decision=decision, **parts)))
        if budget.false_alarm_rate is None:
            per_hour = budget.false_alarms_per_hour or DEFAULT_FALSE_ALARMS_PER_HOUR
            enter = streams.thresholds(
                hears, split.validation, events, per_hour=per_hour, seed=seed, heap=heap, minutes=streams.MINUTES
            )
            decision = Decision(decision.temperature, tuple(enter), tuple(value * EXIT_RATIO for value in enter))
    with steps.step("baselines", "latency and baselines"):
        tested = converted.logits(test.features)
        with_float = predict(student, torch.from_numpy(test.features).unsqueeze(1)).numpy()
        gate = compare(tested, with_float, test.truth, converted.model.info["engine"])
        speed = compare_latency(converted.model, taught.spec, teacher)
        hour = streams.evaluate(hears, decision.enter, split.test, events, seed=seed + 1, minutes=streams.MINUTES)
        rows = _baselines(
            split, events, application, teacher, taught, softmax(tested, decision.temperature), test, seed
        )
    metrics = [_metric(row) for row in rows if row.get("chosen")]
    student_file = finish.packed(converted, decision=decision, metrics=metrics, **parts)
    scores = softmax(tested, decision.temperature)
    facts: dict[str, Any] = {
        "application": application.application.name,
        "modality": "audio",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "student_bytes": len(student_file),
        "student_latency_ms": speed["student_network_ms"],
        "budget_ms": application.budget.latency_ms,
        "macs": int(total_cost(layers_of(student, WINDOW))),
        "arena_bytes": int(converted.model.info["arena_bytes"]),
        "engine": f"{converted.model.info['engine']}/{converted.model.info['kernels']}",
        "latency": speed,
        "int8_loss": gate.to_json(),
        "events": [_event(application, index, scores, test.truth, decision) for index in range(len(events))],
        "baselines": rows,
        "det": det_curves(scores, test.truth, test.truth == len(events), events, decision.enter),
        "stream": hour,
        "confusion": {"labels": [*events, "other"], "matrix": confusion(scores, test.truth).tolist()},
        "seconds": steps.seconds | {"total": time.monotonic() - begun},
        "teacher": {"name": teacher.source, "source": teacher.source, "licence": "", "digest": teacher.digest},
        "data": [info.model_dump() for info in data],
        "splits": {name: len(getattr(split, name)) for name in ("train", "validation", "test")},
        "seed": seed,
        "notes": [
            "Clips of one recording never straddle the split. Windows last about a second; a clip's answer is the mean "
            "of its windows.",
            f"Latency is per second of sound with the front-end, one thread, in turn with the teacher: "
            f"{speed['student_ms_per_s']:.4f} ms against {speed['teacher_ms_per_s']:.3f} ms.",
            _heard_in(hour),
            *(f"{info.n} sounds are {info.name}." for info in data if "synthetic" in info.name),
        ],
    }
    try:
        write_whole(directory / "student.tflite", student_file)
        report.write(directory, facts)
    except OSError as exc:
        raise ConfigError(f"{directory}: cannot be written: {exc.strerror}") from exc
    return facts | {"student": str(directory / "student.tflite"), "report": str(directory / "report.html")}


def _shape(application: Application, base: Path, outputs: int) -> StudentShape:
    """Return the largest network that keeps to `latency_ms` on the board, the smallest where none is asked for.

    Raises:
        ConfigError: an unknown board, or not even the smallest keeps to it.

    """
    section = application.budget
    if section.latency_ms is None:
        return SIZES[0]
    budget = LatencyBudget(boards.find(section.board, base), section.latency_ms)
    ms = [budget.ms_on(DsCnn(shape, outputs), WINDOW) for shape in SIZES]
    fitting = [shape for shape, own in zip(SIZES, ms, strict=True) if own <= budget.ms]
    if not fitting:
        raise ConfigError(
            f"[budget] latency_ms = {budget.ms:g}: the smallest student that hears takes {ms[0]:.3g} ms a window on "
            f"{section.board}, by its table"
        )
    return fitting[-1]


def _clips(application: Application, base: Path, seed: int) -> list[Clip]:
    clips: list[Clip] = []
    if application.data.labelled is not None:
        clips += read_clips(locate(application.data.labelled, base))
    for event in application.event:
        if event.examples is not None:
            clips += read_examples(locate(event.examples, base), event.name)
    if application.data.negatives is not None:
        clips += [replace(c, label=f"not {c.label}") for c in read_clips(locate(application.data.negatives, base))]
    keywords = [(event.name, event.say) for event in application.event if event.say]
    return clips + (speech.spoken(keywords, language=application.data.language, seed=seed) if keywords else [])


def _unlabelled(application: Application, base: Path, labelled: list[Clip]) -> list[Clip]:
    """Read what nobody labelled; a file that is labelled is left out, lest a held-out sound teaches."""
    known = {clip.path.resolve() for clip in labelled}
    found = [clip for place in application.data.unlabelled for clip in read_unlabelled(locate(place, base))]
    return [clip for clip in found if clip.path.resolve() not in known]


def _data(clips: list[Clip]) -> list[DataInfo]:
    """Say what was recorded, what a synthesiser said, and what had no label."""
    parts = {
        "own sounds": [clip for clip in clips if not clip.synthetic and clip.label != UNLABELLED],
        "said by espeak-ng (synthetic)": [clip for clip in clips if clip.synthetic],
        "sounds without labels": [clip for clip in clips if clip.label == UNLABELLED],
    }
    return [DataInfo(name=name, digest=digest_of(own), n=len(own)) for name, own in parts.items() if own]


def _divide(clips: list[Clip], events: list[str], application: Application, seed: int) -> _Split:
    """Split by group, each label by itself; a group that several labels share stays where it was put first."""
    for event in events:
        own_groups = {clip.group for clip in clips if clip.label == event}
        if not own_groups:
            raise ConfigError(f"event {event!r}: [data] labelled has no sounds in a folder (or label) of that name")
        if len(own_groups) < 3:
            raise ConfigError(
                f"data: {event!r} comes from {len(own_groups)} recordings; at least 3 are needed to split"
            )
    rng = np.random.default_rng(seed)
    shares = (application.data.validation_share, application.data.test_share)
    places: dict[str, int] = {}
    for label in [*events, *sorted({clip.label for clip in clips} - set(events))]:
        groups = sorted({clip.group for clip in clips if clip.label == label})
        held = [max(1, round(len(groups) * share)) if len(groups) > 2 else 0 for share in shares]
        for place, wanted in enumerate(held, 1):
            free = [group for group in groups if group not in places]
            short = wanted - sum(places.get(group) == place for group in groups)
            for index in rng.permutation(len(free))[: max(0, short)]:
                places[free[index]] = place
        for group in groups:
            places.setdefault(group, 0)
    parts: tuple[list[Clip], list[Clip], list[Clip]] = ([], [], [])
    for clip in clips:
        parts[places[clip.group]].append(clip)
    return _Split(*parts)


def _hear(clips: list[Clip], events: list[str], taught: lessons.Lessons) -> _Heard:
    features, truth, which = [], [], []
    for index, clip in enumerate(clips):
        windows = lessons.clip_windows(clip.samples, taught.spec)
        features.append(lessons.features_of(windows, taught.spec))
        truth += [events.index(clip.label) if clip.label in events else len(events)] * len(windows)
        which += [index] * len(windows)
    return _Heard(np.concatenate(features), np.array(truth, np.int64), np.array(which, np.int64))


def _baselines(
    split: _Split,
    events: list[str],
    application: Application,
    teacher: SoundTeacher,
    taught: lessons.Lessons,
    scores: Floats,
    test: _Heard,
    seed: int,
) -> list[dict[str, Any]]:
    """Clip accuracy over the test clips: the teacher as it is, a probe on its features, the student."""
    names = [*events, *sorted({clip.label for clip in split.train} - set(events))]
    head = lessons.teacher_head(split.train, names, teacher, taught.spec, seed)
    as_it_is, probe = [], []
    for clip in split.test:
        windows = lessons.clip_windows(clip.samples, taught.spec)
        logits, embedding = teacher.hear(lessons.for_teacher(windows, teacher))
        heard = teacher.probabilities(logits).mean(0)
        own = [
            max((heard[i] for i in teacher.classes.resolve(e.classes, event=e.name)), default=0.0)
            for e in application.event
        ]
        as_it_is.append([*own, max(0.0, 0.5 - max(own))])
        with torch.inference_mode():
            said = torch.softmax(head(torch.from_numpy(embedding)), 1).mean(0).numpy()
        probe.append([*said[: len(events)], said[len(events) :].sum()])
    student = [scores[test.clip == index].mean(0) for index in range(len(split.test))]
    truth = np.array([events.index(c.label) if c.label in events else len(events) for c in split.test], np.int64)
    rows = []
    for name, values in (("teacher as it is", as_it_is), ("probe on its features", probe), ("student, int8", student)):
        if name == "teacher as it is" and not any(event.classes for event in application.event):
            continue
        figure = accuracy(np.array(values, np.float32), truth)
        row = {"name": name, "metric": "clip accuracy", "value": figure.value, "split": "test", "n": figure.n}
        rows.append(row | {"ci_low": figure.low, "ci_high": figure.high, "chosen": name.startswith("student")})
    return rows


def _heard_in(hour: dict[str, Any]) -> str:
    point = hour["at_threshold"]
    figure = wilson(point["found"], hour["episodes"])
    recall = f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f}, n={figure.n})"
    return (
        f"In a stream of {hour['hours'] * 60:.0f} minutes, mixed from the test sounds at 20, 10 and 0 dB over noise, "
        f"it finds {recall} of the sounds, half of them within {point['delay_s']} s, with {point['false_alarms']} "
        "false alarms."
    )


def _metric(row: dict[str, Any]) -> Metric:
    return Metric(
        name=row["metric"],
        value=row["value"],
        ci_low=row["ci_low"],
        ci_high=row["ci_high"],
        dataset="own",
        split="test",
        n=row["n"],
    )


def _event(application: Application, index: int, scores: Floats, truth: Ints, decision: Decision) -> dict[str, Any]:
    event = application.event[index]
    threshold = decision.enter[index]
    own = truth == index
    hits = int((scores[own, index] >= threshold).sum())
    figure = wilson(hits, int(own.sum()))
    return {
        "name": event.name,
        "classes": event.classes,
        "threshold": threshold,
        "exit_threshold": decision.leave[index],
        "recall": figure.value,
        "recall_ci": [figure.low, figure.high],
        "n": figure.n,
    }
