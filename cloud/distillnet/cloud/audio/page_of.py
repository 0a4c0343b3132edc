"""The page `docs/eval-audio.md`, written from the results: figures with n and interval, and what is missing."""

import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing

from distillnet.cloud.audio.crossval import APPLICATIONS, FALSE_ALARMS_PER_HOUR, FOLDS, STREAMED, every_job
from distillnet.cloud.audio.streams import COLLAR_S
from distillnet.cloud.metrics import Figure, wilson
from distillnet.proto.files import write_whole

FIGURE = "eval-audio.svg"

_HEAD = """# Students that hear, on ESC-10

`make eval-audio` writes this page. ESC-10, folds 1–4 (10 everyday sounds, 32 clips each of about 5 s), cross-validated:
a student is trained on three folds and judged on the fourth. A clip's answer is the mean over its windows of about a
second; digital silence is left out for everybody alike. Intervals are Wilson's, 95%. The teacher is YAMNet as
its `.tflite` is (float in and out, most weights int8), in LiteRT; the students are int8 in the engine. `home` and
`outdoor` are two applications of five events each; the other five classes are never trained on. How students are
trained was chosen on folds 1–3 alone, a student of two judged on the third, between earlier evaluations of all four
folds (ADR 17): the folds are not quite unseen.
"""


def write(results: Path, page: Path) -> None:
    """Write the page from the results file."""
    jobs: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))["jobs"]
    with matplotlib.rc_context({"svg.hashsalt": "distillnet", "font.size": 9}):
        _draw(jobs, page.parent / FIGURE)
    parts = [_HEAD, _accuracy(jobs), _latency(jobs), _streams(jobs)]
    write_whole(page, "\n".join(part for part in parts if part).encode())


