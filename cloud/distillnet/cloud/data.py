"""What the student learns from: labelled pictures, pictures and videos the teacher labels, negatives; split by group.

A group (one video segment, one picture, whatever a CSV calls a group) never straddles two splits. Negatives are split
by class as well: some classes are never trained on, so that thresholds are judged on the truly unseen.
"""

import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distillnet.cloud.application import Application
from distillnet.cloud.classes import ClassList, check_disjoint
from distillnet.cloud.media import count_frames, is_picture, is_video, pictures_under
from distillnet.cloud.places import locate
from distillnet.proto.strict import ConfigError, nearest

Split = Literal["train", "validation", "test"]
SEGMENT_FRAMES = 4
FRAMES_PER_VIDEO = 160
UNSEEN_SHARE = 0.2
FEWEST_NEGATIVE_CLASSES = 8
FEWEST_GROUPS = 12


@dataclass(frozen=True)
class Item:
    """One picture or video frame. `label` is an output index, None where the teacher labels it."""

    path: Path
    frame: int | None
    group: str
    source: str
    label: int | None
    negative_class: str = ""
    split: Split = "train"
    unseen: bool = False


@dataclass(frozen=True)
class Dataset:
    """All items, and what the outputs mean: events in order, then `other`."""

    items: tuple[Item, ...]
    events: tuple[str, ...]
    event_classes: tuple[tuple[int, ...], ...]

    @property
    def other(self) -> int:
        """The output index of everything else."""
        return len(self.events)

    def count(self, split: Split) -> int:
        """How many items are in a split."""
        return sum(item.split == split for item in self.items)


def gather(application: Application, base: Path, classes: ClassList, seed: int = 0) -> Dataset:
    """Find everything an application learns from and split it.

    Args:
        application: the parsed file.
        base: the folder its paths are relative to.
        classes: the teacher's.
        seed: moves pictures between the splits.

    Raises:
        ConfigError: nothing there, an event without a picture, an unknown class or label.

    """
    names = tuple(event.name for event in application.event)
    meanings = tuple(classes.resolve(event.classes, event=event.name) for event in application.event)
    check_disjoint(dict(zip(names, meanings, strict=True)), classes)
    labels = _Labels(names, meanings, classes)
    items: list[Item] = []
    data = application.data
    for index, event in enumerate(application.event):
        if event.examples is not None:
            items += _folder(locate(event.examples, base), index, source=f"examples of {event.name}")
    if data.labelled is not None:
        items += _labelled(locate(data.labelled, base), labels)
    for place in data.unlabelled:
        items += _unlabelled(locate(place, base))
    if data.negatives is not None:
        items += _negatives(locate(data.negatives, base), labels.other)
    if not items:
        raise ConfigError("[data] names no picture: give labelled, unlabelled, or examples of the events")
    _check_events(items, names, unlabelled=any(item.label is None for item in items), meanings=meanings)
    items = _split(items, labels.other, data.validation_share, data.test_share, seed)
    return Dataset(tuple(items), names, meanings)


class _Labels:
    """From the name of a folder or a CSV label to an output index."""

    def __init__(self, names: tuple[str, ...], meanings: tuple[tuple[int, ...], ...], classes: ClassList) -> None:
        self.other = len(names)
        self._names, self._classes = names, classes
        self._event_of = {c: index for index, meaning in enumerate(meanings) for c in meaning}

    def index(self, label: str, where: str) -> int:
        """Return the output a label means; a teacher class of no event is `other`."""
        if label in self._names:
            return self._names.index(label)
        if label == "other":
            return self.other
        found = self._classes.find(label)
        if not found:
            valid = [*self._names, "other"]
            raise ConfigError(f"{where}: label {label!r} is no event and no teacher class{nearest(label, valid)}")
        outputs = {self._event_of.get(index, self.other) for index in found}
        return outputs.pop() if len(outputs) == 1 else min(outputs)


def _labelled(place: Path, labels: _Labels) -> list[Item]:
    if place.is_file():
        return _csv(place, labels)
    items: list[Item] = []
    folders = sorted(path for path in place.iterdir() if path.is_dir())
    if not folders:
        raise ConfigError(f"[data] labelled: {place} holds no folder; expected one per event or teacher class")
    for folder in folders:
        label = labels.index(folder.name, f"[data] labelled {place}")
        items += _folder(folder, label, source=place.name, negative=folder.name if label == labels.other else "")
    return items


