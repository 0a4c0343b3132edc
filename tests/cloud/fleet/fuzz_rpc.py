"""Fuzzes the gRPC surface of a real `distillnet serve`, from bytes on the wire to well-formed nonsense.

    python tests/cloud/fleet/fuzz_rpc.py [--seconds 300] [--seed 1] [--json]

Callers are an admin, a board, and nobody (the enrolment port). Afterwards the service must still be the same process,
answer an honest caller, have logged no failure of its own, and hold as many tasks, threads and descriptors and as much
heap as before. Resident memory is shown and not judged: it is what the allocator keeps.
`make test-updates ARGS="--only rpc"` runs it.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from wild_messages import mangled, wild

from distillnet.cloud.fleet.client import Access
from distillnet.cloud.fleet.pki import key_pem, request_for
from distillnet.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifacts_pb2,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2,
    fleet_pb2,
)

MODULES = (admin_pb2, artifacts_pb2, enrollment_pb2, feedback_pb2, fleet_pb2)
OTHERS = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/distillnet.v1.Fleet/Nothing", "/x/y", "/")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
THREADS = 6
RESETS = 200
HEAP_SLACK_MB = 6.0
GRPC_LOSS_MB = 200e-6
"""grpcio 1.85 itself loses 100–180 bytes of heap for each call that is reset before its status is sent: measured on an
empty `grpc.aio` server. That much for each is not held against the service."""
BLOCKS_SHARE = 0.03
POOL_SLACK = 4
"""gRPC's and asyncio's thread pools grow to a limit as they are first needed."""
CONNECTION_SLACK = 10
"""SQLAlchemy keeps up to five connections to SQLite, two descriptors each, and opens them as callers first coincide."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Method:
    """One remote procedure, as its descriptor says."""

    path: str
    request: type[Message]
    streams_up: bool


def methods() -> list[Method]:
    found = []
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                found.append(Method(path, method.input_type._concrete_class, method.client_streaming))
    return found


# A real service, watched from outside


