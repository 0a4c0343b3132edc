"""The device's commands."""

import typer


def register(app: typer.Typer) -> None:
    """Add the device's commands to the command line."""
