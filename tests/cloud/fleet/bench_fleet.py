"""Measure one fleet service: devices on real TLS streams, publication, artefacts, telemetry. `make bench-fleet`.

Every device is a gRPC stream on a connection of its own with a certificate of its own. The devices are played by
processes on the same machine, so the service has less than all of it; the result says so.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import func, select
from tiny_student import tiny_student

from distillnet.cloud.fleet import access, devices
from distillnet.cloud.fleet.access import Spent
from distillnet.cloud.fleet.client import Access, upload
from distillnet.cloud.fleet.database import Database, Sample
from distillnet.cloud.fleet.pki import Authority
from distillnet.proto.identity import Identity
from distillnet.proto.mqtt import Quantiles, SourceTelemetry, TelemetryPayload, Topics, encode
from distillnet.proto.v1 import admin_pb2_grpc, artifacts_pb2, artifacts_pb2_grpc, fleet_pb2, fleet_pb2_grpc

APPLICATION = "bench"
FILE_BYTES = 32 << 20
CHUNK_BYTES = 256 << 10
Figures = dict[str, float]


def main() -> None:
    """Run, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="500,1000,2000", help="how many; one run each")
    parser.add_argument("--processes", type=int, default=2, help="that play the devices")
    parser.add_argument("--ramp", type=float, default=150.0, help="new connections a second, at most")
    parser.add_argument("--telemetry-rate", type=float, default=1000.0, help="messages a second, 0 = none")
    parser.add_argument("--telemetry-s", type=float, default=10.0)
    parser.add_argument("--database", help="SQLAlchemy URL of an empty database [default: SQLite]")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    runs = []
    for count in given.devices.split(","):
        runs.append(run(int(count), given))
        sys.stderr.write(f"{json.dumps(runs[-1])}\n")
    for name in runs[0]:
        sys.stdout.write(f"{name:<28}" + "".join(f"{figures[name]:>12.4g}" for figures in runs) + "\n")
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "clients": "on the same machine"}
    sys.stdout.write(json.dumps({"machine": machine, "database": given.database or "sqlite", "runs": runs}) + "\n")


def run(count: int, given: argparse.Namespace) -> Figures:
    """Measure with so many devices."""
    home = Path(tempfile.mkdtemp(prefix="bench-fleet-"))
    broker, port = _broker(home)
    config = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n' if broker else ""
    config += f'[storage]\ndatabase = "{given.database}"\n' if given.database else ""
    (home / "serve.toml").write_text(config)
    url = given.database or f"sqlite:///{home}/data/fleet.db"
    try:
        _stop(_serve(home)[0])
        identities = _identities(home, url, count)
        server, ready = _serve(home)
        figures = {"devices": float(count)}
        try:
            figures |= _streams(home, server, ready, identities, given)
            figures |= _artefacts(home, ready)
            if broker and given.telemetry_rate:
                figures |= _telemetry(url, port, given.telemetry_rate, given.telemetry_s)
        finally:
            _stop(server)
        return figures
    finally:
        if broker:
            _stop(broker)
        shutil.rmtree(home, ignore_errors=True)


def _streams(
    home: Path, server: subprocess.Popen[bytes], ready: dict[str, Any], identities: list[Any], given: Any
) -> Figures:
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(given.processes):
        ours, theirs = context.Pipe()
        share = identities[number :: given.processes]
        context.Process(target=_play, args=(theirs, ready["port"], share, given.ramp / given.processes)).start()
        pipes.append(ours)
    began = time.monotonic()
    connected = sum(pipe.recv() for pipe in pipes)
    connect_s = time.monotonic() - began
    time.sleep(2.0)
    spent, waited = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(5.0)
    idle = (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - waited)
    resident = process.memory_info().rss - before
    bundle = Access.read(home / "data" / "admin")
    asked = time.time()
    admin_pb2_grpc.AdminStub(_channel(bundle, bundle.address)).Publish(
        upload(APPLICATION, tiny_student(APPLICATION)), timeout=120
    )
    done = time.time()
    for pipe in pipes:
        pipe.send("collect")
    heard = sorted(moment - done for pipe in pipes for moment in pipe.recv())
    return {
        "connected": float(connected),
        "connections_per_s": connected / connect_s,
        "kib_per_device": resident / 1024 / connected,
        "idle_cpu_share": idle,
        "publish_s": done - asked,
        "directives": float(len(heard)),
        "directive_p50_s": statistics.median(heard),
        "directive_p95_s": heard[round(0.95 * (len(heard) - 1))],
        "directive_max_s": heard[-1],
    }


