"""What a candidate learns from and is examined on, as files: read by any process that trains, mapped and not copied."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.metrics import Ints
from distillnet.cloud.training import Lessons, Pixels
from distillnet.proto.strict import ConfigError

PREFIX = ".material-"


@dataclass(frozen=True)
class Examination:
    """Validation data: `pixels` uint8 (N, R, R, 3), `truth` (N,), `unseen` bool (N,): negatives never trained on."""

    pixels: Pixels
    truth: Ints
    unseen: NDArray[np.bool_]


@contextmanager
def lent(directory: Path, rendered: Iterable[tuple[Lessons, Examination]]) -> Iterator[dict[int, Path]]:
    """Write what each resolution needs below `directory`; yields the folders for `read` by resolution.

    They go when the context ends, however it ends; those of a run that was killed go first.

    Raises:
        ConfigError: the disk is full or the place cannot be written.

    """
    forget(directory)
    try:
        yield {lessons.pixels.shape[1]: write(directory, lessons, examination) for lessons, examination in rendered}
    finally:
        forget(directory)


def write(directory: Path, lessons: Lessons, examination: Examination) -> Path:
    """Write both below `directory`; returns the folder for `read`.

    Raises:
        ConfigError: the disk is full or the place cannot be written.

    """
    folder = directory / f"{PREFIX}{lessons.pixels.shape[1]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, holder in (("lessons", lessons), ("examination", examination)):
            for field in fields(holder):
                value = getattr(holder, field.name)
                if value is not None:
                    np.save(folder / f"{kind}.{field.name}.npy", np.asarray(value))
    except OSError as exc:
        raise ConfigError(f"{folder}: training data cannot be written: {exc.strerror}") from exc
    return folder


def read(folder: Path) -> tuple[Lessons, Examination]:
    """Map what `write` wrote; changes to the arrays stay in memory."""

    def load(kind: str, holder: type[Lessons] | type[Examination]) -> dict[str, object]:
        paths = {field.name: folder / f"{kind}.{field.name}.npy" for field in fields(holder)}
        found = {name: np.load(path, mmap_mode="c") if path.exists() else None for name, path in paths.items()}
        return {name: value.item() if value is not None and value.ndim == 0 else value for name, value in found.items()}

    return Lessons(**load("lessons", Lessons)), Examination(**load("examination", Examination))  # type: ignore[arg-type]


def forget(directory: Path) -> None:
    """Remove what was written below a folder."""
    for folder in directory.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