class Service:
    """The service under test: its process, what it holds, and honest callers of it."""

    def __init__(self, directory: Path) -> None:
        self.data, self._census, self._log = directory / "data", directory / "census.json", directory / "log"
        launcher = [sys.executable, str(Path(__file__).with_name("counted_server.py")), str(self._census)]
        ports = ["--port", "0", "--enroll-port", "0", "--json"]
        self.process = subprocess.Popen(
            [*launcher, "serve", "--data", str(self.data), *ports],
            stdout=subprocess.PIPE,
            stderr=self._log.open("wb"),
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self._log.read_text())
        self.ready = json.loads(line)
        self.admin = Access.read(self.data / "admin")
        self.board = self.enrol("fuzzed")
        self.witness = self.enrol("witness")

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    @property
    def enroll_port(self) -> int:
        return int(self.ready["enroll_port"])

    def enrol(self, device: str) -> Access:
        key = ec.generate_private_key(ec.SECP256R1())
        with self.channel(self.admin) as channel:
            wanted = admin_pb2.CreateTokenRequest(device=device, ttl_s=3600)
            token = admin_pb2_grpc.AdminStub(channel).CreateToken(wanted, timeout=10).token
        with self.channel(None) as channel:
            request = enrollment_pb2.EnrollRequest(token=token, csr_pem=request_for(key), device=device)
            answer = enrollment_pb2_grpc.EnrollmentStub(channel).Enroll(request, timeout=10)
        return Access(f"127.0.0.1:{self.port}", answer.ca_pem, answer.certificate_pem, key_pem(key))

    def channel(self, access: Access | None) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        if access is None:
            credentials = grpc.ssl_channel_credentials(self.admin.ca_pem)
            return grpc.secure_channel(f"127.0.0.1:{self.enroll_port}", credentials, options)
        credentials = grpc.ssl_channel_credentials(access.ca_pem, access.key_pem, access.certificate_pem)
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)

    def answers(self) -> bool:
        """Whether an honest board is welcomed and an honest admin answered."""
        with self.channel(self.witness) as channel, self.channel(self.admin) as admin:
            hello = fleet_pb2.DeviceMessage(hello=fleet_pb2.Hello(session="witness"))
            call = channel.stream_stream(
                "/distillnet.v1.Fleet/Connect",
                request_serializer=fleet_pb2.DeviceMessage.SerializeToString,
                response_deserializer=fleet_pb2.CloudMessage.FromString,
            )(iter([hello]), timeout=10)
            welcomed = next(call).welcome.device == "witness"
            call.cancel()
            listed = admin_pb2_grpc.AdminStub(admin).ListDevices(admin_pb2.ListDevicesRequest(), timeout=10)
            return welcomed and any(device.device == "witness" for device in listed.devices)

    def holds(self) -> dict[str, float]:
        """What the process has open now."""
        self._census.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while not self._census.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service died or hangs: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)
        inside = json.loads(self._census.read_text())
        proc = Path(f"/proc/{self.process.pid}")
        return {
            "tasks": inside["tasks"],
            "blocks": inside["blocks"],
            "heap_mb": inside["heap_mb"],
            "descriptors": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
            "rss_mb": round(int((proc / "statm").read_text().split()[1]) * _PAGE / 1e6, 1),
        }

    def settled(self, tasks: float, descriptors: float, timeout_s: float = 30.0) -> dict[str, float]:
        """What it holds once calls that were cut off have ended; the last state if they do not."""
        deadline = time.monotonic() + timeout_s
        while True:
            now = self.holds()
            if (now["tasks"] <= tasks and now["descriptors"] <= descriptors) or time.monotonic() > deadline:
                return now
            time.sleep(0.3)

    def failures(self) -> list[str]:
        """Lines of the log that say that the service itself failed."""
        lines = self._log.read_text(errors="replace").splitlines()
        # grpcio's own word for a caller that went away before its status could be sent; the call has ended
        lines = [line for line in lines if "ExecuteBatchError" not in line]
        marks = ("Traceback", "a call failed", "could not be taken", "never awaited", "Task exception", "Fatal Python")
        return [line for line in lines if any(mark in line for mark in marks)]

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(5)


# What a caller may do wrong


