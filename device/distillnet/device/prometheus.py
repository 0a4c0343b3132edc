"""The latest telemetry as Prometheus text, on localhost only, where the device file asks for it."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from distillnet.proto.mqtt import TelemetryPayload
from distillnet.proto.strict import ConfigError

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(report: TelemetryPayload | None, totals: dict[str, tuple[int, int, int]]) -> str:
    """Return the exposition text.

    Args:
        report: the latest telemetry; None = none yet.
        totals: by source, frames, gated and dropped since the start.

    """
    lines: list[str] = []

    def add(name: str, kind: str, samples: list[tuple[str, float]]) -> None:
        if samples:
            lines.append(f"# TYPE distillnet_{name} {kind}")
            lines.extend(f"distillnet_{name}{labels} {value:g}" for labels, value in samples)

    for index, name in enumerate(("frames", "gated", "dropped")):
        values = [(f'{{source="{source}"}}', float(counts[index])) for source, counts in totals.items()]
        add(f"{name}_total", "counter", values)
    if report is None:
        return "\n".join(lines) + "\n"
    quantiles = [
        (f'{{stage="{stage}",quantile="{quantile}"}}', getattr(latency, f"p{round(quantile * 100)}"))
        for stage, latency in report.stages.items()
        for quantile in (0.5, 0.95, 0.99)
    ]
    add("stage_milliseconds", "gauge", quantiles)
    add("fps", "gauge", [(f'{{source="{source}"}}', counts.fps) for source, counts in report.sources.items()])
    add(
        "queue_frames", "gauge", [(f'{{source="{source}"}}', counts.queue) for source, counts in report.sources.items()]
    )
    add("model_info", "gauge", [(f'{{digest="{report.model_digest}"}}', 1.0)])
    add("uptime_seconds", "gauge", [("", report.uptime_s)])
    add("outbox_events", "gauge", [("", float(report.outbox_events))])
    add("outbox_bytes", "gauge", [("", float(report.outbox_bytes))])
    add("resident_bytes", "gauge", [("", float(report.rss_bytes))])
    add("cpu_share", "gauge", [("", report.cpu_share)])
    if report.temperature_c is not None:
        add("temperature_celsius", "gauge", [("", report.temperature_c)])
    if report.throttled is not None:
        add("throttled", "gauge", [("", float(report.throttled))])
    return "\n".join(lines) + "\n"


class Exporter:
    """Answers GET /metrics on 127.0.0.1."""

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        """Bind.

        Raises:
            ConfigError: the port is taken.

        """

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                body = text().encode()
                self.send_response(200)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as exc:
            raise ConfigError(f"telemetry.prometheus_port: port {port} cannot be used: {exc.strerror}") from exc
        self._thread = threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
