"""The cloud's commands: imports nothing heavy until one runs."""

import typer

from distillnet.cloud.demo import command as demo


def register(app: typer.Typer) -> None:
    """Add the cloud's commands to the command line."""
    demo.register(app)
