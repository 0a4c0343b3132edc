"""`distillnet rollout …` and `distillnet tag`."""

import time
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud.fleet import options

rollout_app = typer.Typer(help="Bring a version to many devices, carefully.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(tag)
    app.add_typer(rollout_app, name="rollout")


@options.asks
def tag(
    device: list[str] = typer.Argument(),
    add: list[str] = typer.Option([], help="a word to put on; may be repeated"),
    remove: list[str] = typer.Option([], help="a word to take off; may be repeated"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Put tags on devices and take others off; rollouts choose devices by them.

    Example: distillnet tag porch garage --add outdoors
    """
    from distillnet.proto.v1 import admin_pb2

    request = admin_pb2.TagDevicesRequest(devices=device, add=add, remove=remove)
    with service.stub() as stub:
        response = stub.TagDevices(request, timeout=options.TIMEOUT_S)
    if as_json:
        options.print_json({"devices": response.devices})
    else:
        typer.echo(f"devices: {response.devices}")


@rollout_app.command("start")
@options.asks
def start(
    application: str = typer.Argument(),
    version: int = typer.Option(0, min=0, help="published with --hold [default: the newest]"),
    canary: int = typer.Option(1, min=1, help="devices in the first wave"),
    canary_device: list[str] = typer.Option([], help="these devices are the first wave; may be repeated"),
    waves: str = typer.Option("100", help="rising percentages of the rest, e.g. 10,50,100"),
    soak: float = typer.Option(60.0, min=0, help="seconds each wave is watched before the next"),
    max_failure_share: float = typer.Option(0.0, min=0, max=1, help="of the devices told so far; more stops it"),
    concurrency: int = typer.Option(0, min=0, help="updates under way at once [default: no limit]"),
    pause_on_failure: bool = typer.Option(False, help="stop and wait for a person instead of rolling back"),
    max_latency_ratio: float = typer.Option(0.0, min=0, help="of p99 end to end, after to before; more stops it"),
    max_event_ratio: float = typer.Option(0.0, min=0, help="of events per hour, after to before; more stops it"),
    tag: list[str] = typer.Option([], help="only devices with any of these tags"),
    delay: float = typer.Option(0.0, min=0, help="seconds until it starts"),
    downgrade: bool = typer.Option(False, help="sign that boards may go back to --version; newer ones are held back"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Start a rollout: the canary first, then wave after wave, stopping by itself when devices refuse or roll back.

    With --downgrade the newer versions are held until a rollout of theirs is done, and boards may go back to this one
    until a newer version is released to all.

    Example: distillnet rollout start pets --canary 2 --waves 25,100 --soak 600
    Example: distillnet rollout start pets --version 3 --downgrade
    """
    from distillnet.proto.strict import ConfigError
    from distillnet.proto.v1 import admin_pb2

    try:
        percents = [int(part) for part in waves.split(",")]
    except ValueError as exc:
        raise ConfigError(f"--waves must be percentages, e.g. 10,50,100; got {waves!r}") from exc
    plan = admin_pb2.RolloutPlan(
        canary=canary,
        canary_devices=canary_device,
        waves_percent=percents,
        soak_s=soak,
        max_failure_share=max_failure_share,
        concurrency=concurrency,
        pause_on_failure=pause_on_failure,
        max_latency_ratio=max_latency_ratio,
        max_event_ratio=max_event_ratio,
    )
    start_ts = time.time() + delay if delay else 0.0
    request = admin_pb2.StartRolloutRequest(
        application=application, version=version, plan=plan, tags=tag, start_ts=start_ts, downgrade=downgrade
    )
    with service.stub() as stub:
        _show([stub.StartRollout(request, timeout=options.TIMEOUT_S)], as_json)


@rollout_app.command("status")
@options.asks
def status(
    rollout: int = typer.Argument(0, help="its number [default: all]"),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Show how far rollouts are.

    Example: distillnet rollout status 3 --json
    """
    from distillnet.proto.v1 import admin_pb2

    with service.stub() as stub:
        rows = stub.ListRollouts(admin_pb2.ListRolloutsRequest(id=rollout), timeout=options.TIMEOUT_S).rollouts
    _show(rows, as_json)


@rollout_app.command("pause")
@options.asks
def pause(
    rollout: int = typer.Argument(),
    reason: str = typer.Option(""),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Tell no further device until resumed.

    Example: distillnet rollout pause 3
    """
    _steer(rollout, "ACTION_PAUSE", reason, service, as_json)


@rollout_app.command("resume")
@options.asks
def resume(
    rollout: int = typer.Argument(),
    reason: str = typer.Option(""),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Go on; failures up to now count no more, and telemetry is no longer judged.

    Example: distillnet rollout resume 3
    """
    _steer(rollout, "ACTION_RESUME", reason, service, as_json)


@rollout_app.command("abort")
@options.asks
def abort(
    rollout: int = typer.Argument(),
    take_back: bool = typer.Option(False, help="send the devices told so far back to their previous student"),
    reason: str = typer.Option(""),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """Stop for good; devices stay where they are unless taken back.

    Example: distillnet rollout abort 3 --take-back --reason "too many false alarms"
    """
    _steer(rollout, "ACTION_ROLL_BACK" if take_back else "ACTION_ABORT", reason, service, as_json)


def _steer(rollout: int, action: str, reason: str, service: options.Service, as_json: bool) -> None:
    from distillnet.proto.v1 import admin_pb2

    request = admin_pb2.SteerRolloutRequest(id=rollout, action=action, reason=reason)
    with service.stub() as stub:
        _show([stub.SteerRollout(request, timeout=options.TIMEOUT_S)], as_json)


def facts(row: Any) -> dict[str, Any]:
    """A rollout as plain JSON values."""
    counts = ("size", "waiting", "told", "committed", "failed", "taken_back", "superseded")
    return {
        "id": row.id,
        "application": row.application,
        "version": row.version,
        "state": row.state,
        "reason": row.reason,
        "wave": row.wave,
        "created_ts": row.created_ts,
        "changed_ts": row.changed_ts,
        "created_by": row.created_by,
        "waves": [{name: getattr(wave, name) for name in counts} for wave in row.waves],
    }


def _show(rows: Any, as_json: bool) -> None:
    if as_json:
        options.print_json([facts(row) for row in rows])
        return
    table = Table("rollout", "version", "state", "wave", "told", "committed", "failed", "of", "why")
    for row in rows:
        total = {
            name: sum(getattr(wave, name) for wave in row.waves) for name in ("told", "committed", "failed", "size")
        }
        figures = [str(total[name]) for name in ("told", "committed", "failed", "size")]
        name = f"{row.application} {row.version}"
        table.add_row(str(row.id), name, row.state, f"{row.wave + 1}/{len(row.waves)}", *figures, row.reason)
    Console().print(table)
