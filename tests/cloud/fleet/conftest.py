"""A real service in its own process with real TLS, and a device that speaks to it."""

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from distillnet.cloud.fleet import schema
from distillnet.cloud.fleet.client import Access, upload
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.pki import key_pem, request_for
from distillnet.proto.identity import EnrollmentToken
from distillnet.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifacts_pb2,
    artifacts_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
)

TIMEOUT_S = 15.0


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_tiny, _engines = _beside("tiny_student"), _beside("engines")


@pytest.fixture(scope="session")
def tiny_student():
    """The function that builds a small real student."""
    return _tiny.tiny_student


class Server:
    """`distillnet serve` as a process."""

    def __init__(self, data: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", "serve"]
        self.data = data
        self.process = subprocess.Popen(
            [*command, "--data", str(data), "--port", "0", "--enroll-port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=(data.parent / f"{data.name}.log").open("ab"),
        )
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            raise RuntimeError((data.parent / f"{data.name}.log").read_text())
        self.ready = json.loads(line)
        self.access = Access.read(data / "admin")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ready['port']}"

    @property
    def enroll_address(self) -> str:
        return f"127.0.0.1:{self.ready['enroll_port']}"

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)

    def channel(self, access: Access | None = None) -> grpc.Channel:
        access = access or self.access
        credentials = grpc.ssl_channel_credentials(access.ca_pem, access.key_pem, access.certificate_pem)
        return grpc.secure_channel(self.address, credentials)

    def admin(self) -> "admin_pb2_grpc.AdminStub":
        return admin_pb2_grpc.AdminStub(self.channel())

    def token(self, **wanted: Any) -> str:
        return self.admin().CreateToken(admin_pb2.CreateTokenRequest(**wanted), timeout=TIMEOUT_S).token

    def publish(self, data: bytes, application: str = "pets", *, hold: bool = False) -> Any:
        return self.admin().Publish(upload(application, data, hold=hold), timeout=TIMEOUT_S)

    def devices(self) -> dict[str, Any]:
        listed = self.admin().ListDevices(admin_pb2.ListDevicesRequest(), timeout=TIMEOUT_S).devices
        return {device.device: device for device in listed}


def pinned_ca(address: str, token: str) -> bytes:
    """The CA certificate (PEM) of the server's chain whose digest is in the token: what a board does first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as raw, context.wrap_socket(raw) as tls:
        if hasattr(tls, "get_unverified_chain"):
            chain = list(tls.get_unverified_chain())
        else:
            import _ssl

            chain = [link.public_bytes(_ssl.ENCODING_DER) for link in tls._sslobj.get_unverified_chain()]
    wanted = EnrollmentToken.decode(token).ca_sha256
    der = next(link for link in chain if hashlib.sha256(link).digest() == wanted)
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def enrol(server: Server, token: str, device: str = "", csr: bytes | None = None, board: str = "x86-64") -> "Board":
    """Enrol as a board does, the CA pinned by the token."""
    key = ec.generate_private_key(ec.SECP256R1())
    ca_pem = pinned_ca(server.enroll_address, token)
    with grpc.secure_channel(server.enroll_address, grpc.ssl_channel_credentials(ca_pem)) as channel:
        response = enrollment_pb2_grpc.EnrollmentStub(channel).Enroll(
            enrollment_pb2.EnrollRequest(
                token=token,
                csr_pem=csr or request_for(key),
                device=device,
                capabilities=enrollment_pb2.Capabilities(board=board, machine="x86_64", runtime="0.1.0"),
            ),
            timeout=TIMEOUT_S,
        )
    access = Access(response.fleet_address, response.ca_pem, response.certificate_pem, key_pem(key))
    return Board(server, response.device, access, response.tuf_root)


@dataclass
class Board:
    """An enrolled device."""

    server: Server
    device: str
    access: Access
    tuf_root: bytes

    def channel(self) -> grpc.Channel:
        return self.server.channel(self.access)

    @contextlib.contextmanager
    def connect(self, *applications: str, models: tuple = ()) -> Iterator["Stream"]:
        with self.channel() as channel:
            stream = Stream(channel, applications, models)
            try:
                yield stream
            finally:
                stream.close()

    def fetch(self, path: str, offset: int = 0, length: int = 0) -> tuple[bytes, list[artifacts_pb2.Chunk]]:
        with self.channel() as channel:
            request = artifacts_pb2.FetchRequest(path=path, offset=offset, length=length)
            chunks = list(artifacts_pb2_grpc.ArtifactsStub(channel).Fetch(request, timeout=TIMEOUT_S))
        return b"".join(chunk.data for chunk in chunks), chunks


class Stream:
    """One `Fleet.Connect` stream, read in a thread so that every wait has a limit."""

    def __init__(self, channel: grpc.Channel, applications: tuple[str, ...], models: tuple) -> None:
        self._up: queue.Queue[fleet_pb2.DeviceMessage | None] = queue.Queue()
        self._down: queue.Queue[Any] = queue.Queue()
        hello = fleet_pb2.Hello(session="s", applications=applications, models=models)
        self.send(hello=hello)
        self._call = fleet_pb2_grpc.FleetStub(channel).Connect(iter(self._up.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        self.welcome = self.receive().welcome

    def _read(self) -> None:
        try:
            for message in self._call:
                self._down.put(message)
            self._down.put(None)
        except grpc.RpcError as exc:
            self._down.put(exc)

    def send(self, **message: Any) -> None:
        self._up.put(fleet_pb2.DeviceMessage(**message))

    def receive(self, timeout_s: float = TIMEOUT_S) -> fleet_pb2.CloudMessage | None:
        message = self._down.get(timeout=timeout_s)
        if isinstance(message, Exception):
            raise message
        return message

    def report(self, directive: fleet_pb2.Directive, phase: int, reason: str = "", **update: Any) -> None:
        wanted = directive.update
        told = {"application": wanted.application, "version": wanted.version, "digest": wanted.digest} | update
        report = fleet_pb2.UpdateReport(directive_id=directive.id, phase=phase, reason=reason, **told)
        self.send(report=report)

    def close(self) -> None:
        self._up.put(None)
        self._call.cancel()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for a module's tests; each uses its own device and application names."""
    running = Server(tmp_path_factory.mktemp("fleet") / "data")
    yield running
    running.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Start services of one's own: `serve()` again is the same data directory."""
    started: list[Server] = []

    def start(*arguments: str, name: str = "data") -> Server:
        started.append(Server(tmp_path / name, *arguments))
        return started[-1]

    yield start
    for running in started:
        running.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def board():
    """The function that enrols a board."""
    return enrol


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[Any]:
    """A function that makes an empty database in a PostgreSQL of our own, and returns its URL."""
    if _engines.Postgres.missing() or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or psycopg is not installed: would have shown the same on PostgreSQL as on SQLite")
    postgres = _engines.Postgres(fsync=False)
    yield postgres.make
    postgres.remove()


@pytest.fixture
def mosquitto() -> Iterator[Any]:
    """A broker of our own."""
    if _engines.Mosquitto.program() is None:
        pytest.skip("Mosquitto is not installed: would have shown events and telemetry reach the service")
    broker = _engines.Mosquitto()
    yield broker
    broker.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty database: SQLite (in memory where it can be: it syncs every commit), and PostgreSQL."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    url = f"sqlite:///{home / 'fleet.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")()
    opened = Database(url)
    schema.migrate(opened.engine)
    yield opened
    opened.close()
    shutil.rmtree(home, ignore_errors=True)
