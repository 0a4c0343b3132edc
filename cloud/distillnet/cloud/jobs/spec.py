"""An application file made ready to travel: one TOML text whose paths mean the same on every machine.

Data does not travel. A job's paths must be readable where it runs: a shared filesystem, or `package:NAME/…`.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillnet.cloud import application as applications
from distillnet.cloud.application import Application
from distillnet.cloud.places import PACKAGE
from distillnet.proto.strict import ConfigError

_SOURCES = ("file:", "onnx:")


def portable(path: Path) -> str:
    """Read an application file, and return it with absolute paths.

    Raises:
        ConfigError: what is wrong with it, one line per problem.

    """
    applications.load(path)
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    base = path.resolve().parent
    data = document["data"]
    for name in ("labelled", "negatives"):
        if name in data:
            data[name] = _absolute(data[name], base)
    if "unlabelled" in data:
        data["unlabelled"] = [_absolute(each, base) for each in data["unlabelled"]]
    for event in document["event"]:
        if "examples" in event:
            event["examples"] = _absolute(event["examples"], base)
    teacher = document.get("teacher", {})
    if "classes_file" in teacher:
        teacher["classes_file"] = _absolute(teacher["classes_file"], base)
    for source in _SOURCES:
        if str(teacher.get("source", "")).startswith(source):
            teacher["source"] = source + _absolute(teacher["source"].removeprefix(source), base)
    return to_toml(document)


def check(text: str) -> Application:
    """Read what was submitted.

    Raises:
        ConfigError: it is no application file, or has a path that depends on where it is read.

    """
    try:
        application = Application.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"the application file is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"the application file: {'.'.join(map(str, first['loc']))}: {first['msg']}") from exc
    data = application.data
    paths = [data.labelled, data.negatives, *data.unlabelled, *(event.examples for event in application.event)]
    for each in [*paths, application.teacher.classes_file]:
        if each is not None and not each.is_absolute() and not str(each).startswith(PACKAGE):
            raise ConfigError(f"path {str(each)!r} of the application file must be absolute, or package:…")
    return application


def to_toml(document: dict[str, Any]) -> str:
    """Write sections of plain values, and lists of such sections. JSON's scalars and lists are TOML's."""
    lines: list[str] = []
    for name, section in document.items():
        heading, parts = ("[[%s]]", section) if isinstance(section, list) else ("[%s]", [section])
        for part in parts:
            lines.append(heading % name)
            lines += [f"{key} = {json.dumps(value)}" for key, value in part.items()]
    return "\n".join(lines) + "\n"


def _absolute(path: str, base: Path) -> str:
    return path if path.startswith(PACKAGE) else str(base / Path(path).expanduser())