@dataclass
class Fuzzer:
    """One thread's worth of wrong calls."""

    service: Service
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def run(self, until: float) -> None:
        actions: tuple[Callable[[], str], ...] = (
            self.call, self.call, self.call, self.in_no_time, self.cut_off, self.oversized, self.half_closed,
            self.never_read, self.plain_garbage, self.half_a_handshake, self.frames, self.frames, self.rapid_reset,
            self.lying_prefix,
        )  # fmt: skip
        while time.monotonic() < until and self.service.process.poll() is None:
            action = self.random.choice(actions)
            try:
                self.outcomes[f"{action.__name__}: {action()}"] += 1
            except OSError as exc:
                self.outcomes[f"{action.__name__}: {type(exc).__name__}"] += 1
            self.done[action.__name__] += 1

    # Through gRPC, with bytes of our own

    def call(self, timeout: float = 10.0) -> str:
        return self._called(self._messages(), timeout)

    def in_no_time(self) -> str:
        return self._called(self._messages(), self.random.choice((0.0005, 0.002, 0.005, 0.02)))

    def oversized(self) -> str:
        size = self.random.choice((64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) + 1, 5 << 20))
        return self._called(lambda _: iter([b"\x0a" + _varint(size) + b"a" * size]), 10)

    def cut_off(self) -> str:
        """Cancel, or close the whole channel, in the middle of a call."""
        method = self._method()
        with self._channel(method) as channel:
            call = self._start(channel, method, self._messages(endless=True), 10)
            time.sleep(self.random.choice((0, 0.001, 0.01, 0.05)))
            if self.random.random() < 0.5:
                call.cancel()
        return "cut"

    def half_closed(self) -> str:
        """A board that says nothing, or Hello and no more; an upload that ends after its header."""
        hello = fleet_pb2.DeviceMessage(hello=wild(self.random, fleet_pb2.Hello)).SerializeToString()
        header = admin_pb2.PublishHeader(application="pets", size_bytes=1000, digest="x")
        upload = admin_pb2.PublishRequest(header=header).SerializeToString()
        path, access, said = self.random.choice(
            (
                ("/distillnet.v1.Fleet/Connect", self.service.board, []),
                ("/distillnet.v1.Fleet/Connect", self.service.board, [hello]),
                ("/distillnet.v1.Fleet/Connect", self.service.board, [hello, hello]),
                ("/distillnet.v1.Admin/Publish", self.service.admin, []),
                ("/distillnet.v1.Admin/Publish", self.service.admin, [upload]),
                ("/distillnet.v1.Admin/Publish", self.service.admin, [upload, upload]),
                (REFLECTION, self.service.admin, []),
            )
        )
        with self.service.channel(access) as channel:
            return _ended(channel.stream_stream(path)(iter(said), timeout=10))

    def never_read(self) -> str:
        """Ask for much and read none of it."""
        with self.service.channel(self.service.board) as channel:
            request = artifacts_pb2.FetchRequest(path="metadata/1.root.json", chunk_bytes=1)
            call = channel.unary_stream("/distillnet.v1.Artifacts/Fetch")(request.SerializeToString(), timeout=5)
            time.sleep(self.random.choice((0, 0.01, 0.1)))
            call.cancel()
        return "left"

    # Below gRPC

    def plain_garbage(self) -> str:
        """No TLS at all."""
        port = self.random.choice((self.service.port, self.service.enroll_port))
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            plain.sendall(self.random.choice((b"", b"\0", http, _PREFACE, self.random.randbytes(500))))
            return _drained(plain, self.random.choice((0.0, 0.05)))

    def half_a_handshake(self) -> str:
        """A ClientHello, cut short or damaged."""
        inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = _context(None).wrap_bio(inbound, outbound, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        hello = bytearray(outbound.read())
        if self.random.random() < 0.5:
            del hello[self.random.randrange(len(hello)) :]
        else:
            hello[self.random.randrange(len(hello))] ^= 0xFF
        port = self.random.choice((self.service.port, self.service.enroll_port))
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            plain.sendall(hello)
            return _drained(plain, 0.05)

    def frames(self) -> str:
        """HTTP/2 that is not: any frames after a valid preface, or a valid request and then any frames."""
        choice = self.random.randrange(6)
        first = _PREFACE + _frame(4, 0, 0)
        if choice == 0:
            data = b"".join(self._any_frame() for _ in range(self.random.choice((1, 5, 60))))
        elif choice == 1:
            data = b"".join(_frame(6, 0, 0, self.random.randbytes(8)) for _ in range(300))  # pings
        elif choice == 2:
            data = b"".join(_frame(4, 0, 0, struct.pack(">HI", 3, number)) for number in range(300))  # settings
        elif choice == 3:
            data = _frame(1, 0, 1, b"\x00\x01a\x01b") + b"".join(
                _frame(9, 0, 1, b"\x00\x01a\x01b" * 50) for _ in range(80)
            )
        elif choice == 4:
            data = _frame(8, 0, 0, struct.pack(">I", 2**31 - 1)) * 3  # windows that overflow
        else:
            data = self._request(1, end=False) + b"".join(self._any_frame(1) for _ in range(20))
        return self._sent(first + data)

    def rapid_reset(self) -> str:
        """Open streams and reset them at once, many times."""
        reset = struct.pack(">I", 8)
        streams = range(1, 2 * RESETS, 2)
        data = b"".join(self._request(number, end=True) + _frame(3, 0, number, reset) for number in streams)
        return self._sent(_PREFACE + _frame(4, 0, 0) + data)

    def lying_prefix(self) -> str:
        """gRPC's own framing: lengths that lie, compression that was never agreed on, messages that do not end."""
        length = self.random.choice((0, 1, 5, 1 << 20, (1 << 20) + 1, 2**31, 2**32 - 1))
        body = struct.pack(">BI", self.random.choice((0, 1, 2, 255)), length) + self.random.randbytes(40)
        end = 1 if self.random.random() < 0.5 else 0
        request = self._request(1, end=False) + _frame(0, end, 1, body)
        return self._sent(_PREFACE + _frame(4, 0, 0) + request)

    # Helpers

    def _messages(self, *, endless: bool = False) -> Callable[[Method], Iterator[bytes]]:
        def said(method: Method) -> Iterator[bytes]:
            if method.path == "/distillnet.v1.Fleet/Connect" and self.random.random() < 0.7:
                hello = fleet_pb2.Hello(session="s", applications=["pets"])
                yield fleet_pb2.DeviceMessage(hello=hello).SerializeToString()
            count = self.random.choice((0, 1, 1, 3, 10)) if method.streams_up else 1
            for _ in range(count):
                if self.random.random() < 0.6:
                    yield wild(self.random, method.request).SerializeToString()
                else:
                    yield mangled(self.random, method.request)
            if endless and method.streams_up:
                time.sleep(0.2)

        return said

    def _called(self, said: Callable[[Method], Iterator[bytes]], timeout: float) -> str:
        method = self._method()
        with self._channel(method) as channel:
            return _ended(self._start(channel, method, said, timeout))

    def _method(self) -> Method:
        if self.random.random() < 0.08:
            return Method(self.random.choice(OTHERS), fleet_pb2.Hello, False)
        return self.random.choice(METHODS)

    def _channel(self, method: Method) -> grpc.Channel:
        """As whoever may call it; now and then as somebody else."""
        service = self.service
        callers = {"Fleet": service.board, "Artifacts": service.board, "Renewal": service.board, "Enrollment": None}
        fitting = callers.get(method.path.split("/")[1].rpartition(".")[2], service.admin)
        return service.channel(fitting if self.random.random() < 0.8 else self._anybody())

    def _anybody(self) -> Access | None:
        return self.random.choice((self.service.admin, self.service.board, None))

    def _start(
        self, channel: grpc.Channel, method: Method, said: Callable[[Method], Iterator[bytes]], timeout: float
    ) -> grpc.Call:
        messages = said(method)
        if not method.streams_up:
            messages = iter([next(messages)])
        return channel.stream_stream(method.path)(messages, timeout=min(timeout, 0.6))

    def _any_frame(self, stream: int | None = None) -> bytes:
        size = self.random.choice((0, 1, 4, 5, 8, 100))
        frame = _frame(
            self.random.randrange(12),
            self.random.randrange(256),
            self.random.choice((0, 1, 2, 3, 2**31 - 1)) if stream is None else stream,
            self.random.randbytes(size),
        )
        if self.random.random() < 0.1:  # a length that lies
            frame = struct.pack(">I", self.random.choice((0, 1, 1 << 14, (1 << 24) - 1)))[1:] + frame[3:]
        return frame

    def _request(self, stream: int, *, end: bool) -> bytes:
        path = self.random.choice([*(method.path for method in METHODS), *OTHERS])
        pairs = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")]
        pairs += [("content-type", self.random.choice(("application/grpc", "text/plain", ""))), ("te", "trailers")]
        if self.random.random() < 0.3:
            nonsense = ("grpc-timeout", self.random.choice(("1n", "-1S", "99999999999H", "x", "")))
            pairs.append(self.random.choice((nonsense, ("grpc-encoding", "gzip"), ("a" * 500, "b" * 9000))))
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)
        return _frame(1, 4 | (1 if end else 0), stream, block)

    def _sent(self, data: bytes) -> str:
        access = self._anybody()
        port = self.service.enroll_port if access is None else self.service.port
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            _context(access).wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(data)
            return _drained(secure, self.random.choice((0.0, 0.05, 0.2)))


