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
from engines import Mosquitto, Postgres
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
    """Run, print tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1250,2500,5000", help="how many on streams; one run each; empty = none")
    parser.add_argument("--processes", type=int, default=4, help="that play the devices")
    parser.add_argument("--ramp", type=float, default=80.0, help="new connections a second, at most")
    parser.add_argument(
        "--telemetry", default="sqlite:1000,postgres:2000", help="database:messages a second; empty = none"
    )
    parser.add_argument("--telemetry-s", type=float, default=30.0)
    parser.add_argument("--artefacts", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--postgres", action="store_true", help="streams on PostgreSQL instead of SQLite")
    parser.add_argument("--keep", type=Path, help="JSON file that figures are added to, and a plot beside it")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "devices_played": "on the same machine"}
    found: dict[str, Any] = {"machine": machine, "streams": [], "telemetry": []}
    for count in filter(None, given.devices.split(",")):
        figures = run_streams(int(count), given)
        found["streams"].append(figures | {"database": "postgres" if given.postgres else "sqlite"})
        sys.stderr.write(f"{json.dumps(found['streams'][-1])}\n")
    if given.artefacts:
        with Place(None) as place:
            found["artefacts"] = _artefacts(place.home, place.ready)
    for wanted in filter(None, given.telemetry.split(",")):
        database, _, rate = wanted.partition(":")
        found["telemetry"].append(run_telemetry(database, float(rate), given.telemetry_s))
        sys.stderr.write(f"{json.dumps(found['telemetry'][-1])}\n")
    for title, rows in (("streams", found["streams"]), ("telemetry", found["telemetry"])):
        for name in rows[0] if rows else ():
            cells = (row[name] for row in rows)
            shown = (f"{cell:>12.4g}" if isinstance(cell, float) else f"{cell:>12}" for cell in cells)
            sys.stdout.write(f"{title} {name:<28}" + "".join(shown) + "\n")
    for name, value in found.get("artefacts", {}).items():
        sys.stdout.write(f"artefacts {name:<28}{value:>12.4g}\n")
    sys.stdout.write(json.dumps(found) + "\n")
    if given.keep:
        _keep(given.keep, found)


class Place:
    """A service in a temporary directory, on SQLite or a PostgreSQL of its own, with a broker where one is wanted."""

    def __init__(self, database: str | None, *, broker: bool = False, devices: int = 0) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="bench-fleet-"))
        self._postgres = Postgres() if database == "postgres" else None
        self._broker = Mosquitto() if broker else None
        self.url = self._postgres.make() if self._postgres else f"sqlite:///{self.home}/data/fleet.db"
        self.broker_port = self._broker.port if self._broker else 0
        config = f'[storage]\ndatabase = "{self.url}"\n' if self._postgres else ""
        config += f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker_port}\n' if broker else ""
        (self.home / "serve.toml").write_text(config)
        _stop(_serve(self.home)[0])
        self.identities = _identities(self.home, self.url, devices)
        self.server, self.ready = _serve(self.home)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self.server)
        if self._broker:
            self._broker.remove()
        if self._postgres:
            self._postgres.remove()
        shutil.rmtree(self.home, ignore_errors=True)


def run_streams(count: int, given: argparse.Namespace) -> Figures:
    """Measure with so many devices."""
    with Place("postgres" if given.postgres else None, devices=count) as place:
        return {"devices": float(count)} | _streams(place.home, place.server, place.ready, place.identities, given)


def run_telemetry(database: str, rate: float, seconds: float) -> dict[str, Any]:
    """Measure what comes from the broker into a database."""
    with Place(database, broker=True) as place:
        return {"database": database} | _telemetry(place, rate, seconds)


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Replace what was measured anew, and draw how it grows."""
    kept = json.loads(path.read_text()) if path.exists() else {"streams": [], "telemetry": []}
    streams = {(row["database"], row["devices"]): row for row in kept["streams"] + found["streams"]}
    telemetry = {(row["database"], row["offered_per_s"]): row for row in kept["telemetry"] + found["telemetry"]}
    kept |= {key: found[key] for key in ("machine", "artefacts") if key in found}
    kept |= {
        "streams": [streams[key] for key in sorted(streams)],
        "telemetry": [telemetry[key] for key in sorted(telemetry)],
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")
    rows = [row for row in kept["streams"] if row["database"] == "sqlite"]
    if rows:
        _plot(path.with_suffix(".svg"), rows)


def _plot(path: Path, rows: list[Figures]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench-fleet"
    from matplotlib import pyplot

    shown = (
        ("kib_per_device", "memory of the service\nper device, KiB"),
        ("directive_p95_s", "95% of directives\nreceived after, s"),
        ("connect_s", "until all are connected, s"),
        ("idle_cpu_share", "CPU while nothing\nhappens, cores"),
    )
    figure, axes = pyplot.subplots(1, len(shown), figsize=(11, 2.6), layout="constrained")
    for axis, (name, title) in zip(axes, shown, strict=True):
        axis.plot([row["devices"] for row in rows], [row[name] for row in rows], "o-", color="#2266aa")
        axis.set(title=title, xlabel="devices", ylim=(0, None), xlim=(0, None))
        axis.title.set_fontsize(9)
    figure.savefig(path, metadata={"Date": None})


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
    began, spent = time.monotonic(), sum(process.cpu_times()[:2])
    connected = sum(pipe.recv() for pipe in pipes)
    connect_s = time.monotonic() - began
    connect_cpu_s = sum(process.cpu_times()[:2]) - spent
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
        "connect_s": connect_s,
        "connections_per_s": connected / connect_s,
        "connect_cpu_ms": 1e3 * connect_cpu_s / connected,
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
        runs = [fleet_pb2.InstalledModel(application=APPLICATION, version=1, digest="sha256:" + "0" * 64)]
        hello = fleet_pb2.Hello(applications=[APPLICATION], session="bench", models=runs)
        await stream.write(fleet_pb2.DeviceMessage(hello=hello))
        beats = None
        while (message := await stream.read()) is not grpc.aio.EOF:
            if message.HasField("welcome"):
                connected.append(name)
                beats = asyncio.create_task(_beat(stream, message.welcome.heartbeat_s, runs))
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
                runs[0] = fleet_pb2.InstalledModel(
                    application=wanted.application, version=wanted.version, digest=wanted.digest
                )
        if beats is not None:
            beats.cancel()


async def _beat(stream: Any, every_s: float, runs: list[fleet_pb2.InstalledModel]) -> None:
    """Say now and then what runs, as a board does."""
    while True:
        await asyncio.sleep(every_s)
        await stream.write(fleet_pb2.DeviceMessage(heartbeat=fleet_pb2.Heartbeat(models=runs)))


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


def _telemetry(place: Place, rate: float, seconds: float) -> dict[str, Any]:
    """Publish at a steady rate from a process of its own; how much is stored while it does, and how soon after."""
    context = multiprocessing.get_context("spawn")
    count, published = round(rate * seconds), context.Event()
    context.Process(target=_publish, args=(place.broker_port, count, rate, published), daemon=True).start()
    database, server = Database(place.url), psutil.Process(place.server.pid)
    counted = select(func.count()).select_from(Sample)
    stored, end, sent_s = 0, time.monotonic() + seconds + 90.0, 0.0
    while not (stored := database.read_now(lambda session: session.scalar(counted)) or 0):
        time.sleep(0.01)
    began, first, spent = time.monotonic(), stored, sum(server.cpu_times()[:2])
    while stored < count and time.monotonic() < end:
        time.sleep(0.1)
        stored = database.read_now(lambda session: session.scalar(counted)) or 0
        if not sent_s and published.is_set():
            sent_s = time.monotonic() - began
    took = time.monotonic() - began
    database.close()
    return {
        "offered_per_s": rate,
        "sent_per_s": count / (sent_s or took),
        "messages": float(count),
        "stored_per_s": (stored - first) / took,
        "behind_s": took - (sent_s or took),
        "lost": float(count - stored),
        "service_cpu_share": (sum(server.cpu_times()[:2]) - spent) / took,
    }


def _publish(port: int, count: int, rate: float, published: Any) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    quantiles = Quantiles(p50=1, p95=2, p99=3, max=4, n=100)
    payload = TelemetryPayload(
        session="bench", ts=1.0, interval_s=60, uptime_s=1, model_digest="sha256:" + "0" * 64,
        stages={"infer": quantiles, "end_to_end": quantiles},
        sources={"cam": SourceTelemetry(fps=30, frames=1800, dropped=0, gated=0, queue=0)},
        outbox_events=0, outbox_bytes=0, rss_bytes=1, cpu_share=0.1,
    )  # fmt: skip
    encoded, topics = encode(payload), [Topics(f"bench-{number}").telemetry for number in range(1000)]
    began = time.monotonic()
    for number in range(count):
        client.publish(topics[number % len(topics)], encoded)
        if (ahead := began + number / rate - time.monotonic()) > 0.01:
            time.sleep(ahead)
    published.set()
    time.sleep(5.0)
    client.disconnect()


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


def _channel(bundle: Access, address: str) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(bundle.ca_pem, bundle.key_pem, bundle.certificate_pem)
    return grpc.secure_channel(address, credentials)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(20)


if __name__ == "__main__":
    main()
