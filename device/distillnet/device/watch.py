"""`distillnet watch`: an independent subscriber that prints what a device says, as it comes."""

import contextlib
import json
import queue
import secrets
import sys
import time
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from distillnet.device.broker import Link, Message
from distillnet.device.config import MqttSection
from distillnet.device.top import Board
from distillnet.proto.mqtt import BASE

_TOPICS = ("status", "info", "event/#", "state/#", "telemetry", "source/#", "model")


class Watcher:
    """Prints messages: one JSON object per line, or lines for people."""

    def __init__(self, *, host: str, port: int, device: str, as_json: bool, live: bool = False) -> None:
        """Prepare a link to a broker for the topics of one device, or of all with `+`; `live`: a table of them."""
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._as_json = as_json
        self._board = Board() if live else None
        self._console = Console(highlight=False)
        self._link = Link(
            MqttSection(host=host, port=port),
            client_id=f"distillnet-watch-{secrets.token_hex(4)}",
            subscriptions=tuple(f"{BASE}/{device}/{topic}" for topic in _TOPICS),
            on_message=self._messages.put,
        )

    def run(self, seconds: float | None) -> None:
        """Print until Ctrl-C, or for so long."""
        until = None if seconds is None else time.monotonic() + seconds
        self._link.start()
        board = self._board
        view = nullcontext() if board is None else Live(console=self._console, get_renderable=board.table, screen=True)
        try:
            with view:
                while until is None or time.monotonic() < until:
                    with contextlib.suppress(queue.Empty):
                        self._show(self._messages.get(timeout=0.2))
        except KeyboardInterrupt:
            pass
        finally:
            self._link.stop()

    def _show(self, message: Message) -> None:
        payload = _decoded(message.payload)
        if self._board is not None:
            self._board.take(message.topic, payload)
            return
        if self._as_json:
            line = json.dumps({"topic": message.topic, "payload": payload, "retained": message.retained})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            return
        stamp = datetime.now().strftime("%H:%M:%S")
        device, _, rest = message.topic.removeprefix(f"{BASE}/").partition("/")
        self._console.print(
            f"[dim]{stamp}[/dim] [bold]{escape(device)}[/bold] {describe(rest, payload)}", soft_wrap=True
        )


def describe(topic: str, payload: Any) -> str:
    """Return one line of rich markup for a message; `topic` without the device's prefix."""
    kind = topic.partition("/")[0]
    if not isinstance(payload, dict):
        return f"{escape(topic)} {escape(str(payload))}"
    if kind == "event":
        return _event(payload)
    if kind == "telemetry":
        return _telemetry(payload)
    if kind in ("status", "source"):
        return f"{escape(topic)} [bold]{payload.get('state')}[/bold] {escape(str(payload.get('reason', '')))}"
    if kind == "model":
        return _model(payload)
    if kind == "info":
        facts = ", ".join(f"{key} {payload.get(key)}" for key in ("application", "model_version", "engine", "kernels"))
        return f"info {escape(facts)}"
    return f"{escape(topic)} {escape(json.dumps(payload))}"


def _event(event: dict[str, Any]) -> str:
    colour = {"new": "green", "update": "cyan", "end": "yellow"}.get(str(event.get("phase")), "white")
    where = "/".join(str(part) for part in (event.get("source"), event.get("zone")) if part)
    late = " [dim](replayed)[/dim]" if event.get("replayed") else ""
    total = (event.get("latency_ms") or {}).get("total", 0.0)
    return (
        f"[{colour}]{event.get('phase'):>6} {event.get('event')}[/{colour}] on {escape(where)}"
        f" score {event.get('score', 0):.2f} top {event.get('top_score', 0):.2f} {total:.1f} ms{late}"
    )


def _telemetry(report: dict[str, Any]) -> str:
    stages = " ".join(
        f"{name} {stage['p50']:.1f}/{stage['p95']:.1f}" for name, stage in (report.get("stages") or {}).items()
    )
    sources = " ".join(
        f"{name} {source['fps']:.1f} fps -{source['dropped']}" for name, source in (report.get("sources") or {}).items()
    )
    memory = report.get("rss_bytes", 0) / 2**20
    return f"[blue]telemetry[/blue] {escape(sources)} | p50/p95 ms: {escape(stages)} | {memory:.0f} MB"


def _model(model: dict[str, Any]) -> str:
    installed = model.get("installed") or {}
    candidate = model.get("candidate") or {}
    coming = f" ← v{candidate['version']}" if candidate else ""
    running = f"v{installed['version']}" if installed else "none"
    return f"[magenta]model[/magenta] {running}{coming} {model.get('phase')} {escape(str(model.get('reason', '')))}"


def _decoded(payload: bytes) -> Any:
    text = payload.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text
