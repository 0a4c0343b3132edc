"""The page `docs/eval-audio.md`, written from the results: figures with n and interval, and what is missing."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillnet.cloud.audio.crossval import APPLICATIONS, FOLDS
from distillnet.cloud.metrics import Figure, wilson
from distillnet.cloud.places import write_whole

_HEAD = """# Students that hear, on ESC-10

`make eval-audio` writes this page. ESC-10, folds 1–4 (10 everyday sounds, 32 clips each of about 5 s), cross-validated:
a student is trained on three folds and judged on the fourth. A clip's answer is the mean over its windows of about a
second; digital silence is left out for everybody alike. Intervals are Wilson's, 95%. The teacher is YAMNet (float,
LiteRT), the students are int8 in the engine. `home` and `outdoor` are two applications of five events each; the other
five classes are never trained on.
"""


def write(results: Path, page: Path) -> None:
    """Write the page from the results file."""
    known: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    parts = [_HEAD, _accuracy(known), _latency(known), _streams(known)]
    write_whole(page, "\n".join(part for part in parts if part).encode())


def _accuracy(known: dict[str, Any]) -> str:
    lines = [
        "## Clip accuracy\n",
        "| application | folds | student, int8 | student, float | labels alone, int8 | YAMNet as it is | its probe |",
        "|---|---|---|---|---|---|---|",
    ]
    for application, events in APPLICATIONS.items():
        folds = [fold for fold in FOLDS if f"{application}/distilled/{fold}" in known["students"]]
        if not folds:
            continue
        students = [known["students"][f"{application}/distilled/{fold}"] for fold in folds]
        controls = [known["students"].get(f"{application}/labels/{fold}") for fold in folds]
        baselines = [known["baselines"].get(f"{application}/{fold}") for fold in folds]
        columns = [
            _right(students, "int8", events),
            _right(students, "float", events),
            _right(controls, "int8", events),
            _right(baselines, "teacher", events),
            _right(baselines, "probe", events),
        ]
        lines.append(f"| {application} | {', '.join(folds)} | {' | '.join(map(_shown, columns))} |")
    missing = [
        f"{application}/{arm}/{fold}"
        for application, arm in (
            ("ten", "distilled"),
            ("home", "distilled"),
            ("outdoor", "distilled"),
            ("ten", "labels"),
        )
        for fold in FOLDS
        if f"{application}/{arm}/{fold}" not in known["students"]
    ]
    if missing:
        lines.append(f"\nNot run yet (the command goes on where it stopped): {', '.join(missing)}.")
    trained = {(s["windows"], s["epochs"]) for s in known["students"].values()}
    for windows, epochs in sorted(trained):
        lines.append(f"\nStudents were trained on {windows} augmented windows for {epochs} epochs.")
    return "\n".join(lines) + "\n"


def _latency(known: dict[str, Any]) -> str:
    every = [student["latency"] for student in known["students"].values()]
    if not every:
        return ""
    names = {
        "student_ms_per_s": "student, front-end included",
        "front_end_ms_per_s": "of it the front-end (16 kHz in)",
        "network_ms_per_s": "of it the network",
        "front_end_from_48k_ms_per_s": "the front-end with resampling from 48 kHz",
        "teacher_ms_per_s": "YAMNet in LiteRT (XNNPACK), its front-end in its graph",
        "ratio": "YAMNet / student",
    }
    lines = [
        "## Latency per second of sound\n\n"
        f"One thread, in turn in one process, medians of {int(every[0]['rounds'])} rounds; "
        f"median (least–most) over {len(every)} runs. Engine: {next(iter(known['students'].values()))['engine']}.\n",
        "| what | ms |",
        "|---|---|",
    ]
    for key, name in names.items():
        values = [entry[key] for entry in every]
        unit = "×" if key == "ratio" else ""
        lines.append(f"| {name} | {statistics.median(values):.4g}{unit} ({min(values):.4g}–{max(values):.4g}) |")
    return "\n".join(lines) + "\n"


def _streams(known: dict[str, Any]) -> str:
    lines = [
        "## Streams: recall against false alarms per hour\n",
        "Held-out clips at 20, 10 and 0 dB over coloured noise, classes never trained on between them; median of "
        "three decisions. The threshold is read off the same streams' curve: points of the curve, not a forecast.\n",
        "| application | hours | events | threshold | false alarms/h | recall | at 20 dB | 10 dB | 0 dB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for application in ("home", "outdoor"):
        found = [known["students"].get(f"{application}/distilled/{fold}", {}).get("stream") for fold in FOLDS]
        runs = [run for run in found if run]
        if runs:
            rows += [_stream_row(application, runs, most) for most in (1.0, 10.0, 60.0)]
    return "\n".join(lines + rows) + "\n" if rows else ""


def _stream_row(application: str, runs: Sequence[dict[str, Any]], most_per_hour: float) -> str:
    hours = sum(run["hours"] for run in runs)
    episodes = sum(run["episodes"] for run in runs)
    for place, threshold in enumerate(runs[0]["thresholds"]):
        alarms = sum(run["false_alarms"][place] for run in runs)
        if alarms / hours <= most_per_hour:
            recall = wilson(sum(run["found"][place] for run in runs), episodes)
            by_snr = [
                f"{sum(run['found_by_snr'][snr][place] for run in runs) / max(1, n):.2f}"
                for snr in ("20", "10", "0")
                if (n := sum(run["episodes_by_snr"][snr] for run in runs)) is not None
            ]
            return (
                f"| {application} | {hours:.2f} | {episodes} | {threshold:g} | "
                f"{alarms / hours:.1f} (≤ {most_per_hour:g}) | {_shown(recall)} | {' | '.join(by_snr)} |"
            )
    return f"| {application} | {hours:.2f} | {episodes} | – | always more than {most_per_hour:g} | – | – | – | – |"


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
