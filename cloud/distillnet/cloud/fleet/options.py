"""What the fleet's commands share: the options that find the service, and how facts are printed."""

import datetime
import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

TIMEOUT_S = 30.0

DATA = typer.Option(Path("distillnet-fleet"), "--data", envvar="DISTILLNET_FLEET", help="the service's data directory")
ADMIN = typer.Option(None, "--admin", help="an access bundle directory, instead of the one in --data")
SERVER = typer.Option(None, "--server", help="host:port, instead of the bundle's")
AS_JSON = typer.Option(False, "--json", help="facts as JSON on stdout")


@dataclass(frozen=True)
class Service:
    """The service a command speaks to, as its options say."""

    data: Path
    bundle: Path | None = None
    server: str | None = None

    def access(self) -> Any:
        """Read the access bundle: the one given, else the service's own."""
        from distillnet.cloud.fleet import client

        return client.Access.read(self.bundle or self.data / "admin", self.server)

    def stub(self) -> Any:
        """Open an `Admin` stub as a context manager."""
        from distillnet.cloud.fleet import client

        return client.admin(self.access())


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that find the service; it takes what they say as `service`."""

    @functools.wraps(command)
    def with_options(*, data: Path, admin: Path | None, server: str | None, **own: Any) -> None:
        command(service=Service(data, admin, server), **own)

    signature = inspect.signature(command)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "service"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("data", DATA, Path), ("admin", ADMIN, Path | None), ("server", SERVER, str | None))
    ]
    with_options.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    return with_options


def print_json(facts: Any) -> None:
    """Print facts for machines."""
    typer.echo(json.dumps(facts))


def moment(ts: float) -> str:
    """Local time of Unix seconds, for people."""
    return datetime.datetime.fromtimestamp(ts).strftime("%Y-%m-%d %H:%M:%S") if ts else "never"
