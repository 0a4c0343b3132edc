"""`distillnet evaluate`: how good a finished student is on pictures it has never seen.

Scores the int8 file itself, with the engine a board runs. Folders tell the truth: a folder named after an event, or
after one of the teacher classes an event stands for, holds that event; every other folder is `other`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pydantic import Field, ValidationError
from rich.console import Console
from rich.table import Table

from distillnet.cloud import metrics
from distillnet.cloud.metrics import Figure, Floats, Ints
from distillnet.engine.backend import ModelError
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError
from distillnet.proto.card import Card
from distillnet.proto.strict import ConfigError, Strict

ALARM_RATE = 0.01


class ClassesFile(Strict):
    """`classes.json`: what folders named by WordNet id hold."""

    names: dict[str, str] = Field(description="class name of each WordNet id")
    applications: dict[str, dict[str, list[str]]] = Field(default_factory=dict, description="event → WordNet ids")
    seen_negatives: list[str] = Field(default_factory=list)
    unseen_negatives: list[str] = Field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "ClassesFile":
        """Read one.

        Raises:
            ConfigError: unreadable, or of another form.

        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"classes file {path}: cannot be read: {exc.strerror}") from exc
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"classes file {path}: {where or 'the file'}: {first['msg']}") from exc


class Folders:
    """What each folder's name means to one student: an output index in the order events, `other`."""

    def __init__(self, card: Card, classes: ClassesFile | None = None) -> None:
        """Prepare for a card's events.

        Raises:
            ConfigError: the classes file has no application with these events.

        """
        self._events = {_plain(event.name): place for place, event in enumerate(_in_order(card))}
        self.other = len(self._events)
        self._ids: dict[str, int] = {}
        self._names = classes.names if classes else {}
        if classes and classes.applications:
            for event, ids in self._application(classes.applications, card).items():
                self._ids.update(dict.fromkeys(ids, self._events[_plain(event)]))
        self._classes = _ByTeacherClass(card)

    def output(self, folder: str) -> int:
        """Return which output the pictures of a folder ask for.

        Raises:
            ConfigError: the name means classes of different events.

        """
        plain = _plain(folder)
        if plain in self._events:
            return self._events[plain]
        if plain == "other":
            return self.other
        if self._ids:
            return self._ids.get(folder, self.other)
        found = self._classes.output(folder)
        if found is None and folder in self._names:
            found = self._classes.output(self._names[folder])
        return self.other if found is None else found

    def _application(self, applications: Mapping[str, dict[str, list[str]]], card: Card) -> dict[str, list[str]]:
        wanted = set(self._events)
        named = applications.get(card.application)
        for candidate in ([named] if named else []) + list(applications.values()):
            if {_plain(event) for event in candidate} == wanted:
                return candidate
        known = ", ".join(f"{name} ({', '.join(events)})" for name, events in applications.items())
        events = ", ".join(event.name for event in card.events)
        raise ConfigError(f"classes file: no application has the student's events {events}; it has {known}")


@dataclass(frozen=True)
class Picture:
    """One picture and the output it asks for."""

    path: Path
    folder: str
    output: int


def gather(directories: Sequence[Path], folders: Folders) -> list[Picture]:
    """Find the labelled pictures below directories of folders.

    Raises:
        ConfigError: a directory is missing, has no folder with a picture, or has pictures outside of folders.

    """
    return [picture for directory in directories for picture in _labelled(directory, folders)]


def _labelled(directory: Path, folders: Folders) -> list[Picture]:
    from distillnet.cloud.media import is_picture, pictures_under

    if not directory.is_dir():
        raise ConfigError(f"data {directory}: there is no such directory")
    loose = [path for path in directory.iterdir() if path.is_file() and is_picture(path)]
    if loose:
        raise ConfigError(
            f"data {directory}: {len(loose)} pictures, {loose[0].name} among them, lie outside of a folder; "
            "put them into one named after their event, or `other`"
        )
    found = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        inside = pictures_under(folder)
        output = folders.output(folder.name) if inside else folders.other
        found += [Picture(path, folder.name, output) for path in inside]
    if not found:
        raise ConfigError(f"data {directory}: has no folder with a picture; expected folders named after events")
    return found


