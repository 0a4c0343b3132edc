"""The cloud's commands: imports nothing heavy until one runs."""

import typer


def register(app: typer.Typer) -> None:
    """Add the cloud's commands to the command line."""