METHODS = methods()


def _ended(call) -> str:
    """How a call ended."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as exc:
        return str(exc.code().name)
    return "OK"


def _drained(connection: socket.socket, wait_s: float) -> str:
    """Whether the service has hung up."""
    connection.settimeout(max(wait_s, 0.001))
    deadline = time.monotonic() + 2
    try:
        while connection.recv(65536) and time.monotonic() < deadline:
            pass
    except (TimeoutError, ssl.SSLWantReadError):
        return "still open"
    except OSError:
        return "hung up"
    return "hung up"


def _context(access: Access | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if access is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(access.certificate_pem + access.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: str) -> bytes:
    """A string literal of HPACK (RFC 7541, section 5.2), not Huffman coded."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    return b"\x7f" + _varint(len(data) - 127) + data


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


# The campaign


def burst(service: Service, seconds: float, seed: int, threads: int) -> tuple[Counter[str], Counter[str]]:
    """Fuzz from several threads at once; returns what was done and how it ended."""
    fuzzers = [Fuzzer(service, random.Random(f"{seed}/{number}")) for number in range(threads)]
    until = time.monotonic() + seconds
    workers = [threading.Thread(target=fuzzer.run, args=(until,)) for fuzzer in fuzzers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for fuzzer in fuzzers:
        done += fuzzer.done
        outcomes += fuzzer.outcomes
    return done, outcomes


def campaign(seconds: float, seed: int = 1, *, threads: int = THREADS, rounds: int = 4) -> dict:
    """Fuzz a new service for a while; returns the facts, `wrong` among them."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        service = Service(Path(directory))
        try:
            assert service.answers()
            burst(service, seconds / rounds, seed, threads)  # caches fill, pools grow
            before = service.settled(0, 0, 5.0)
            states = [before]
            done: Counter[str] = Counter()
            outcomes: Counter[str] = Counter()
            for number in range(1, rounds):
                did, ended = burst(service, seconds / rounds, seed + number * 1000, threads)
                done, outcomes = done + did, outcomes + ended
                states.append(service.settled(before["tasks"], before["descriptors"] + CONNECTION_SLACK))
            if not service.answers():
                wrong.append("it does not answer an honest caller")
            after = states[-1]
            for what, slack in (("tasks", 0), ("descriptors", CONNECTION_SLACK), ("threads", POOL_SLACK)):
                if after[what] > before[what] + slack:
                    wrong.append(f"{what}: {before[what]} before, {after[what]} after")
            allowed_mb = HEAP_SLACK_MB + GRPC_LOSS_MB * RESETS * done["rapid_reset"]
            if after["heap_mb"] - before["heap_mb"] > allowed_mb:
                wrong.append(f"heap: {[state['heap_mb'] for state in states]} MB, {allowed_mb:.1f} MB more allowed")
            if after["blocks"] > before["blocks"] * (1 + BLOCKS_SHARE):
                wrong.append(f"Python's own blocks: {[state['blocks'] for state in states]}")
            wrong += sorted(set(service.failures()))[:10]
            internal = {key: count for key, count in outcomes.items() if key.endswith(("INTERNAL", "UNKNOWN"))}
            tail = service.log_tail() if wrong else ""
        finally:
            code = service.stop()
        if code != 0:
            wrong.append(f"exit status {code} when asked to stop")
    return {
        "seconds": seconds,
        "actions": sum(done.values()),
        "by_action": dict(done.most_common()),
        "outcomes": dict(outcomes.most_common()),
        "internal": internal,
        "states": states,
        "wrong": wrong,
        "log": tail,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    facts = campaign(arguments.seconds, arguments.seed)
    if arguments.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name:<12} {value}\n")
    return 1 if facts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
