"""Applications on Tiny-ImageNet, read from the archive, and what the teacher says of their pictures (cached).

Training pictures are the archive's `train/`; figures come from `val/` (events and negatives of classes that were
trained on) and `unseen/` (negatives of classes that never were). Nothing is chosen on either.
"""

import hashlib
import io
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.evaluate import ClassesFile
from distillnet.cloud.media import Picture
from distillnet.cloud.metrics import Floats, Ints
from distillnet.cloud.progress import Steps
from distillnet.cloud.teacher import Teacher
from distillnet.cloud.views import shrink_all
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError, nearest

SPLITS = ("train", "val", "unseen")


@dataclass(frozen=True)
class Part:
    """One split: `pixels` uint8 (N, 64, 64, 3) RGB, `labels` int64 (N,), the teacher's `logits` and `features`."""

    pixels: NDArray[np.uint8]
    labels: Ints
    logits: Floats
    features: Floats


@dataclass(frozen=True)
class Task:
    """One application. `event_classes`: the teacher's class indices of each event."""

    name: str
    events: tuple[str, ...]
    event_classes: tuple[tuple[int, ...], ...]
    train: Part
    val: Part
    unseen: Part


class Archive:
    """The zip with `classes.json` and `split/wordnet-id/picture`."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ConfigError: it is not there, or is no such archive.

        """
        try:
            self._zip = zipfile.ZipFile(path)
            self.classes = ClassesFile.model_validate_json(self._zip.read("classes.json"))
        except (OSError, KeyError, zipfile.BadZipFile, ValueError) as exc:
            raise ConfigError(f"archive {path}: expected Tiny-ImageNet applications with classes.json: {exc}") from exc
        self.digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        self._members: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in sorted(self._zip.namelist()):
            split, _, rest = name.partition("/")
            if split in SPLITS and rest.count("/") == 1:
                self._members[split, rest.partition("/")[0]].append(name)

    def pictures(self, split: str, wordnet: str) -> NDArray[np.uint8]:
        """Decode the pictures of one class, uint8 (N, 64, 64, 3) RGB; N = 0 where there are none.

        Raises:
            ConfigError: one cannot be decoded.

        """
        names = self._members.get((split, wordnet), [])
        if not names:
            return np.zeros((0, 64, 64, 3), np.uint8)
        return np.stack([self._picture(name) for name in names])

    def _picture(self, name: str) -> Picture:
        image = cv2.imdecode(np.frombuffer(self._zip.read(name), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigError(f"archive: picture {name} cannot be decoded")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def outputs_of(self, application: str) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return the events of an application and the output of each of its WordNet ids, negatives included.

        Raises:
            ConfigError: there is no such application.

        """
        known = self.classes.applications
        if application not in known:
            raise ConfigError(f"application {application!r} is not in the archive{nearest(application, list(known))}")
        events = known[application]
        outputs = {wordnet: place for place, ids in enumerate(events.values()) for wordnet in ids}
        for wordnet in self.classes.seen_negatives + self.classes.unseen_negatives:
            outputs[wordnet] = len(events)
        return tuple(events), outputs

    def labelled(self, application: str, split: str) -> tuple[NDArray[np.uint8], Ints]:
        """Return a split's pictures uint8 (N, 64, 64, 3) RGB and outputs int64 (N,), as `load` orders them."""
        outputs = self.outputs_of(application)[1]
        pieces = [self.pictures(split, wordnet) for wordnet in outputs]
        labels = np.repeat(np.array(list(outputs.values()), np.int64), [len(piece) for piece in pieces])
        return np.concatenate(pieces), labels


def load(archive: Archive, application: str, teacher: Teacher, cache: Path, steps: Steps) -> Task:
    """Load an application and ask the teacher about every picture, or take its answers from the cache."""
    events, outputs = archive.outputs_of(application)
    place = cache / "evaluation" / f"{teacher.digest.removeprefix('sha256:')[:16]}-{teacher.resolution}"
    parts = {}
    with steps.step("teacher", f"{application}: the teacher's answers", total=len(SPLITS) * len(outputs)) as advance:
        for split in SPLITS:
            pieces = []
            for wordnet, output in outputs.items():
                pixels = archive.pictures(split, wordnet)
                if len(pixels):
                    logits, features = _ask(teacher, pixels, place / f"{archive.digest[7:23]}-{split}-{wordnet}.npz")
                    pieces.append(Part(pixels, np.full(len(pixels), output, np.int64), logits, features))
                advance(1)
            parts[split] = _joined(pieces)
    ids = archive.classes.applications[application].values()
    return Task(
        name=application,
        events=events,
        event_classes=tuple(teacher.classes.resolve(list(words), event=application) for words in ids),
        **parts,
    )


def _ask(teacher: Teacher, pixels: NDArray[np.uint8], kept: Path) -> tuple[Floats, Floats]:
    """Return the teacher's answers as they are kept, in half precision: asked now or before, they are the same."""
    if not kept.is_file():
        logits, features = teacher.outputs(shrink_all(pixels, teacher.resolution))
        if features is None:
            raise ConfigError(f"teacher {teacher.source!r} gives no features; this comparison needs them")
        buffer = io.BytesIO()
        np.savez(buffer, logits=logits.astype(np.float16), features=features.astype(np.float16))
        write_whole(kept, buffer.getvalue())
    with np.load(kept, allow_pickle=False) as arrays:
        return arrays["logits"].astype(np.float32), arrays["features"].astype(np.float32)


def _joined(pieces: Sequence[Part]) -> Part:
    return Part(
        pixels=np.concatenate([piece.pixels for piece in pieces]),
        labels=np.concatenate([piece.labels for piece in pieces]),
        logits=np.concatenate([piece.logits for piece in pieces]),
        features=np.concatenate([piece.features for piece in pieces]),
    )
