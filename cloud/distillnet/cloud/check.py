"""What `check-config` says of an application file: everything that can be known without its teacher's weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillnet.cloud import application as applications
from distillnet.cloud.application import NATIVE_RESOLUTION, Application
from distillnet.cloud.classes import ClassList, check_disjoint
from distillnet.cloud.places import locate
from distillnet.proto.strict import ConfigError


def recognise(path: Path, document: dict[str, Any]) -> str | None:
    """Say in a line what a valid application file holds; None when the document is of another kind.

    Raises:
        ConfigError: it is an application file, and broken, or names what is not there.

    """
    if "application" not in document:
        return None
    application = applications.load(path)
    try:
        _look(application, path.parent)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    events = ", ".join(event.name for event in application.event)
    return f"application {application.application.name!r}: {events}, taught by {application.teacher.source}"


def _look(application: Application, base: Path) -> None:
    from distillnet.cloud import boards  # brings torch, which takes seconds: only where there is a file to look at

    for place in _data(application):
        locate(place, base)
    source = application.teacher.source
    applications.check_teacher(source, application.application.modality)
    kind, _, rest = source.partition(":")
    if kind in ("file", "onnx") and not (base / rest).is_file():
        raise ConfigError(f"[teacher] source {source!r}: there is no {base / rest}")
    classes = _classes(application, base)
    if classes is not None:
        check_disjoint(
            {event.name: classes.resolve(event.classes, event=event.name) for event in application.event}, classes
        )
    boards.find(application.budget.board, base)


def _data(application: Application) -> Iterator[Path]:
    data = application.data
    yield from (place for place in (data.labelled, data.negatives, *data.unlabelled) if place is not None)
    yield from (event.examples for event in application.event if event.examples is not None)


def _classes(application: Application, base: Path) -> ClassList | None:
    """Return the teacher's classes where the file or the teacher's name tells; None where only the network could."""
    teacher = application.teacher
    if teacher.classes_file is not None and application.application.modality == "image":
        return ClassList.from_file(base / teacher.classes_file)
    return ClassList.imagenet() if teacher.source in NATIVE_RESOLUTION else None
