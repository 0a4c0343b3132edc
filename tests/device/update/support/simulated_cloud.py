"""A small cloud for the board's tests: a CA, a TUF repository in memory, and real gRPC servers with TLS on loopback.

As python-tuf's repository simulator does, it lets a test be the attacker: keys, metadata and bytes can be anything.
"""

import copy
import datetime
import hashlib
import ipaddress
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from distillnet.proto.identity import EnrollmentToken
from distillnet.proto.v1 import (
    artifacts_pb2,
    artifacts_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
)

DAY = datetime.timedelta(days=1)
Chunks = Iterator[artifacts_pb2.Chunk]


def utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Authority:
    """An EC CA that signs for servers and devices."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulated CA")])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc() - DAY)
            .not_valid_after(utc() + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, public_key, *, names: list[x509.GeneralName], start=None, end=None) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start or utc() - DAY)
            .not_valid_after(end or utc() + 10 * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def device(self, public_key, name: str, start=None, end=None) -> bytes:
        uri = x509.UniformResourceIdentifier(f"distillnet://device/{name}")
        return self.sign(public_key, names=[uri], start=start, end=end)

    def server(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem, self.sign(key.public_key(), names=names) + self.pem


class Repository:
    """TUF in memory. `metadata` maps the served name to bytes; rewrite anything, then call what is needed."""

    def __init__(self) -> None:
        self.signers = {role: [CryptoSigner.generate_ecdsa()] for role in ("root", "targets", "snapshot", "timestamp")}
        self.files: dict[str, bytes] = {}
        self.root = Root(expires=utc() + 30 * DAY, consistent_snapshot=True)
        for role, signers in self.signers.items():
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.targets = Targets(expires=utc() + 30 * DAY)
        self.snapshot = Snapshot(expires=utc() + 30 * DAY)
        self.timestamp = Timestamp(expires=utc() + 30 * DAY)
        self.write_root()
        self.write_all(advance=False)

    def sign(self, role: str, signed) -> bytes:
        metadata = Metadata(copy.deepcopy(signed))
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def write_root(self, extra_signers: tuple = ()) -> None:
        metadata = Metadata(copy.deepcopy(self.root))
        for signer in [*self.signers["root"], *extra_signers]:
            metadata.sign(signer, append=True)
        self.files[f"metadata/{self.root.version}.root.json"] = metadata.to_bytes()

    def rotate(self, role: str, *, keep: bool = False) -> CryptoSigner:
        """Replace a role's key and publish the new root; returns the old key."""
        old, fresh = self.signers[role][0], CryptoSigner.generate_ecdsa()
        if not keep:
            self.root.revoke_key(old.public_key.keyid, role)
        self.root.add_key(fresh.public_key, role)
        self.signers[role] = [fresh]
        self.root.version += 1
        self.write_root((old,) if role == "root" else ())
        return old

    def add(self, version: int, data: bytes, application: str = "pets", *, path: str = "", **custom) -> str:
        path = path or f"{application}/{version}/student.tflite"
        target = TargetFile.from_data(path, data, ["sha256"])
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        target.unrecognized_fields["custom"] = {
            "application": application,
            "version": version,
            "digest": digest,
            "boards": [],
            "minimum_runtime": "0.1.0",
            **custom,
        }
        self.targets.targets[path] = target
        directory, _, name = path.rpartition("/")
        self.files[f"targets/{directory}/{target.hashes['sha256']}.{name}"] = data
        return path

    def write_targets(self) -> None:
        self.files[f"metadata/{self.targets.version}.targets.json"] = self.sign("targets", self.targets)

    def write_snapshot(self) -> None:
        self.snapshot.meta["targets.json"] = MetaFile(version=self.targets.version)
        self.files[f"metadata/{self.snapshot.version}.snapshot.json"] = self.sign("snapshot", self.snapshot)

    def write_timestamp(self) -> None:
        self.timestamp.snapshot_meta = MetaFile(version=self.snapshot.version)
        self.files["metadata/timestamp.json"] = self.sign("timestamp", self.timestamp)

    def write_all(self, *, advance: bool = True) -> None:
        if advance:
            for signed in (self.targets, self.snapshot, self.timestamp):
                signed.version += 1
        self.write_targets()
        self.write_snapshot()
        self.write_timestamp()

    def forget_old(self) -> None:
        """Keep what is asked for now: the newest metadata and students."""
        newest = list(self.targets.targets)[-2:]
        self.targets.targets = {path: self.targets.targets[path] for path in newest}
        kept = {f"metadata/{role.version}.{role.type}.json" for role in (self.root, self.targets, self.snapshot)}
        kept |= {"metadata/timestamp.json"}
        applied = {target.hashes["sha256"] for target in self.targets.targets.values()}
        for name in list(self.files):
            if name not in kept and not any(digest in name for digest in applied):
                del self.files[name]