def _csv(path: Path, labels: _Labels | None) -> list[Item]:
    """Read a table of pictures; without `labels` the teacher labels them."""
    items = []
    columns = ("path", "label") if labels else ("path",)
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(columns) <= set(rows.fieldnames or ()):
            raise ConfigError(
                f"{path}: first line must name the columns {','.join(columns)}[,group]; got {rows.fieldnames}"
            )
        for number, row in enumerate(rows, start=2):
            picture = path.parent / row["path"]
            if not picture.is_file():
                raise ConfigError(f"{path}, line {number}: there is no {picture}")
            label = labels.index(row["label"], f"{path}, line {number}") if labels else None
            negative = row["label"] if labels and label == labels.other else ""
            group = row.get("group") or str(picture)
            items.append(Item(picture, None, group, path.name, label, negative))
    return items


def _folder(folder: Path, label: int, *, source: str, negative: str = "") -> list[Item]:
    if not folder.is_dir():
        raise ConfigError(f"{source}: {folder} is no directory")
    items = [Item(path, None, str(path), source, label, negative) for path in pictures_under(folder)]
    for video in sorted(path for path in folder.rglob("*") if is_video(path)):
        items += _video(video, label, source, negative)
    if not items:
        raise ConfigError(f"{source}: {folder} holds no picture and no video")
    return items


def _negatives(place: Path, other: int) -> list[Item]:
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    if folders:
        return [i for f in folders for i in _folder(f, other, source=f"negatives {place.name}", negative=f.name)]
    return _folder(place, other, source=f"negatives {place.name}")


def _unlabelled(place: Path) -> list[Item]:
    if is_video(place):
        return _video(place, None, place.name)
    if place.suffix == ".csv":
        return _csv(place, None)
    if is_picture(place):
        return [Item(place, None, str(place), "pictures", None)]
    if place.is_dir():
        items = [Item(path, None, str(path), place.name, None) for path in pictures_under(place)]
        for video in sorted(path for path in place.rglob("*") if is_video(path)):
            items += _video(video, None, video.name)
        if items:
            return items
    raise ConfigError(f"[data] unlabelled: {place} is no picture, no video, no CSV, and no directory that holds any")


def _video(path: Path, label: int | None, source: str, negative: str = "") -> list[Item]:
    frames = count_frames(path)
    step = max(1, frames // FRAMES_PER_VIDEO)
    return [
        Item(path, frame, f"{path}#{frame // (SEGMENT_FRAMES * step)}", source, label, negative)
        for frame in range(0, frames, step)
    ]


def _check_events(
    items: list[Item], names: tuple[str, ...], *, unlabelled: bool, meanings: tuple[tuple[int, ...], ...]
) -> None:
    for index, name in enumerate(names):
        labelled = sum(item.label == index for item in items)
        if labelled == 0 and not (unlabelled and meanings[index]):
            raise ConfigError(f"event {name!r} has no picture: give it examples, labelled or unlabelled data")


def _split(items: list[Item], other: int, validation: float, test: float, seed: int) -> list[Item]:
    """Assign splits within each stratum (event, negative class, video, or pile of pictures), group by group."""
    unseen = _unseen_classes(items, other, seed)
    strata: dict[tuple[str, int | None, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, item in enumerate(items):
        negative = "" if item.negative_class in unseen else item.negative_class
        strata[item.source, item.label, negative][item.group].append(index)
    result = list(items)
    for groups in strata.values():
        order = sorted(groups, key=lambda group: _rank(group, seed))
        if len(order) < FEWEST_GROUPS and None in {items[i].label for group in order for i in groups[group]}:
            continue  # too few of them to spare one: all are trained on
        tests, validations = round(len(order) * test), round(len(order) * validation)
        for place, group in enumerate(order):
            split: Split = "test" if place < tests else "validation" if place < tests + validations else "train"
            for index in groups[group]:
                result[index] = replace(items[index], split=split)
    for index, item in enumerate(items):
        if item.negative_class in unseen:
            half: Split = "test" if _rank(item.negative_class, seed) % 2 else "validation"
            result[index] = replace(items[index], split=half, unseen=True)
    return result


def _unseen_classes(items: list[Item], other: int, seed: int) -> set[str]:
    """Return the negative classes that are never trained on; none where there are too few to spare."""
    classes = sorted({i.negative_class for i in items if i.label == other and i.negative_class})
    if len(classes) < FEWEST_NEGATIVE_CLASSES:
        return set()
    order = sorted(classes, key=lambda name: _rank(name, seed))
    return set(order[: max(2, round(len(order) * UNSEEN_SHARE))])


def _rank(text: str, seed: int) -> int:
    """Order by a hash of the name's end, so that another folder or machine gives the same split."""
    tail = "/".join(Path(text).parts[-2:])
    return int.from_bytes(hashlib.sha256(f"{seed}:{tail}".encode()).digest()[:8], "big")
