"""The device's commands. Each imports what it needs when it runs, so that `--help` is quick."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Facts as JSON on stdout.")]
Host = Annotated[str, typer.Option(help="MQTT broker.")]
Port = Annotated[int, typer.Option(help="Its port.", min=1, max=65535)]


def register(app: typer.Typer) -> None:
    """Add the device's commands to the command line."""
    app.command(epilog="Example: distillnet run examples/door.device.toml")(run)
    app.command(epilog="Example: distillnet watch --host broker.local --device porch")(watch)


def run(
    config: Annotated[Path, typer.Argument(help="The device file.")],
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch the sources of a device file and publish events, until SIGTERM, Ctrl-C or the end of every source."""
    from distillnet.device import config as device_file
    from distillnet.device.daemon import Daemon
    from distillnet.device.journal import set_up_logging

    set_up_logging(log_level)
    daemon = Daemon(device_file.load(config), config)
    daemon.handle_signals()
    daemon.run()


def watch(
    host: Host = "localhost",
    port: Port = 1883,
    device: Annotated[str, typer.Option(help="Its name; + = all.")] = "+",
    as_json: Json = False,
    seconds: Annotated[float | None, typer.Option(help="End after so long.", min=0)] = None,
) -> None:
    """Print a device's events, states and latencies as they come from the broker."""
    from distillnet.device.watch import Watcher

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    Watcher(host=host, port=port, device=device, as_json=as_json).run(seconds)


def print_json(value: object) -> None:
    """Print one JSON value on stdout."""
    typer.echo(json.dumps(value))