@dataclass(frozen=True)
class Scored:
    """Scores float32 (N, K+1), `other` last, and the wanted outputs int64 (N,); unreadable pictures left out."""

    scores: Floats
    labels: Ints
    unreadable: tuple[Path, ...] = ()


def score(
    student: Student, pictures: Sequence[Picture], *, skip_unreadable: bool = False, quiet: bool = True
) -> Scored:
    """Score every picture.

    Raises:
        ConfigError: a picture cannot be read and `skip_unreadable` is off, or none can.

    """
    from distillnet.cloud.media import read_picture
    from distillnet.cloud.progress import Steps

    order = [event.index for event in _in_order(student.card)] + [student.card.other]
    scores, labels, unreadable = [], [], []
    with Steps(quiet=quiet).step("score", f"scoring {len(pictures)} pictures", total=len(pictures)) as advance:
        for picture in pictures:
            advance(1)
            try:
                rgb = read_picture(picture.path)
            except ConfigError as exc:
                if not skip_unreadable:
                    raise ConfigError(f"{exc} (or leave such pictures out with --skip-unreadable)") from exc
                unreadable.append(picture.path)
                continue
            scores.append(student.scores(np.ascontiguousarray(rgb[:, :, ::-1]))[order])
            labels.append(picture.output)
    if not scores:
        raise ConfigError(f"none of the {len(pictures)} pictures can be read")
    return Scored(np.stack(scores), np.array(labels, np.int64), tuple(unreadable))


def judge(card: Card, scored: Scored) -> dict[str, Any]:
    """Return the figures, JSON-able, each with its interval and n.

    accuracy: the highest of the K+1 scores is right. macro_recall: mean recall of the K+1 outputs.
    recall_at_1_percent_false_alarms: at the threshold that 1 % of the `other` pictures reach (null without any).
    calibration_error: expected, of the highest score. deployed: with the card's own thresholds.
    """
    scores, labels = scored.scores, scored.labels
    other = scores.shape[1] - 1
    is_event = labels != other
    facts: dict[str, Any] = {
        "n": len(labels),
        "accuracy": metrics.accuracy(scores, labels).to_json(),
        "macro_recall": metrics.macro_recall(scores, labels).to_json(),
        "recall_at_1_percent_false_alarms": None,
        "calibration_error": metrics.bootstrap(
            lambda chosen: metrics.calibration_error(scores[chosen], labels[chosen]), len(labels)
        ).to_json(),
        "confusion": {
            "labels": [event.name for event in _in_order(card)] + ["other"],
            "matrix": metrics.confusion(scores, labels).tolist(),
        },
        "deployed": _deployed(card, scores, labels),
    }
    if is_event.any() and not is_event.all():
        facts["recall_at_1_percent_false_alarms"] = metrics.recall_at_alarm_rate(
            scores[is_event], labels[is_event], scores[~is_event], ALARM_RATE
        ).to_json()
    return facts


def _deployed(card: Card, scores: Floats, labels: Ints) -> dict[str, Any]:
    events = _in_order(card)
    other = len(events)
    reached = scores[:, :other] >= np.array([event.threshold for event in events], np.float32)
    raised = reached.max(1)
    recalls = []
    for place, event in enumerate(events):
        own = labels == place
        recall = metrics.wilson(int(reached[own, place].sum()), int(own.sum()))
        recalls.append({"name": event.name, "threshold": event.threshold, "recall": recall.to_json()})
    negatives = labels == other
    alarms = metrics.wilson(int(raised[negatives].sum()), int(negatives.sum()))
    return {"events": recalls, "false_alarm_rate": alarms.to_json()}


