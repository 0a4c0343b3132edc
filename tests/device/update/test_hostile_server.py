"""A server that speaks gRPC and nothing else right: the board's service neither crashes nor leaks nor hangs."""

import random
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import tiny
from board import Board, until

from distillnet.device.update.backoff import Backoff
from distillnet.device.update.enroll import enroll
from distillnet.device.update.errors import UpdateError
from distillnet.device.update.identity import load_identity
from distillnet.proto.v1 import artifacts_pb2, enrollment_pb2, fleet_pb2

pytestmark = pytest.mark.integration


class Babel(grpc.GenericRpcHandler):
    """Answers any call with bytes drawn at random: noise, halves of real messages, wrong messages, errors, silence."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.calls = 0
        self.closing = threading.Event()
        welcome = fleet_pb2.CloudMessage(welcome=fleet_pb2.Welcome(device="porch", heartbeat_s=0.2))
        directive = fleet_pb2.CloudMessage(
            directive=fleet_pb2.Directive(id="x", update=fleet_pb2.Update(target_path="a" * 5000, version=2**63))
        )
        self.real = [
            message.SerializeToString()
            for message in (
                welcome,
                directive,
                fleet_pb2.CloudMessage(directive=fleet_pb2.Directive(id="y" * 9000)),
                fleet_pb2.CloudMessage(retry_after=fleet_pb2.RetryAfter(seconds=-5, reason="x" * 2000)),
                fleet_pb2.CloudMessage(retry_after=fleet_pb2.RetryAfter(seconds=0.01)),
                fleet_pb2.CloudMessage(directive=fleet_pb2.Directive(id="z", rollback=fleet_pb2.Rollback())),
                fleet_pb2.CloudMessage(welcome=fleet_pb2.Welcome(heartbeat_s=float("nan"))),
                artifacts_pb2.Chunk(offset=0, data=b"{}", total_size=2),
                artifacts_pb2.Chunk(offset=2**60, data=b"x", total_size=2**61),
                enrollment_pb2.EnrollResponse(certificate_pem=b"no", tuf_root=b"{}", fleet_address="nowhere"),
            )
        ]

    def service(self, handler_call_details):
        self.calls += 1
        return grpc.stream_stream_rpc_method_handler(self._answer)

    def _answer(self, requests, context):
        draw = random.Random(self.seed + self.calls)
        for _ in range(draw.choice((0, 1, 2, 5, 40))):
            kind = draw.randrange(6)
            if kind == 0:
                yield draw.randbytes(draw.choice((0, 1, 7, 300)))
            elif kind == 1:
                message = draw.choice(self.real)
                yield message[: draw.randrange(len(message) + 1)]
            elif kind == 2 and draw.random() < 0.1:
                yield bytes(2 << 20)
            else:
                yield draw.choice(self.real)
        if draw.random() < 0.2:
            self.closing.wait(0.1)
        if draw.random() < 0.5:
            context.abort(draw.choice([code for code in grpc.StatusCode if code.value[0]]), "noise " * 50)


@pytest.fixture
def babel(cloud, request):
    """A server with the fleet's own certificate that has lost its mind, on both ports' manners."""
    handler = Babel(seed=6)
    server = grpc.server(futures.ThreadPoolExecutor(256))
    server.add_generic_rpc_handlers((handler,))
    pair = cloud.authority.server()
    handler.port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield handler
    handler.closing.set()
    server.stop(0.1).wait(2)


def test_board_lives_through_noise_and_then_takes_an_update(cloud, make_board, babel):
    board: Board = make_board().enroll().start()
    board.take(1)
    board.stop()
    board.update["server"] = f"127.0.0.1:{babel.port}"
    board.start(wait=False)
    board.service._link._backoff = Backoff(first_s=0.001, limit_s=0.002)
    until(lambda: babel.calls > 30, 30)
    threads, descriptors = board_threads(), open_descriptors()
    until(lambda: babel.calls > 80, 60, f"{babel.calls} calls")
    assert open_descriptors() <= descriptors + 5
    assert board_threads() <= threads + 5
    assert board.running_version == 1
    board.slot.current().self_test()
    started = time.monotonic()
    board.stop()
    assert time.monotonic() - started < 1.5
    board.update.pop("server")
    board.start()
    assert board.take(2, tiny.numbered(2)).reason == ""


def test_enrolment_with_noise_leaves_no_identity(cloud, tmp_path, babel):
    for attempt in range(6):
        with pytest.raises(UpdateError):
            enroll(tmp_path / str(attempt), f"127.0.0.1:{babel.port}", cloud.token(), timeout_s=2)
        assert load_identity(tmp_path / str(attempt)) is None


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def board_threads() -> int:
    """Threads but those of the servers, which run in this process, too."""
    return sum("ThreadPool" not in thread.name for thread in threading.enumerate())
