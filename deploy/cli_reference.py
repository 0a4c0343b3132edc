"""Write docs/cli.md, the reference of every command, from the program itself.

    python deploy/cli_reference.py [--check]

`--check` writes nothing and exits 1 when the file is not what it would write.
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer

from distillnet.device import cli

PAGE = Path(__file__).resolve().parent.parent / "docs/cli.md"
HEAD = """# The command line

Written by `make docs` from the program; do not edit. Every command has `--help`. Exit status 2 is a user's error, with
one clear message. Commands of the cloud ask for `pip install 'distillnet[cloud]'` where it is missing.
"""


def page() -> str:
    """The whole page, Markdown."""
    for entry in sorted(entry_points(group=cli.COMMANDS), key=lambda entry: entry.name):
        entry.load()(cli.app)
    root = typer.main.get_command(cli.app)
    commands = sorted(_leaves(root, ()), key=lambda pair: pair[0])
    index = "\n".join(f"- [`distillnet {' '.join(n)}`](#distillnet-{'-'.join(n)}): {_first(c)}" for n, c in commands)
    return "\n".join([HEAD, index, "", *(_section(names, command) for names, command in commands)])


def _leaves(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield names, command
        return
    if names and getattr(command, "invoke_without_command", False):
        yield names, command
    for name, child in children.items():
        yield from _leaves(child, (*names, name))


def _first(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _section(names: tuple[str, ...], command: Any) -> str:
    text = inspect.cleandoc(command.help or "")
    if command.epilog:
        text += f"\n\n{command.epilog}"
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    examples = [p.removeprefix("Example:").strip() for p in paragraphs if p.startswith("Example:")]
    prose = [p for p in paragraphs if not p.startswith("Example:")]
    with typer.Context(command, info_name=f"distillnet {' '.join(names)}") as context:
        rows = [row for parameter in command.params if (row := _row(parameter, context))]
    lines = [f"## distillnet {' '.join(names)}", "", *(line for p in prose for line in (p, ""))]
    lines += [line for example in examples for line in (f"    {example}", "")]
    lines += ["| | | |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def _row(parameter: Any, context: typer.Context) -> str | None:
    if parameter.name == "help":
        return None
    record = parameter.get_help_record(context)
    if record is None:
        return None
    names, _ = record
    default = getattr(parameter.default, "value", parameter.default)
    shown = "required" if parameter.required else _default(default)
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    if parameter.envvar:
        text += f"; or the variable `{parameter.envvar}`"
    return f"| `{names.strip()}` | {text} | {shown} |"


def _default(value: Any) -> str:
    if value is None or callable(value) or value in (False, (), [], ""):
        return ""
    return f"default {value}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the reference of every command.")
    parser.add_argument("--check", action="store_true")
    text = page()
    if parser.parse_args().check:
        return 0 if PAGE.exists() and PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
