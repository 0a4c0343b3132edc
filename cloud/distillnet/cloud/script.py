"""What the evaluations' own commands have in common: `python -m …` with a user's errors as one line on stderr."""

import sys
from collections.abc import Callable

import typer
from rich.console import Console

from distillnet.proto.strict import ConfigError


def run(command: Callable[..., None], module: str) -> None:
    """Run a Typer command as `python -m module`; a user's error is one message on stderr and exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(prog_name=f"python -m {module}")
    except ConfigError as exc:
        Console(stderr=True, highlight=False).print(f"error: {exc}", markup=False, soft_wrap=True)
        sys.exit(2)
