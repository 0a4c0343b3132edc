"""The fleet's commands. Heavy imports wait until a command runs."""

import json
import logging
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud.fleet import job_commands, key_commands, options, rollout_commands, telemetry_commands

_PUBLISH_TIMEOUT_S = 300.0

token_app = typer.Typer(help="One-time tokens that let a board enrol.", no_args_is_help=True)
access_app = typer.Typer(help="Certificates for people and scripts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the fleet's commands to the command line."""
    app.command()(serve)
    app.command()(publish)
    app.command("devices")(list_devices)
    app.command("models")(list_models)
    app.command()(rollback)
    app.command()(revoke)
    app.command()(dashboard)
    app.command()(backup)
    rollout_commands.register(app)
    telemetry_commands.register(app)
    key_commands.register(app)
    job_commands.register(app)
    app.add_typer(token_app, name="token")
    app.add_typer(access_app, name="access")


def serve(
    data: Path = options.DATA,
    host: str | None = typer.Option(None, help="address to listen on [default: 127.0.0.1]"),
    port: int | None = typer.Option(None, help="of devices and people, mTLS; 0 = any free one [default: 7443]"),
    enroll_port: int | None = typer.Option(None, help="of boards that enrol; 0 = any free one [default: 7444]"),
    web_port: int | None = typer.Option(
        None, help="of the dashboard and the metrics, TLS; 0 = any free one [default: off]"
    ),
    config: Path | None = typer.Option(None, help="serve.toml"),
    as_json: bool = typer.Option(False, "--json", help="log and announce readiness as JSON lines"),
) -> None:
    """Run the fleet service; the first start makes its keys, its repository and an admin bundle in --data.

    Example: distillnet serve --data fleet --host 0.0.0.0
    """
    from distillnet.cloud.fleet import config as settings
    from distillnet.cloud.fleet import server

    loaded = settings.load(config)
    given = {"host": host, "port": port, "enroll_port": enroll_port, "web_port": web_port}
    listen = loaded.listen.model_copy(update={key: value for key, value in given.items() if value is not None})
    _log(as_json)

    def announce(ready: server.Ready) -> None:
        if as_json:
            facts = {"event": "ready", "port": ready.port, "enroll_port": ready.enroll_port}
            facts |= {"data": str(ready.data), "admin": str(ready.admin)}
            options.print_json(facts | ({"web_port": ready.web_port} if ready.web_port else {}))
        else:
            typer.echo(f"ready: devices on {listen.host}:{ready.port}, enrolment on {listen.host}:{ready.enroll_port}")
            typer.echo(f"admin bundle: {ready.admin}")
            if ready.web_port:
                typer.echo(f"dashboard on {listen.host}:{ready.web_port}: `distillnet dashboard` signs in")

    server.run(loaded.model_copy(update={"listen": listen}), data, announce)


@options.asks
def publish(
    student: Path = typer.Argument(help="a student.tflite made by `distillnet distill`"),
    hold: bool = typer.Option(False, help="tell no device: leave that to a rollout"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Check, number, sign and publish a student, and tell the devices that run its application.

    Example: distillnet publish out/student.tflite --data fleet
    """
    from distillnet.cloud.fleet.client import upload
    from distillnet.proto import archive

    application = archive.read(student).card.application
    with service.stub() as stub:
        response = stub.Publish(upload(application, student.read_bytes(), hold=hold), timeout=_PUBLISH_TIMEOUT_S)
    facts = {
        "application": response.application,
        "version": response.version,
        "digest": response.digest,
        "size_bytes": response.size_bytes,
        "devices_told": response.devices_told,
    }
    if as_json:
        options.print_json(facts)
    else:
        typer.echo(f"published {response.application} version {response.version}, {response.size_bytes} bytes")
        typer.echo(f"{response.digest}\ndevices told: {response.devices_told}")


@options.asks
def dashboard(
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Print a link that signs you in to the dashboard, once, with the role of your access bundle.

    Example: distillnet dashboard --admin night-shift
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        response = stub.OpenDashboard(admin_pb2.OpenDashboardRequest(), timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"url": response.url, "expires_ts": response.expires_ts})
    else:
        typer.echo(response.url)


def backup(
    out: Path = typer.Argument(help="directory to make"),
    with_offline_keys: bool = typer.Option(False, help="the root keys too, when they still lie in --data"),
    data: Path = options.DATA,
    as_json: bool = options.AS_JSON,
) -> None:
    """Copy a running service's data directory; `distillnet serve --data OUT` starts from the copy.

    Example: distillnet backup /backup/fleet-monday --data fleet
    """
    from distillnet.cloud.fleet.backup import make

    facts = make(data, out, with_offline=with_offline_keys)
    if as_json:
        options.print_json(facts | {"out": str(out)})
    else:
        typer.echo(f"{out}: {facts['files']} files, {facts['bytes']} bytes")


@token_app.command("create")
@options.asks
def token_create(
    device: str = typer.Option("", help="only this device may use it [default: any]"),
    application: list[str] = typer.Option([], help="what the device shall run; may be repeated"),
    ttl: float = typer.Option(3600.0, help="seconds it lives"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Make a one-time enrolment token and print it.

    Example: distillnet token create --device porch --application pets
    """
    from distillnet.proto.v1 import admin_pb2

    request = admin_pb2.CreateTokenRequest(ttl_s=ttl, device=device, applications=application)
    with service.stub() as stub:
        response = stub.CreateToken(request, timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"token": response.token, "expires_ts": response.expires_ts})
    else:
        typer.echo(response.token)


@options.asks
def list_devices(
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """List the devices and what each says it runs.

    Example: distillnet devices --json
    """
    from distillnet.cloud.fleet.devices import phase_name, shadow_dict
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        rows = stub.ListDevices(admin_pb2.ListDevicesRequest(), timeout=options.TIMEOUT_S).devices
    facts = [
        {
            "device": row.device,
            "connected": row.connected,
            "revoked": row.revoked,
            "last_seen_ts": row.last_seen_ts,
            "board": row.capabilities.board,
            "machine": row.capabilities.machine,
            "runtime": row.capabilities.runtime,
            "kernels": row.capabilities.engine_kernels,
            "applications": list(row.applications),
            "models": [
                {"application": model.application, "version": model.version, "digest": model.digest}
                for model in row.models
            ],
            "last_report": {
                "phase": phase_name(row.last_report.phase),
                "application": row.last_report.application,
                "version": row.last_report.version,
                "digest": row.last_report.digest,
                "reason": row.last_report.reason,
                "durations_ms": dict(row.last_report.durations_ms),
                "shadow": shadow_dict(row.last_report.shadow) if row.last_report.HasField("shadow") else None,
            }
            if row.HasField("last_report")
            else None,
        }
        for row in rows
    ]
    if as_json:
        options.print_json(facts)
        return
    table = Table("device", "state", "seen", "board", "runs", "last report")
    for row in rows:
        state = "revoked" if row.revoked else "connected" if row.connected else "away"
        runs = ", ".join(f"{model.application} {model.version}" for model in row.models)
        told = row.last_report
        last = f"{phase_name(told.phase)} {told.version} {told.reason}".strip() if row.HasField("last_report") else ""
        table.add_row(row.device, state, options.moment(row.last_seen_ts), row.capabilities.board, runs, last)
    Console().print(table)


@options.asks
def list_models(
    application: str = typer.Option("", help="only this application"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """List the published students, newest first.

    Example: distillnet models --application pets
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        rows = stub.ListModels(admin_pb2.ListModelsRequest(application=application), timeout=options.TIMEOUT_S).models
    if as_json:
        options.print_json(
            [
                {
                    "application": row.application,
                    "version": row.version,
                    "digest": row.digest,
                    "size_bytes": row.size_bytes,
                    "published_ts": row.published_ts,
                    "held": row.held,
                    "card": json.loads(row.card_json),
                }
                for row in rows
            ]
        )
        return
    table = Table("application", "version", "published", "size", "held", "digest")
    for row in rows:
        size = f"{row.size_bytes / 1024:.0f} KiB"
        facts = (str(row.version), options.moment(row.published_ts), size, "held" if row.held else "")
        table.add_row(row.application, *facts, row.digest[:19] + "…")
    Console().print(table)


@options.asks
def rollback(
    application: str = typer.Argument(),
    device: list[str] = typer.Option([], help="only this device; may be repeated [default: all]"),
    reason: str = typer.Option("", help="told to the devices"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Ask devices to go back to their previous student.

    Example: distillnet rollback pets --device porch --reason "false alarms at dusk"
    """
    from distillnet.proto.v1 import admin_pb2

    request = admin_pb2.RollbackDevicesRequest(application=application, devices=device, reason=reason)
    with service.stub() as stub:
        response = stub.RollbackDevices(request, timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"application": application, "devices_told": response.devices_told})
    else:
        typer.echo(f"devices told: {response.devices_told}")


@options.asks
def revoke(
    device: str = typer.Argument(),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Shut a device out: its certificate opens nothing any more, its stream ends.

    Example: distillnet revoke porch
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        stub.RevokeDevice(admin_pb2.RevokeDeviceRequest(device=device), timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"device": device, "revoked": True})
    else:
        typer.echo(f"revoked {device}")


@access_app.command("grant")
@options.asks
def access_grant(
    name: str = typer.Argument(help="a person or a script"),
    role: str = typer.Option("viewer", help="viewer, operator or admin"),
    out: Path = typer.Option(..., help="bundle directory to write"),
    days: float = typer.Option(365.0, min=0.01, max=365.0),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Make an access bundle for --admin; its key never leaves this machine.

    Example: distillnet access grant night-shift --role operator --out night-shift
    """
    from distillnet.cloud.fleet.client import grant

    entry = service.access()
    grant(entry, name, role, out, days)
    if as_json:
        options.print_json({"name": name, "role": role, "bundle": str(out)})
    else:
        typer.echo(f"{role} {name}: {out}")


@access_app.command("revoke")
@options.asks
def access_revoke(
    name: str = typer.Argument(),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Revoke every certificate of a person or a script.

    Example: distillnet access revoke night-shift
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        stub.RevokeAccess(admin_pb2.RevokeAccessRequest(name=name), timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"name": name, "revoked": True})
    else:
        typer.echo(f"revoked the access of {name}")


def _log(as_json: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    """One JSON object per record, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `{"ts", "level", "logger", "message"[, "error"]}`."""
        facts: dict[str, Any] = {"ts": record.created, "level": record.levelname.lower(), "logger": record.name}
        facts["message"] = record.getMessage()
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps(facts)
