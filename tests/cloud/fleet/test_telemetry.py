"""Events and telemetry: read strictly, stored once, thinned with age; then through a real broker into the service."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import select

from distillnet.cloud.fleet import telemetry
from distillnet.cloud.fleet.database import Event, Sample
from distillnet.proto.mqtt import (
    EventPayload,
    Quantiles,
    SourceTelemetry,
    TelemetryPayload,
    Topics,
    encode,
)
from distillnet.proto.v1 import admin_pb2

DIGEST = "sha256:" + "a" * 64
DAY_S = 86400.0


def event(identity: str = "e1", phase: str = "new", score: float = 0.8, start: float = 100.0, end=None) -> EventPayload:
    return EventPayload(
        id=identity, seq=0, session="s", phase=phase, source="cam", event="cat", score=score, top_score=score,
        start_ts=start, end_ts=end, frame_ts=start, model_digest=DIGEST,
    )  # fmt: skip


def report(ts: float, p99: float = 9.0, frames: int = 300, digest: str = DIGEST) -> TelemetryPayload:
    quantiles = Quantiles(p50=p99 / 3, p95=p99 / 2, p99=p99, max=p99, n=frames)
    return TelemetryPayload(
        session="s", ts=ts, interval_s=10.0, uptime_s=1.0, model_digest=digest,
        stages={"infer": quantiles, "end_to_end": quantiles},
        sources={"cam": SourceTelemetry(fps=30, frames=frames, dropped=1, gated=2, queue=0)},
        outbox_events=0, outbox_bytes=0, rss_bytes=5 << 20, cpu_share=0.5,
    )  # fmt: skip


def rows(*payloads: EventPayload):
    return [telemetry.read(Topics("porch").event("cam", "cat"), encode(payload))[1] for payload in payloads]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("distillnet/v1/porch/telemetry", b"{}"),
        ("distillnet/v1/porch/telemetry", b"\xff\xfe"),
        ("distillnet/v1/porch/status", encode(event())),
        ("distillnet/v1/../telemetry", b"{}"),
        ("elsewhere/porch/telemetry", b"{}"),
        ("distillnet/v1/porch/event/cam/cat", json.dumps({"schema": "distillnet.event.v1", "more": 1}).encode()),
    ],
)
def test_what_is_not_of_the_contract_is_refused(topic, payload):
    with pytest.raises(telemetry.BadMessageError):
        telemetry.read(topic, payload)


def test_an_event_is_one_row_however_often_and_in_whatever_order_it_is_told(database):
    life = rows(event(score=0.6), event(phase="update", score=0.9), event(phase="end", score=0.9, end=130.0))
    for batch in ([life[2]], [life[0], life[1]], life, [life[1]]):
        database.write_now(lambda session, batch=batch: telemetry.add_events(session, batch))
    stored = database.read_now(lambda session: session.scalars(select(Event)).one())
    assert (stored.phase, stored.end_ts, stored.top_score) == ("end", 130.0, 0.9)


def test_old_samples_become_one_an_hour_and_very_old_ones_go(database):
    topic, now = Topics("porch").telemetry, 1000 * DAY_S
    stamps = [now - 20 * DAY_S + second for second in range(0, 7200, 60)] + [now - 500 * DAY_S, now - 60]
    samples = [telemetry.read(topic, encode(report(ts, p99=5.0 + n % 7)))[1] for n, ts in enumerate(stamps)]
    database.write_now(lambda session: telemetry.add_samples(session, samples))
    for _ in range(3):
        database.write_now(lambda session: telemetry.retain(session, now, raw_days=14, hourly_days=400, event_days=90))
    kept = database.read_now(lambda session: list(session.scalars(select(Sample).order_by(Sample.ts))))
    assert [row.reports for row in kept] == [60, 60, 1]
    assert sum(row.frames for row in kept) == 121 * 300 and kept[0].end_to_end_p99_ms == 11.0
    assert 5 / 3 < kept[0].infer_p50_ms < 11 / 3


class Broker:
    """A Mosquitto of our own."""

    def __init__(self, program: str, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [program, "-c", str(home / "broker.conf")]
        (home / "broker.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {home}/\nmax_queued_messages 0\nuser root\n"
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(10)

    def publisher(self) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.max_inflight_messages_set(1000)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client


@pytest.fixture
def broker(tmp_path):
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("Mosquitto is not installed: would have shown events and telemetry reach the service")
    running = Broker(program, tmp_path)
    yield running
    running.stop()


def until(check, timeout_s: float = 20.0):
    end = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)
    return found


@pytest.mark.integration
def test_nothing_is_lost_while_the_service_is_killed_and_the_store_is_asked(serve, broker, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n')
    running = serve("--config", str(config))
    publisher, names = broker.publisher(), [str(uuid.uuid4()) for _ in range(400)]
    start = time.time()

    def listed(kind: str = "events"):
        if kind == "events":
            return running.admin().ListEvents(admin_pb2.ListEventsRequest(limit=10_000), timeout=15).events
        return running.admin().ListTelemetry(admin_pb2.ListTelemetryRequest(limit=10_000), timeout=15).samples

    def see(n: int) -> None:
        publisher.publish(Topics("porch").event("cam", "cat"), encode(event(names[n], start=start + n)), qos=1)

    see(0)
    until(lambda: len(listed()) == 1 or see(0))
    for n in range(400):
        see(n)
        if n == 200:
            running.stop(signal.SIGKILL)
    running = serve("--config", str(config))
    until(lambda: len(listed()) == 400)
    assert {row.id for row in listed()} == set(names)

    publisher.publish(Topics("porch").telemetry, encode(report(start)))
    publisher.publish(Topics("porch").telemetry, b"junk")
    publisher.publish(Topics("porch").telemetry, encode(report(start + 10)))
    samples = until(lambda: len(found := listed("samples")) == 2 and found)
    assert samples[0].frames == 300 and abs(samples[0].end_to_end_p99_ms - 9.0) < 1e-9
    publisher.loop_stop()


@pytest.mark.integration
def test_the_service_starts_without_a_broker_and_finds_it_later(serve, broker, tmp_path):
    broker.stop()
    config = tmp_path / "serve.toml"
    config.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n')
    running = serve("--config", str(config))
    broker.start()
    publisher = broker.publisher()

    def heard() -> bool:
        publisher.publish(Topics("porch").telemetry, encode(report(time.time())))
        return len(running.admin().ListTelemetry(admin_pb2.ListTelemetryRequest(), timeout=15).samples) > 0

    until(heard, 30)
    publisher.loop_stop()
    assert running.stop() == 0