def _play(pipe: Any, port: int, identities: list[tuple[str, bytes, bytes, bytes]], ramp: float) -> None:
    """Be many devices; tells how many are connected, then, when asked, when each heard of its update."""
    asyncio.run(_devices(pipe, port, identities, ramp))


async def _devices(pipe: Any, port: int, identities: list[tuple[str, bytes, bytes, bytes]], ramp: float) -> None:
    connected: list[str] = []
    heard: dict[str, float] = {}
    tasks = []
    for name, ca_pem, certificate_pem, key in identities:
        bundle = Access("", ca_pem, certificate_pem, key)
        tasks.append(asyncio.create_task(_device(name, bundle, port, connected, heard)))
        await asyncio.sleep(1.0 / ramp)
    end = time.monotonic() + 60.0
    while len(connected) < len(identities) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    pipe.send(len(connected))
    await asyncio.to_thread(pipe.recv)
    end = time.monotonic() + 30.0
    while len(heard) < len(connected) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    pipe.send(list(heard.values()))
    for task in tasks:
        task.cancel()
    os._exit(0)  # closing thousands of channels one by one measures nothing


async def _device(name: str, bundle: Access, port: int, connected: list[str], heard: dict[str, float]) -> None:
    credentials = grpc.ssl_channel_credentials(bundle.ca_pem, bundle.key_pem, bundle.certificate_pem)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        stream = fleet_pb2_grpc.FleetStub(channel).Connect(wait_for_ready=True)
        hello = fleet_pb2.Hello(applications=[APPLICATION], session="bench")
        await stream.write(fleet_pb2.DeviceMessage(hello=hello))
        beats = None
        while (message := await stream.read()) is not grpc.aio.EOF:
            if message.HasField("welcome"):
                connected.append(name)
                beats = asyncio.create_task(_beat(stream, message.welcome.heartbeat_s))
            elif message.HasField("directive"):
                heard.setdefault(name, time.time())
                wanted = message.directive.update
                report = fleet_pb2.UpdateReport(
                    directive_id=message.directive.id,
                    phase=fleet_pb2.UPDATE_PHASE_COMMITTED,
                    application=wanted.application,
                    version=wanted.version,
                    digest=wanted.digest,
                )
                await stream.write(fleet_pb2.DeviceMessage(report=report))
        if beats is not None:
            beats.cancel()


async def _beat(stream: Any, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await stream.write(fleet_pb2.DeviceMessage(heartbeat=fleet_pb2.Heartbeat()))


def _artefacts(home: Path, ready: dict[str, Any]) -> Figures:
    """Stream one large file through `Artifacts.Fetch` and through a bare gRPC method, in turn."""
    data = os.urandom(FILE_BYTES)
    path = f"targets/{APPLICATION}/99/{hashlib.sha256(data).hexdigest()}.student.tflite"
    target = home / "data" / "objects" / path
    target.parent.mkdir(parents=True)
    target.write_bytes(data)
    bundle = Access.read(home / "data" / "admin")
    with futures.ThreadPoolExecutor(1) as pool:
        bare, port = _bare_server(home, data, pool)
        through = {
            "ours": artifacts_pb2_grpc.ArtifactsStub(_channel(bundle, f"127.0.0.1:{ready['port']}")),
            "bare": artifacts_pb2_grpc.ArtifactsStub(_channel(bundle, f"127.0.0.1:{port}")),
        }
        speeds: dict[str, list[float]] = {"ours": [], "bare": [], "small": []}
        for _ in range(5):
            for name, chunk_bytes in (("ours", CHUNK_BYTES), ("bare", CHUNK_BYTES), ("small", 0)):
                request = artifacts_pb2.FetchRequest(path=path, chunk_bytes=chunk_bytes)
                began = time.monotonic()
                stub = through["bare" if name == "bare" else "ours"]
                size = sum(len(chunk.data) for chunk in stub.Fetch(request, timeout=60))
                speeds[name].append(size / (time.monotonic() - began) / 1e6)
        bare.stop(0)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "fetch_mb_per_s": medians["ours"],
        "fetch_against_bare": medians["ours"] / medians["bare"],
        "fetch_small_chunks_mb_per_s": medians["small"],
    }


