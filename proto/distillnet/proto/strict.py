"""Strict models and TOML files: an unknown key is an error that names the nearest valid one.

Every file a user writes is read through `load_toml`, once, at the edge of the program.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(Exception):
    """A file a user wrote is wrong. The message says where, what was expected, and what to do."""


class Strict(BaseModel):
    """Frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


def load_toml(path: Path, model: type[ModelT]) -> ModelT:
    """Read a TOML file into `model`.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not fit the model; one line per problem.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not valid TOML: {exc}") from exc
    return validate(document, model, where=str(path))


def validate(document: dict[str, Any], model: type[ModelT], *, where: str) -> ModelT:
    """Fit a parsed document into `model`; `where` names it in messages.

    Raises:
        ConfigError: one line per problem, each with its place and, for unknown keys, the nearest valid one.

    """
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        lines = [f"{where}: {_describe(error, model)}" for error in exc.errors()]
        raise ConfigError("\n".join(lines)) from exc


def nearest(word: str, valid: list[str]) -> str:
    """`"; did you mean 'x'?"` for a near miss, otherwise the valid choices, otherwise nothing."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(sorted(valid))}" if 0 < len(valid) <= 40 else ""


def _describe(error: Any, model: type[BaseModel]) -> str:
    place = _place(error["loc"])
    if error["type"] == "extra_forbidden":
        parent, key = error["loc"][:-1], str(error["loc"][-1])
        inside = f" in {_place(parent)}" if parent else ""
        return f"unknown key {key!r}{inside}{nearest(key, _keys_at(model, parent))}"
    if error["type"] == "missing":
        return f"{place} is required"
    got = error.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) else ""
    return f"{place}: {error['msg']}{shown}"


def _place(loc: tuple[Any, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "the document"


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Return the field names valid at `loc`; empty where the place is no model."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            continue  # the tag of a union or the key of a mapping
        current = _model_in(fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """Return the first model inside `list[X]`, `X | None`, `dict[str, X]`, or the annotation itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
