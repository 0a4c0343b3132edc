"""`distillnet check-config`: reads a file the way the program would, and says what it is or what is wrong with it.

The device knows device files. Other halves register theirs under the entry point group `distillnet.config_kinds`: a
callable `(path, document) -> str | None` that returns one line about a valid file of its kind, None for another kind,
and raises ConfigError for a broken one.
"""

import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from distillnet.device import config as device_file
from distillnet.device.readers import SourceError, check
from distillnet.proto.strict import ConfigError

GROUP = "distillnet.config_kinds"
Kind = Callable[[Path, dict[str, Any]], str | None]


def check_config(path: Path) -> str:
    """Return one line about a valid configuration file.

    Raises:
        ConfigError: what is wrong with it, or that it is no configuration file at all.

    """
    document = _parsed(path)
    others: list[Kind] = [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)]
    for kind in (_device_kind, *others):
        about = kind(path, document)
        if about is not None:
            return about
    raise ConfigError(f"{path}: has neither [device] nor [application]: it is no file of Distill-Net's")


def _device_kind(path: Path, document: dict[str, Any]) -> str | None:
    if "device" not in document and ("application" in document or "source" not in document):
        return None
    config = device_file.load(path)
    for source in config.source:
        try:
            check(source)
        except SourceError as exc:
            raise ConfigError(f"{path}: {exc}") from exc
    if config.model.path is not None and not config.model.path.is_file():
        raise ConfigError(f"{path}: model.path: {config.model.path} does not exist")
    sources = ", ".join(source.id for source in config.source)
    return f"device file of {config.device.name!r}: application {config.model.application}, sources {sources}"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: is not valid TOML: {exc}") from exc
