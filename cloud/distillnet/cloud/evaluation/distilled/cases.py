"""What is distilled and what it is judged on: pictures that nothing was trained on.

Tiny-ImageNet's `val` and `unseen` for its applications; half of the photos for ants and bees, which have no `other`.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from distillnet.cloud.evaluation.tiny_imagenet import Archive
from distillnet.cloud.media import Picture
from distillnet.cloud.metrics import Ints
from distillnet.proto.strict import ConfigError

EACH = 10


@dataclass(frozen=True)
class Case:
    """Labelled pictures, a heap without labels, and what to judge on. Labels are outputs; `other` is the last of them.

    `words`: the teacher classes of each event; `unseen`: negatives of classes that are nowhere else.
    """

    name: str
    words: dict[str, list[str]]
    labelled: list[Picture]
    labels: Ints
    heap: list[Picture]
    test: list[Picture]
    test_labels: Ints
    unseen: list[Picture]


def whole(application: str, archive: Path, seed: int) -> Case:
    """Every training picture with its label.

    Raises:
        ConfigError: no such archive, or no such application in it.

    """
    packed = Archive(archive)
    pictures, labels = packed.labelled(application, "train")
    return _on_tiny_imagenet(packed, application, (list(pictures), labels), [])


def few(application: str, archive: Path, seed: int) -> Case:
    """Ten pictures of each event over its classes, and of `other`, or one for each class of it; the rest is the heap.

    Raises:
        ConfigError: no such archive, or no such application in it.

    """
    packed = Archive(archive)
    events, _ = packed.outputs_of(application)
    pictures, labels = packed.labelled(application, "train")
    rng = np.random.default_rng(seed)
    counts = [EACH] * len(events) + [max(EACH, len(packed.classes.seen_negatives))]
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == output))[:count] for output, count in enumerate(counts)]
    )
    labelled = list(pictures[chosen]), labels[chosen]
    return _on_tiny_imagenet(packed, application, labelled, list(np.delete(pictures, chosen, 0)))


def _on_tiny_imagenet(
    packed: Archive, application: str, labelled: tuple[list[Picture], Ints], heap: list[Picture]
) -> Case:
    test, test_labels = packed.labelled(application, "val")
    return Case(
        name=application,
        words=packed.classes.applications[application],
        labelled=labelled[0],
        labels=labelled[1],
        heap=heap,
        test=list(test),
        test_labels=test_labels,
        unseen=list(packed.labelled(application, "unseen")[0]),
    )


def ants_bees(archive: Path, seed: int) -> Case:
    """Ten photos of each; of the rest one half is the heap, the other half is judged on.

    Raises:
        ConfigError: no such archive.

    """
    try:
        with zipfile.ZipFile(archive) as packed:
            names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
            pictures = [_decoded(packed.read(name)) for name in names]
    except (OSError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"archive {archive}: expected photos of ants and bees: {exc}") from exc
    labels = np.array([int("/bees/" in name) for name in names], np.int64)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = np.concatenate([order[labels[order] == event][:EACH] for event in (0, 1)])
    rest = [index for index in order.tolist() if index not in set(chosen.tolist())]
    heap, test = rest[::2], rest[1::2]
    return Case(
        name="ants-bees",
        words={"ants": ["ant"], "bees": ["bee"]},
        labelled=[pictures[index] for index in chosen],
        labels=labels[chosen],
        heap=[pictures[index] for index in heap],
        test=[pictures[index] for index in test],
        test_labels=labels[test],
        unseen=[],
    )


def _decoded(data: bytes) -> Picture:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class Plan:
    """A case by its archive, what makes it of the archive and a seed, and the minutes a distillation gets."""

    archive: str
    make: Callable[[Path, int], Case]
    minutes: float = 15.0


_TINY = "tiny-imagenet-apps.zip"
PLANS = {
    "backyard": Plan(_TINY, partial(whole, "backyard")),
    "kitchen": Plan(_TINY, partial(whole, "kitchen")),
    "street": Plan(_TINY, partial(whole, "street")),
    "backyard-hour": Plan(_TINY, partial(whole, "backyard"), minutes=60.0),
    "backyard-few": Plan(_TINY, partial(few, "backyard")),
    "ants-bees-few": Plan("ants-bees.zip", ants_bees),
}