def evaluate(
    path: Path,
    data: Sequence[Path],
    *,
    classes: Path | None = None,
    threads: int = 1,
    skip_unreadable: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Evaluate a student file on directories of folders; returns the facts that `--json` prints.

    Raises:
        ConfigError, StudentError, ModelError: what is wrong, and where.

    """
    student = _load(path, threads)
    folders = Folders(student.card, ClassesFile.load(classes) if classes else None)
    pictures = gather(data, folders)
    scored = score(student, pictures, skip_unreadable=skip_unreadable, quiet=quiet)
    names = [event.name for event in _in_order(student.card)] + ["other"]
    held: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        entry = held.setdefault(picture.folder, {"output": names[picture.output], "n": 0})
        entry["n"] += 1
    return {
        "student": str(path),
        "application": student.card.application,
        "version": student.card.version,
        "digest": student.digest,
        "data": [str(directory) for directory in data],
        **judge(student.card, scored),
        "folders": held,
        "unreadable": [str(unreadable) for unreadable in scored.unreadable],
    }


def register(app: typer.Typer) -> None:
    """Add `evaluate` to the command line."""
    app.command("evaluate")(_command)


def _command(
    student: Path = typer.Argument(help="a student.tflite"),
    data: list[Path] = typer.Option(help="a directory with a folder per event or class; may be repeated"),
    classes: Path | None = typer.Option(None, help="classes.json: which WordNet ids are which event"),
    threads: int = typer.Option(1, min=1, max=64, help="of the engine"),
    skip_unreadable: bool = typer.Option(False, help="leave out pictures that cannot be decoded, and say how many"),
    as_json: bool = typer.Option(False, "--json", help="print the facts as JSON"),
) -> None:
    """Measure a student on pictures it has never seen.

    A folder holds an event when it is named after it, or after a teacher class (name, WordNet id or index) that the
    student's card lists for it; all other folders hold `other`.

    Example: distillnet evaluate out/student.tflite --data photos/
    """
    facts = evaluate(
        student, data, classes=classes, threads=threads, skip_unreadable=skip_unreadable, quiet=False
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(facts, allow_nan=False))
    else:
        _print(facts)


def _print(facts: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    held = facts["folders"].values()
    console.print(
        f"{facts['application']} version {facts['version']} on {facts['n']} pictures, "
        f"{sum(entry['n'] for entry in held if entry['output'] == 'other')} of them other"
    )
    table = Table("figure", "value", "95 %", "n", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in _rows(facts):
        table.add_row(name, *(row if isinstance(row, tuple) else _cells(row)))
    console.print(table)
    if facts["unreadable"]:
        console.print(f"left out, unreadable: {len(facts['unreadable'])}, {facts['unreadable'][0]} among them")


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "accuracy", facts["accuracy"]
    yield "macro recall", facts["macro_recall"]
    yield (
        "recall at 1 % false alarms",
        facts["recall_at_1_percent_false_alarms"] or ("–", "needs events and other", ""),
    )
    yield "calibration error", facts["calibration_error"]
    yield "false alarms, own thresholds", facts["deployed"]["false_alarm_rate"]
    for event in facts["deployed"]["events"]:
        yield f"recall of {event['name']}, at {event['threshold']:.2f}", event["recall"]


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    figure = Figure(row["value"], row["ci_low"], row["ci_high"], row["n"])
    if figure.n == 0:
        return "–", "no picture", "0"
    return f"{figure.value:.3f}", f"{figure.low:.3f}–{figure.high:.3f}", str(figure.n)


def _load(path: Path, threads: int) -> Student:
    try:
        return Student.load(path.read_bytes(), threads=threads)
    except OSError as exc:
        raise ConfigError(f"student {path}: cannot be read: {exc.strerror}") from exc
    except StudentError as exc:
        raise StudentError(f"student {path}: {exc}") from exc
    except ModelError as exc:
        raise ModelError(f"student {path}: {exc}") from exc


class _ByTeacherClass:
    """Folders named after teacher classes: the card's own words, and what ImageNet's list makes of them."""

    def __init__(self, card: Card) -> None:
        from distillnet.cloud.classes import ClassList

        self._words: dict[str, int] = {}
        self._indices: dict[int, int] = {}
        self._list = ClassList.imagenet()
        for place, event in enumerate(_in_order(card)):
            for word in event.classes:
                self._words[_plain(word)] = place
                self._indices.update(dict.fromkeys(self._list.find(word), place))

    def output(self, folder: str) -> int | None:
        if _plain(folder) in self._words:
            return self._words[_plain(folder)]
        found = {self._indices.get(index) for index in self._list.find(folder.replace("_", " "))}
        if len(found) > 1:
            raise ConfigError(
                f"folder {folder!r}: the name means several teacher classes, and they belong to different outputs; "
                "name it after an event, `other`, or a WordNet id"
            )
        return found.pop() if found else None


def _in_order(card: Card) -> list[Any]:
    return sorted(card.events, key=lambda event: event.index)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