class _Bare(artifacts_pb2_grpc.ArtifactsServicer):
    """Bytes from memory, nothing else: what gRPC itself can do in Python."""

    def __init__(self, data: bytes) -> None:
        self._chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]

    async def Fetch(self, request: Any, context: Any) -> Any:
        for chunk in self._chunks:
            yield artifacts_pb2.Chunk(data=chunk)


def _bare_server(home: Path, data: bytes, pool: futures.Executor) -> tuple[Any, int]:
    pki = home / "data" / "pki"
    pair = ((pki / "server-key.pem").read_bytes(), (pki / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes(), require_client_auth=True)
    started: futures.Future[Any] = futures.Future()

    async def serve() -> None:
        server = grpc.aio.server()
        artifacts_pb2_grpc.add_ArtifactsServicer_to_server(_Bare(data), server)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        started.set_result((port, lambda _grace: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        await server.stop(0)

    pool.submit(asyncio.run, serve())
    port, stop = started.result(10)
    return type("Running", (), {"stop": staticmethod(stop)}), port


def _telemetry(url: str, port: int, rate: float, seconds: float) -> Figures:
    """Publish at a steady rate; how much arrives in the database, and how soon after the last message."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    count, began = round(rate * seconds), time.monotonic()
    quantiles = Quantiles(p50=1, p95=2, p99=3, max=4, n=100)
    for number in range(count):
        payload = TelemetryPayload(
            session="bench", ts=1.0 + number, interval_s=60, uptime_s=1, model_digest="sha256:" + "0" * 64,
            stages={"infer": quantiles, "end_to_end": quantiles},
            sources={"cam": SourceTelemetry(fps=30, frames=1800, dropped=0, gated=0, queue=0)},
            outbox_events=0, outbox_bytes=0, rss_bytes=1, cpu_share=0.1,
        )  # fmt: skip
        client.publish(Topics(f"bench-{number % 1000}").telemetry, encode(payload))
        if (ahead := began + number / rate - time.monotonic()) > 0.01:
            time.sleep(ahead)
    sent_s = time.monotonic() - began
    database, stored, end = Database(url), 0, time.monotonic() + 30.0
    while stored < count and time.monotonic() < end:
        stored = database.read_now(lambda session: session.scalar(select(func.count()).select_from(Sample))) or 0
        time.sleep(0.05)
    behind_s = time.monotonic() - began - sent_s
    client.loop_stop()
    database.close()
    return {"telemetry_per_s": count / sent_s, "telemetry_lost": float(count - stored), "telemetry_behind_s": behind_s}


def _identities(home: Path, url: str, count: int) -> list[tuple[str, bytes, bytes, bytes]]:
    """Enrol by hand: the wire part of enrolment is not what is measured here."""
    now = time.time()
    authority = Authority.open(home / "data" / "pki", now)
    identities = []
    database = Database(url)

    def work(session: Any) -> None:
        for number in range(count):
            identity = Identity("device", f"bench-{number}")
            bundle, issued = authority.issue_bundle(identity, now, 1.0)
            devices.enrol(session, Spent(identity.name, [APPLICATION], False), now)
            access.add_certificate(session, identity, issued)
            identities.append((identity.name, authority.pem, bundle.certificate_pem, bundle.key_pem))

    database.write_now(work)
    database.close()
    return identities


def _serve(home: Path) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", "serve", "--json"]
    arguments = ["--data", str(home / "data"), "--config", str(home / "serve.toml"), "--port", "0"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen([*command, *arguments, "--enroll-port", "0"], stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit((home / "log").read_text())
    return process, json.loads(line)


def _broker(home: Path) -> tuple[subprocess.Popen[bytes] | None, int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    if program is None:
        return None, port
    (home / "broker.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    return subprocess.Popen([program, "-c", str(home / "broker.conf")], stderr=subprocess.DEVNULL), port


def _channel(bundle: Access, address: str) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(bundle.ca_pem, bundle.key_pem, bundle.certificate_pem)
    return grpc.secure_channel(address, credentials)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(20)


if __name__ == "__main__":
    main()
