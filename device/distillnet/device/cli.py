"""The command `distillnet`. Each installed half registers its own commands through entry points."""

import sys
from importlib.metadata import entry_points, version
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from distillnet.engine import ModelError
from distillnet.proto.archive import StudentError
from distillnet.proto.strict import ConfigError

COMMANDS = "distillnet.commands"

app = typer.Typer(
    name="distillnet",
    help="Distil a big CNN into a small student, put it on a board, and keep it there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    show_version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if show_version:
        typer.echo(version("distillnet"))
        raise typer.Exit


def main() -> None:
    """Run one command; a user's error is one clear message on stderr and exit status 2."""
    for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
        entry.load()(app)
    try:
        app(prog_name="distillnet")
    except (ConfigError, ModelError, StudentError) as exc:
        _fail(str(exc))
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] == "distillnet":
            raise
        _fail(f"this command needs the package {exc.name!r}, which a board does not: pip install 'distillnet[cloud]'")


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    sys.exit(2)
