"""Write docs/api.md, the reference of the Python interface, and docs/mqtt/reference.md, every payload's fields.

    python deploy/reference.py

The one from signatures and docstrings, the other from the JSON Schemas beside it. `make docs` runs it, a test compares.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
API = DOCS / "api.md"
MQTT = DOCS / "mqtt/reference.md"

API_HEAD = """# From Python

Written by `make docs` from signatures and docstrings; do not edit. What is not here may change with any version.
"""
# What a program of one's own may use: a module, and the names in it.
PUBLIC = {
    "distillnet.engine": ("load", "Model", "ModelError"),
    "distillnet.engine.student": ("Student",),
    "distillnet.device.replay": ("Replay",),
    "distillnet.proto.archive": ("unpack", "pack", "StudentFile", "StudentError"),
    "distillnet.proto.card": ("Card", "CardEvent", "ImageInput", "AudioInput"),
    "distillnet.proto.mqtt": ("Topics", "EventPayload", "StatusPayload", "TelemetryPayload"),
}
MQTT_HEAD = """# Every field of every payload

Written by `make docs` from the JSON Schemas beside it; do not edit. Topics and what they promise: [README](README.md).
"""


def api_page() -> str:
    """The whole of docs/api.md, Markdown."""
    lines = [API_HEAD]
    for module_name, names in PUBLIC.items():
        module = importlib.import_module(module_name)
        lines += [f"## `{module_name}`", "", _prose(module.__doc__), ""]
        for name in names:
            lines += _thing(name, getattr(module, name))
    return "\n".join(lines).rstrip() + "\n"


def mqtt_page() -> str:
    """The whole of docs/mqtt/reference.md, Markdown."""
    lines = [MQTT_HEAD]
    for path in sorted(MQTT.parent.glob("*.schema.json")):
        schema = json.loads(path.read_text())
        lines += [f"## {path.name.removesuffix('.schema.json')}", "", schema.get("description", ""), ""]
        lines += [f"Schema: [{path.name}]({path.name}).", "", *_fields(schema, schema.get("$defs", {}), "")]
    return "\n".join(lines).rstrip() + "\n"


def _thing(name: str, thing: Any) -> list[str]:
    lines = [f"### {name}", "", "```text", f"{name}{_signature(thing)}", "```", "", _prose(thing.__doc__), ""]
    for method_name, method in _methods(thing) if inspect.isclass(thing) else ():
        kind = "" if isinstance(method, property) else _signature(method)
        function = method.fget if isinstance(method, property) else method
        lines += [f"- `{method_name}{kind}`: {_prose(inspect.getdoc(function)).splitlines()[0]}"]
    return [*lines, ""]


def _methods(thing: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(thing).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if not name.startswith(("_", "model_")) and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def _signature(thing: Callable[..., Any]) -> str:
    if getattr(thing, "_is_protocol", False):
        return ""
    try:
        parameters = list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return ""
    shown = []
    for parameter in parameters:
        if parameter.name in ("self", "cls"):
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        simple = isinstance(parameter.default, bool | int | float | str | None)
        default = f"={parameter.default!r}" if simple else "" if parameter.default is parameter.empty else "=…"
        shown.append(f"{stars}{parameter.name}{default}")
    return f"({', '.join(shown)})"


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("Args:\n", "Arguments:\n\n").replace("Raises:\n", "Raises:\n\n")


def _fields(schema: dict[str, Any], parts: dict[str, Any], prefix: str) -> list[str]:
    rows = ["| field | type | required | |", "|---|---|---|---|"] if not prefix else []
    for name, facts in schema.get("properties", {}).items():
        inner = _part(facts, parts)
        needed = "yes" if name in schema.get("required", []) else ""
        says = (facts.get("description") or (inner or {}).get("description", "")).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {_type(facts)} | {needed} | {says} |")
        if inner and "properties" in inner:
            rows += _fields(inner, parts, f"{prefix}{name}.")
    return rows if prefix else [*rows, ""]


def _part(facts: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any] | None:
    for option in (facts, *facts.get("anyOf", [])):
        if "$ref" in option:
            part: dict[str, Any] = parts[option["$ref"].rpartition("/")[2]]
            return part
    return None


def _type(facts: dict[str, Any]) -> str:
    if "anyOf" in facts:
        return " or ".join(_type(option) for option in facts["anyOf"])
    if "$ref" in facts:
        return "object"
    if "enum" in facts or "const" in facts:
        return ", ".join(f"`{value}`" for value in facts.get("enum", [facts.get("const")]))
    bounds = [f"≥ {facts['minimum']:g}"] if "minimum" in facts else []
    bounds += [f"≤ {facts['maximum']:g}"] if "maximum" in facts else []
    return " ".join([facts.get("type", "any"), *bounds])


def main() -> None:
    """Write both pages."""
    API.write_text(api_page())
    MQTT.write_text(mqtt_page())
    sys.stdout.write(f"{API}\n{MQTT}\n")


if __name__ == "__main__":
    main()
