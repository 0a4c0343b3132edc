"""`distillnet events` and `distillnet telemetry`: what devices said over MQTT."""

import time
from typing import Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from distillnet.cloud.fleet import options


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("events")(list_events)
    app.command("telemetry")(list_telemetry)


@options.asks
def list_events(
    device: str = typer.Option("", help="only this device"),
    event: str = typer.Option("", help="only this event"),
    hours: float = typer.Option(24.0, min=0, help="back from now"),
    limit: int = typer.Option(100, min=1, max=10_000),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """List what devices saw, newest first.

    Example: distillnet events --device porch --event cat --hours 2
    """
    from distillnet.proto.v1 import admin_pb2

    since_ts = time.time() - hours * 3600.0
    request = admin_pb2.ListEventsRequest(device=device, event=event, since_ts=since_ts, limit=limit)
    with service.stub() as stub:
        rows = stub.ListEvents(request, timeout=options.TIMEOUT_S).events
    if as_json:
        options.print_json([_plain(row) for row in rows])
        return
    table = Table("start", "lasted", "device", "source", "event", "phase", "score")
    for row in rows:
        lasted = f"{row.end_ts - row.start_ts:.1f} s" if row.end_ts else "…"
        start, score = options.moment(row.start_ts), f"{row.top_score:.2f}"
        table.add_row(start, lasted, row.device, row.source, row.event, row.phase, score)
    Console().print(table)


@options.asks
def list_telemetry(
    device: str = typer.Option("", help="only this device"),
    hours: float = typer.Option(1.0, min=0, help="back from now"),
    limit: int = typer.Option(100, min=1, max=10_000),
    as_json: bool = options.AS_JSON,
    *,
    service: options.Service,
) -> None:
    """List how devices fare, newest first.

    Example: distillnet telemetry --device porch --json
    """
    from distillnet.proto.v1 import admin_pb2

    since_ts = time.time() - hours * 3600.0
    request = admin_pb2.ListTelemetryRequest(device=device, since_ts=since_ts, limit=limit)
    with service.stub() as stub:
        rows = stub.ListTelemetry(request, timeout=options.TIMEOUT_S).samples
    if as_json:
        options.print_json([_plain(row) for row in rows])
        return
    table = Table("time", "device", "frames/s", "dropped", "infer p50", "end to end p50", "p99", "CPU", "RSS", "°C")
    for row in rows:
        rate = f"{row.frames / row.interval_s:.1f}" if row.interval_s else ""
        latencies = [f"{ms:.2f} ms" for ms in (row.infer_p50_ms, row.end_to_end_p50_ms, row.end_to_end_p99_ms)]
        rest = [f"{row.cpu_share:.0%}", f"{row.rss_bytes / 2**20:.0f} MiB", f"{row.temperature_c:.0f}"]
        table.add_row(options.moment(row.ts), row.device, rate, str(row.dropped), *latencies, *rest)
    Console().print(table)


def _plain(row: Any) -> dict[str, Any]:
    facts: dict[str, Any] = MessageToDict(
        row, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # 64-bit numbers are strings in protobuf's JSON; in ours they are numbers.
    return {name: int(value) if name in _COUNTS else value for name, value in facts.items()}


_COUNTS = {"frames", "dropped", "gated", "rss_bytes"}
