"""`distillnet watch --live`: one table of all devices of a broker that keeps itself up to date."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.table import Table

from distillnet.proto.mqtt import BASE

_COLOURS = {"ready": "green", "init": "cyan", "updating": "cyan", "degraded": "yellow", "offline": "dim", "lost": "red"}
_COLUMNS = (
    "device",
    "state",
    "model",
    "frames/s",
    "dropped",
    "infer p95",
    "end to end p95",
    "MB",
    "on now",
    "last event",
)


@dataclass
class Row:
    """What is known of one device."""

    state: str = "?"
    reason: str = ""
    model: str = ""
    fps: float = 0.0
    dropped: int = 0
    infer_ms: float | None = None
    end_to_end_ms: float | None = None
    memory_mb: float = 0.0
    on: set[str] = field(default_factory=set)
    last: str = ""


class Board:
    """All devices heard of."""

    def __init__(self) -> None:
        """Know none yet."""
        self._rows: dict[str, Row] = {}

    def take(self, topic: str, payload: Any) -> None:
        """Take a message in: its whole topic and its decoded payload."""
        device, _, rest = topic.removeprefix(f"{BASE}/").partition("/")
        kind, _, place = rest.partition("/")
        row = self._rows.setdefault(device, Row())
        if kind == "state":
            (row.on.add if payload == "ON" else row.on.discard)(place)
        elif not isinstance(payload, dict):
            return
        elif kind == "status":
            row.state, row.reason = str(payload.get("state")), str(payload.get("reason", ""))
        elif kind == "info":
            row.model = f"{payload.get('application')} v{payload.get('model_version')} {payload.get('engine')}"
        elif kind == "telemetry":
            _measure(row, payload)
        elif kind == "event":
            stamp = datetime.fromtimestamp(float(payload.get("frame_ts", 0.0))).strftime("%H:%M:%S")
            row.last = f"{stamp} {payload.get('event')} {payload.get('phase')}"

    def table(self) -> Table:
        """Return the table as it is now."""
        table = Table(*_COLUMNS, expand=True)
        for device, row in sorted(self._rows.items()):
            state = f"[{_COLOURS.get(row.state, 'white')}]{row.state}[/]" + (f" {row.reason}" if row.reason else "")
            figures = (f"{row.fps:.1f}", str(row.dropped), _ms(row.infer_ms), _ms(row.end_to_end_ms))
            table.add_row(
                device, state, row.model, *figures, f"{row.memory_mb:.0f}", " ".join(sorted(row.on)), row.last
            )
        return table


def _measure(row: Row, report: dict[str, Any]) -> None:
    sources, stages = report.get("sources") or {}, report.get("stages") or {}
    row.fps = sum(source["fps"] for source in sources.values())
    row.dropped += sum(source["dropped"] for source in sources.values())
    row.infer_ms = stages["infer"]["p95"] if "infer" in stages else None
    row.end_to_end_ms = stages["end_to_end"]["p95"] if "end_to_end" in stages else row.end_to_end_ms
    row.memory_mb = report.get("rss_bytes", 0) / 2**20


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