@dataclass
class Served:
    """What the cloud counted."""

    bytes: int = 0
    fetches: int = 0
    reports: list = field(default_factory=list)
    hellos: list = field(default_factory=list)
    heartbeats: int = 0
    acks: list = field(default_factory=list)
    renewals: int = 0


class SimulatedCloud:
    """Start it, enrol devices, publish, direct, attack. Context manager."""

    def __init__(self, *, heartbeat_s: float = 5.0) -> None:
        self.authority, self.repository = Authority(), Repository()
        self.served = Served()
        self.heartbeat_s = heartbeat_s
        self.clock: Callable[[], float] = time.time
        self.chunk_bytes = 16 << 10
        self.fetch_hook: Callable[[artifacts_pb2.FetchRequest, Chunks], Chunks] | None = None
        self.busy: Callable[[artifacts_pb2.FetchRequest], float | None] = lambda request: None
        """Seconds to ask for instead of serving; 0 = be busy and do not say for how long."""
        self.revoked: set[str] = set()
        self.retry_after: float | None = None
        self.open_directives: dict[str, fleet_pb2.Directive] = {}
        self.certificate_life = 10 * DAY
        self._secrets: dict[bytes, bytes | None] = {}
        self._streams: dict[str, queue.Queue] = {}
        self._lock = threading.Condition()
        self._serial = 0
        self.mute = False
        self.muted_calls = 0
        self.closing = threading.Event()
        self.undo: Callable[[], object] = lambda: None

    def forget_old(self) -> None:
        """Drop what is over, so that a long run in one process keeps no history."""
        self.repository.forget_old()
        with self._lock:
            for told in (self.served.reports, self.served.acks, self.served.hellos):
                told.clear()

    def __enter__(self) -> "SimulatedCloud":
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._enrollment = grpc.server(futures.ThreadPoolExecutor(4))
        fleet_pb2_grpc.add_FleetServicer_to_server(_Fleet(self), self._server)
        artifacts_pb2_grpc.add_ArtifactsServicer_to_server(_Artifacts(self), self._server)
        enrollment_pb2_grpc.add_RenewalServicer_to_server(_Renewal(self), self._server)
        enrollment_pb2_grpc.add_EnrollmentServicer_to_server(_Enrollment(self), self._enrollment)
        pair = self.authority.server()
        mutual = grpc.ssl_server_credentials([pair], root_certificates=self.authority.pem, require_client_auth=True)
        self.port = self._server.add_secure_port("127.0.0.1:0", mutual)
        self.enroll_port = self._enrollment.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self._server.start()
        self._enrollment.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with self._lock:
            for stream in self._streams.values():
                stream.put(None)
        self._server.stop(0.2).wait(2)
        self._enrollment.stop(0.2).wait(2)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def enroll_address(self) -> str:
        return f"127.0.0.1:{self.enroll_port}"

    def token(self) -> str:
        der = self.authority.certificate.public_bytes(serialization.Encoding.DER)
        token = EnrollmentToken(ca_sha256=hashlib.sha256(der).digest(), secret=os.urandom(24))
        self._secrets[token.secret] = None
        return token.encode()

    def publish(self, version: int, data: bytes, application: str = "pets", **custom) -> fleet_pb2.Directive:
        """Sign a student in; returns the directive that announces it, not sent."""
        path = self.repository.add(version, data, application, **custom)
        self.repository.write_all()
        return self.directive(version, data, application, path)

    def directive(self, version: int, data: bytes, application: str = "pets", path: str = "") -> fleet_pb2.Directive:
        self._serial += 1
        return fleet_pb2.Directive(
            id=f"d{self._serial}",
            update=fleet_pb2.Update(
                application=application,
                version=version,
                target_path=path or f"{application}/{version}/student.tflite",
                digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
                size_bytes=len(data),
            ),
        )

    def rollback(self, application: str = "pets", version: int = 0) -> fleet_pb2.Directive:
        self._serial += 1
        return fleet_pb2.Directive(
            id=f"d{self._serial}",
            rollback=fleet_pb2.Rollback(application=application, version=version, reason="test"),
        )

    def send(self, device: str, directive: fleet_pb2.Directive) -> None:
        with self._lock:
            self.open_directives[device] = directive
            if device in self._streams:
                self._streams[device].put(fleet_pb2.CloudMessage(directive=directive))

    def wait_connected(self, device: str, timeout_s: float = 10.0) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: device in self._streams, timeout_s), f"{device} did not connect"

    def drop_stream(self, device: str) -> None:
        with self._lock:
            stream = self._streams.get(device)
        if stream is not None:
            stream.put(None)

    def wait_outcome(self, directive: fleet_pb2.Directive, timeout_s: float = 20.0) -> fleet_pb2.UpdateReport:
        """The final report of a directive."""
        ends = (
            fleet_pb2.UPDATE_PHASE_COMMITTED,
            fleet_pb2.UPDATE_PHASE_ROLLED_BACK,
            fleet_pb2.UPDATE_PHASE_REFUSED,
        )

        def found():
            mine = [r for r in self.served.reports if r.directive_id == directive.id and r.phase in ends]
            return mine[-1] if mine else None

        with self._lock:
            assert self._lock.wait_for(found, timeout_s), f"no outcome of {directive.id}: {self.served.reports[-3:]}"
            return found()

    def note(self, change: Callable[[Served], None]) -> None:
        with self._lock:
            change(self.served)
            self._lock.notify_all()