def _accuracy(jobs: dict[str, Any]) -> str:
    lines = [
        "## Clip accuracy\n",
        "| application | folds | student, int8 | its float | labels alone, int8 | YAMNet as it is | its probe | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for application, events in APPLICATIONS.items():
        folds = [fold for fold in FOLDS if f"{application}/distilled/{fold}" in jobs]
        if not folds:
            continue
        students, controls, teachers = (
            [jobs.get(f"{application}/{arm}/{fold}") for fold in folds] for arm in ("distilled", "labels", "teacher")
        )
        student, teacher = _right(students, "int8", events), _right(teachers, "teacher", events)
        columns = [
            student,
            _right(students, "float", events),
            _right(controls, "int8", events),
            teacher,
            _right(teachers, "probe", events),
        ]
        bar = "–"
        if student is not None and teacher is not None:
            bar = f"{teacher.value - 0.01:.3f}: {'met' if student.value >= teacher.value - 0.01 else 'missed'}"
        lines.append(f"| {application} | {', '.join(folds)} | {' | '.join(map(_shown, columns))} | {bar} |")
    missing = [job for job in every_job() if job not in jobs]
    if missing:
        lines.append(f"\nNot run yet (the command goes on where it stopped): {', '.join(missing)}.")
    recipes: dict[tuple[str, int, int, int, float], set[str]] = {}
    for job, found in jobs.items():
        if "windows" in found:
            application, arm, _ = job.split("/")
            heap = (found.get("unlabelled", 0), found.get("unlabelled_hours", 0.0))
            recipes.setdefault((arm, found["windows"], found["epochs"], *heap), set()).add(application)
    for (arm, windows, epochs, sounds, hours), applications in sorted(recipes.items()):
        names = ", ".join(f"`{name}`" for name in APPLICATIONS if name in applications)
        taught = {"distilled": "distilled", "labels": "trained on labels alone,"}[arm]
        unlabelled = f", half of them from {sounds} sounds without labels ({hours} hours out of Debian's packages)"
        lines.append(
            f"\nStudents of {names} were {taught} with {windows} augmented windows{unlabelled if sounds else ''}; "
            f"{epochs} epochs."
        )
    return "\n".join(lines) + "\n"


def _latency(jobs: dict[str, Any]) -> str:
    every = jobs.get("latency", [])
    if not every:
        return ""
    names = {
        "student_ms_per_s": "student, front-end included",
        "front_end_ms_per_s": "of it the front-end (16 kHz in)",
        "network_ms_per_s": "of it the network",
        "front_end_from_48k_ms_per_s": "the front-end with resampling from 48 kHz",
        "teacher_ms_per_s": "YAMNet in LiteRT (XNNPACK), its front-end in its graph",
        "ratio": "YAMNet / student (bar: 20×)",
    }
    lines = [
        "## Latency per second of sound\n\n"
        f"One thread, in turn in one process, medians of {int(every[0]['rounds'])} rounds; "
        f"median (least–most) over {len(every)} students. Engine: {every[0]['engine']}.\n",
        "| what | ms |",
        "|---|---|",
    ]
    for key, name in names.items():
        values = [entry[key] for entry in every]
        unit = "×" if key == "ratio" else ""
        lines.append(f"| {name} | {statistics.median(values):.4g}{unit} ({min(values):.4g}–{max(values):.4g}) |")
    return "\n".join(lines) + "\n"


def _streams(jobs: dict[str, Any]) -> str:
    chosen = [
        "## Streams: recall against false alarms per hour\n",
        "An hour for each fold and application: held-out clips at 20, 10 and 0 dB over coloured noise, clips of the "
        "five classes never trained on between them, 3–9 s apart; the median of three decisions, two a second. "
        "Thresholds are chosen on a stream of training clips, invented and distorted sounds, and sounds without labels "
        f"in which the teacher hears no event, for {FALSE_ALARMS_PER_HOUR:g} false alarm an hour; what follows is what "
        f"they give on the test streams. F1 is micro-averaged: by onset within {COLLAR_S:g} s, and by second.\n",
        "| application | hours | sounds | false alarms/h | recall | at 20 dB | 10 dB | 0 dB | F1, onsets | "
        "F1, seconds | delay |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    curve = [
        "\nAll thresholds moved together, chosen after the fact on these very streams (points of the curve below, no "
        "forecast); YAMNet as it is listens to the same streams, its thresholds moved likewise:\n",
        "| application | false alarms/h at most | student: recall | at 20 dB | 10 dB | 0 dB | YAMNet: recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for application in STREAMED:
        own = [jobs[job] for fold in FOLDS if (job := f"streams/{application}/{fold}") in jobs]
        runs, teachers = [run["student"] for run in own], [run["teacher"] for run in own]
        if not runs:
            continue
        chosen.append(_at_thresholds(application, runs))
        for most in (1.0, 10.0, 60.0):
            recall, by_snr = _at_most(runs, most)
            heard, _ = _at_most(teachers, most)
            curve.append(f"| {application} | {most:g} | {_shown(recall)} | {' | '.join(by_snr)} | {_shown(heard)} |")
    if len(chosen) == 4:
        return ""
    return "\n".join([*chosen, *curve]) + f"\n\n![Detection error trade-off]({FIGURE})\n"


def _at_thresholds(application: str, runs: Sequence[dict[str, Any]]) -> str:
    hours, episodes = sum(run["hours"] for run in runs), sum(run["episodes"] for run in runs)
    points = [run["at_threshold"] for run in runs]
    by_snr = _by_snr(runs, [point["by_snr"] for point in points])
    delays = [point["delay_s"] for point in points if point["delay_s"] is not None]
    return (
        f"| {application} | {hours:.2f} | {episodes} | {sum(p['false_alarms'] for p in points) / hours:.1f} | "
        f"{_shown(wilson(sum(p['found'] for p in points), episodes))} | {' | '.join(by_snr)} | "
        f"{_f1([p['by_event'] for p in points]):.2f} | {_f1([p['by_segment'] for p in points]):.2f} | "
        f"{f'{statistics.median(delays):.1f} s' if delays else '–'} |"
    )


def _at_most(runs: Sequence[dict[str, Any]], most_per_hour: float) -> tuple[Figure | None, list[str]]:
    """Return the best recall of the curve within so many false alarms an hour, all runs together, and by SNR."""
    hours, episodes = sum(run["hours"] for run in runs), sum(run["episodes"] for run in runs)
    for place in range(len(runs[0]["found"])):
        if sum(run["false_alarms"][place] for run in runs) / hours <= most_per_hour:
            recall = wilson(sum(run["found"][place] for run in runs), episodes)
            return recall, _by_snr(runs, [run["by_snr"][place] for run in runs])
    return None, ["–"] * 3


def _by_snr(runs: Sequence[dict[str, Any]], found: Sequence[Sequence[int]]) -> list[str]:
    there = np.sum([run["episodes_by_snr"] for run in runs], axis=0)
    return [f"{hits / max(1, n):.2f}" for hits, n in zip(np.sum(found, axis=0), there, strict=True)]


def _f1(counts: Sequence[Sequence[int]]) -> float:
    true, false, missed = np.sum(counts, axis=0)
    return float(2 * true / max(1, 2 * true + false + missed))


def _draw(jobs: dict[str, Any], place: Path) -> None:
    """Draw missed sounds against false alarms per hour, students and teacher, where there are streams."""
    drawing = Drawing(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    colours = dict(zip(STREAMED, ("#1f5fa8", "#b3541e"), strict=True))
    for application in STREAMED:
        own = [jobs[job] for fold in FOLDS if (job := f"streams/{application}/{fold}") in jobs]
        for key, style, name in (("student", "-", "student, int8"), ("teacher", ":", "YAMNet as it is")):
            runs = [run[key] for run in own]
            if runs:
                hours, episodes = sum(run["hours"] for run in runs), sum(run["episodes"] for run in runs)
                alarms = np.sum([run["false_alarms"] for run in runs], axis=0) / hours
                missed = 1 - np.sum([run["found"] for run in runs], axis=0) / episodes
                axes.plot(
                    np.maximum(alarms, 0.2), missed, style, color=colours[application], label=f"{application}: {name}"
                )
    if not axes.lines:
        return
    axes.set(
        xscale="log", xlim=(0.2, 1000), ylim=(0, 1), xlabel="false alarms per hour", ylabel="share of sounds missed"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    target = io.StringIO()
    drawing.savefig(target, format="svg", metadata={"Date": None})
    write_whole(place, target.getvalue().encode())


def _right(runs: Sequence[dict[str, Any] | None], key: str, events: Sequence[str]) -> Figure | None:
    """Accuracy over the clips of the events, all runs together; None unless every run is there."""
    hits = n = 0
    for run in runs:
        if run is None:
            return None
        pairs = [(t, p) for t, p in zip(run["truth"], run[key], strict=True) if t in events]
        hits += sum(truth == said for truth, said in pairs)
        n += len(pairs)
    return wilson(hits, n)


def _shown(figure: Figure | None) -> str:
    return "–" if figure is None else f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f}, n={figure.n})"
