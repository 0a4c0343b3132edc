"""What the fleet's commands share: the options that find the service, and how facts are printed."""

import datetime
import json
from pathlib import Path
from typing import Any

import typer

TIMEOUT_S = 30.0

DATA = typer.Option(Path("distillnet-fleet"), "--data", envvar="DISTILLNET_FLEET", help="the service's data directory")
ADMIN = typer.Option(None, "--admin", help="an access bundle directory, instead of the one in --data")
SERVER = typer.Option(None, "--server", help="host:port, instead of the bundle's")
AS_JSON = typer.Option(False, "--json", help="facts as JSON on stdout")


def access(data: Path, bundle: Path | None, server: str | None) -> Any:
    """Read the access bundle: the one given, else the service's own."""
    from distillnet.cloud.fleet import client

    return client.Access.read(bundle or data / "admin", server)


def stub(data: Path, bundle: Path | None, server: str | None) -> Any:
    """Open an `Admin` stub as a context manager."""
    from distillnet.cloud.fleet import client

    return client.admin(access(data, bundle, server))


def print_json(facts: Any) -> None:
    """Print facts for machines."""
    typer.echo(json.dumps(facts))


def moment(ts: float) -> str:
    """Local time of Unix seconds, for people."""
    return datetime.datetime.fromtimestamp(ts).strftime("%Y-%m-%d %H:%M:%S") if ts else "never"