def _device_of(context) -> str:
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return next(name.decode().removeprefix("distillnet://device/") for name in names if b"distillnet://" in name)


class _Enrollment(enrollment_pb2_grpc.EnrollmentServicer):
    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud

    def Enroll(self, request, context):
        cloud = self.cloud
        secret = EnrollmentToken.decode(request.token).secret
        key = x509.load_pem_x509_csr(request.csr_pem).public_key()
        form = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if secret not in cloud._secrets or cloud._secrets[secret] not in (None, form):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not valid, or was used")
        cloud._secrets[secret] = form
        device = request.device or "board"
        newest = cloud.repository.root.version
        return enrollment_pb2.EnrollResponse(
            device=device,
            certificate_pem=cloud.authority.device(key, device, end=utc() + cloud.certificate_life),
            ca_pem=cloud.authority.pem,
            tuf_root=cloud.repository.files[f"metadata/{newest}.root.json"],
            fleet_address=cloud.address,
        )


class _Renewal(enrollment_pb2_grpc.RenewalServicer):
    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud

    def Renew(self, request, context):
        key = x509.load_pem_x509_csr(request.csr_pem).public_key()
        self.cloud.note(lambda served: setattr(served, "renewals", served.renewals + 1))
        pem = self.cloud.authority.device(key, _device_of(context), end=utc() + self.cloud.certificate_life)
        return enrollment_pb2.RenewResponse(certificate_pem=pem, ca_pem=self.cloud.authority.pem)


class _Artifacts(artifacts_pb2_grpc.ArtifactsServicer):
    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud

    def Fetch(self, request, context):
        cloud = self.cloud
        if _device_of(context) in cloud.revoked:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "revoked")
        cloud.note(lambda served: setattr(served, "fetches", served.fetches + 1))
        busy_s = cloud.busy(request)
        if busy_s is not None:
            if busy_s:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", f"{busy_s * 1e3:.0f}"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        chunks = self._chunks(request, context)
        for chunk in cloud.fetch_hook(request, chunks) if cloud.fetch_hook else chunks:
            cloud.note(lambda served, n=len(chunk.data): setattr(served, "bytes", served.bytes + n))
            yield chunk

    def _chunks(self, request, context):
        data = self.cloud.repository.files.get(request.path)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, request.path)
        end = min(len(data), request.offset + request.length) if request.length else len(data)
        if end == request.offset:
            yield artifacts_pb2.Chunk(offset=end, total_size=len(data))
        size = request.chunk_bytes or self.cloud.chunk_bytes
        for at in range(request.offset, end, size):
            part = data[at : min(end, at + size)]
            yield artifacts_pb2.Chunk(offset=at, data=part, total_size=len(data))


class _Fleet(fleet_pb2_grpc.FleetServicer):
    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud

    def Connect(self, request_iterator, context):
        cloud, device = self.cloud, _device_of(context)
        if device in cloud.revoked:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "revoked")
        hello = next(request_iterator).hello
        if cloud.mute:
            cloud.muted_calls += 1
            while context.is_active():
                cloud.closing.wait(0.02)
            return
        down: queue.Queue = queue.Queue()
        welcome = fleet_pb2.Welcome(device=device, heartbeat_s=cloud.heartbeat_s, ts=cloud.clock())
        down.put(fleet_pb2.CloudMessage(welcome=welcome))
        if cloud.retry_after is not None:
            wish = fleet_pb2.RetryAfter(seconds=cloud.retry_after, reason="busy")
            down.put(fleet_pb2.CloudMessage(retry_after=wish))
            down.put(None)
        with cloud._lock:
            if device in cloud.open_directives:
                down.put(fleet_pb2.CloudMessage(directive=cloud.open_directives[device]))
            cloud._streams[device] = down
            cloud.served.hellos.append((time.monotonic(), hello))
            cloud._lock.notify_all()
        threading.Thread(target=self._listen, args=(request_iterator, down, device), daemon=True).start()
        while (message := down.get()) is not None:
            yield message

    def _listen(self, messages, down, device) -> None:
        try:
            for message in messages:
                kind = message.WhichOneof("message")
                if kind == "report":
                    self.cloud.note(lambda served, m=message: served.reports.append(m.report))
                elif kind == "ack":
                    self.cloud.note(lambda served, m=message: served.acks.append(m.ack.directive_id))
                elif kind == "heartbeat":
                    self.cloud.note(lambda served: setattr(served, "heartbeats", served.heartbeats + 1))
        except Exception:  # the stream broke; what matters is that it ended
            pass
        with self.cloud._lock:
            if self.cloud._streams.get(device) is down:
                del self.cloud._streams[device]
        down.put(None)
