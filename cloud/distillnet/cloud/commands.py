"""The cloud's commands: imports nothing heavy until one runs."""

import typer

from distillnet.cloud import distill_command, evaluate
from distillnet.cloud.demo import command as demo
from distillnet.cloud.fleet import commands as fleet


def register(app: typer.Typer) -> None:
    """Add the cloud's commands to the command line."""
    distill_command.register(app)
    evaluate.register(app)
    demo.register(app)
    fleet.register(app)
