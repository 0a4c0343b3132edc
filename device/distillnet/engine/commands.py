"""The engine's commands."""

import typer


def register(app: typer.Typer) -> None:
    """Add the engine's commands to the command line."""
