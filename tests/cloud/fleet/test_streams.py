"""Publication, streams and enrolment against a real service over real TLS."""

import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from distillnet.cloud.fleet import backup
from distillnet.cloud.fleet.client import upload
from distillnet.cloud.fleet.errors import FleetError
from distillnet.proto import archive
from distillnet.proto.v1 import admin_pb2, fleet_pb2, fleet_pb2_grpc

pytestmark = pytest.mark.integration

COMMITTED = fleet_pb2.UPDATE_PHASE_COMMITTED
REFUSED = fleet_pb2.UPDATE_PHASE_REFUSED


def eventually(check: Callable[[], Any], timeout_s: float = 5.0) -> Any:
    """Return what `check` returns as soon as it is true."""
    end = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
    return found


def test_a_connected_device_hears_of_a_publication_within_a_second(server, board, tiny_student):
    device = board(server, server.token(applications=["quick"]), "quick-1")
    with device.connect("quick") as stream:
        assert stream.welcome.device == "quick-1"
        published = server.publish(tiny_student("quick"), "quick")
        done = time.monotonic()
        wanted = stream.receive(2.0).directive.update
        assert time.monotonic() - done < 1.0
        assert (wanted.version, wanted.digest, wanted.size_bytes) == (1, published.digest, published.size_bytes)
        assert wanted.target_path == "quick/1/student.tflite"
        assert published.devices_told == 1


def test_a_device_that_was_away_gets_only_the_newest_version(server, board, tiny_student):
    device = board(server, server.token(applications=["away"]), "away-1")
    for seed in range(3):
        server.publish(tiny_student("away", seed), "away")
    with device.connect("away") as stream:
        assert stream.receive().directive.update.version == 3
        with pytest.raises(queue.Empty):
            stream.receive(0.6)


def test_what_a_device_reports_after_its_commit_is_what_the_fleet_shows(server, board, tiny_student):
    device = board(server, server.token(applications=["truth"]), "truth-1")
    digest = server.publish(tiny_student("truth"), "truth").digest
    with device.connect("truth") as stream:
        directive = stream.receive().directive
        stream.report(directive, fleet_pb2.UPDATE_PHASE_FETCHING)
        stream.report(directive, fleet_pb2.UPDATE_PHASE_SWITCHED)
        eventually(lambda: server.devices()["truth-1"].last_report.phase == fleet_pb2.UPDATE_PHASE_SWITCHED)
        assert not server.devices()["truth-1"].models  # switched is not committed
        shadow = fleet_pb2.ShadowRun(frames=30, disagreement=0.25, latency_ms=3.5, live_latency_ms=3.0)
        stream.report(directive, COMMITTED, durations_ms={"fetching": 12.5}, shadow=shadow)
        shown = eventually(lambda: (row := server.devices()["truth-1"]).models and row)
        assert (shown.models[0].digest, shown.models[0].version) == (digest, 1)
        assert shown.connected and shown.last_report.durations_ms["fetching"] == 12.5
        assert (shown.last_report.shadow.frames, shown.last_report.shadow.disagreement) == (30, 0.25)
    with device.connect("truth") as stream, pytest.raises(queue.Empty):
        stream.receive(0.6)  # nothing is asked twice


def test_a_refused_update_is_not_offered_again_until_the_next_version(server, board, tiny_student):
    device = board(server, server.token(applications=["refuse"]), "refuse-1")
    server.publish(tiny_student("refuse"), "refuse")
    with device.connect("refuse") as stream:
        stream.report(stream.receive().directive, REFUSED, "self-test failed")
        eventually(lambda: server.devices()["refuse-1"].last_report.reason == "self-test failed")
    with device.connect("refuse") as stream:
        server.publish(tiny_student("refuse", 1), "refuse")
        assert stream.receive().directive.update.version == 2


def test_an_interrupted_directive_comes_again_on_the_next_stream(server, board, tiny_student):
    device = board(server, server.token(applications=["again"]), "again-1")
    server.publish(tiny_student("again"), "again")
    with device.connect("again") as stream:
        first = stream.receive().directive
    with device.connect("again") as stream:
        assert stream.receive().directive == first
    installed = fleet_pb2.InstalledModel(application="again", version=1, digest=first.update.digest)
    with device.connect("again", models=(installed,)) as stream, pytest.raises(queue.Empty):
        stream.receive(0.6)  # done without our hearing of it


def test_a_rollback_is_a_directive_and_ends_with_the_device_s_word(server, board, tiny_student):
    device = board(server, server.token(applications=["back"]), "back-1")
    server.publish(tiny_student("back"), "back")
    with device.connect("back") as stream:
        stream.report(stream.receive().directive, COMMITTED)
        request = admin_pb2.RollbackDevicesRequest(application="back", reason="too loud")
        assert server.admin().RollbackDevices(request).devices_told == 1
        directive = stream.receive(2.0).directive
        assert (directive.rollback.application, directive.rollback.reason) == ("back", "too loud")
        rolled_back = fleet_pb2.UPDATE_PHASE_ROLLED_BACK
        stream.report(directive, rolled_back, application="back", version=7, digest="sha256:" + "0" * 64)
        eventually(lambda: [model.version for model in server.devices()["back-1"].models] == [7])
    with device.connect("back") as stream, pytest.raises(queue.Empty):
        stream.receive(0.6)


def test_a_student_for_other_boards_is_not_offered(server, board, tiny_student):
    device = board(server, server.token(applications=["boards"]), "boards-1", board="rpi4")
    assert server.publish(tiny_student("boards", boards=["rpi5"]), "boards").devices_told == 0
    with device.connect("boards") as stream, pytest.raises(queue.Empty):
        stream.receive(0.6)


def test_a_held_publication_tells_nobody(server, board, tiny_student):
    device = board(server, server.token(applications=["held"]), "held-1")
    assert server.publish(tiny_student("held"), "held", hold=True).devices_told == 0
    with device.connect("held") as stream, pytest.raises(queue.Empty):
        stream.receive(0.6)


def test_a_second_stream_of_a_device_ends_the_first(server, board):
    device = board(server, server.token(), "twice-1")
    with device.connect() as first, device.connect():
        with pytest.raises(grpc.RpcError) as refused:
            first.receive(2.0)
        assert refused.value.code() == grpc.StatusCode.ABORTED


def test_a_revoked_device_loses_its_stream_and_is_shut_out(server, board):
    device = board(server, server.token(), "revoked-1")
    with device.connect() as stream:
        server.admin().RevokeDevice(admin_pb2.RevokeDeviceRequest(device="revoked-1"))
        with pytest.raises(grpc.RpcError) as refused:
            stream.receive(2.0)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        device.fetch("metadata/timestamp.json")
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_stream_must_begin_with_hello(server, board):
    device = board(server, server.token(), "rude-1")
    with device.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        list(fleet_pb2_grpc.FleetStub(channel).Connect(iter([fleet_pb2.DeviceMessage(ack=fleet_pb2.Ack())])))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_two_publications_at_once_get_two_versions(server, tiny_student):
    versions: list[int] = []
    threads = [
        threading.Thread(
            target=lambda seed=seed: versions.append(server.publish(tiny_student("race", seed), "race").version)
        )
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["flatbuffer", "golden", "card", "application", "short", "digest"])
def test_a_bad_student_is_refused_with_the_reason_and_leaves_no_version(server, tiny_student, damage):
    good = tiny_student("bad")
    whole = archive.unpack(good)
    parts = {
        "flatbuffer": lambda: upload("bad", archive.pack(whole.model[:200], whole.card, whole.golden)),
        "golden": lambda: upload("bad", archive.pack(whole.model, whole.card, tiny_golden(tiny_student))),
        "card": lambda: upload("bad", whole.model),
        "application": lambda: upload("bad", tiny_student("other-one")),
        "short": lambda: iter(list(upload("bad", good))[:1]),
        "digest": lambda: iter([next(upload("bad", good)), admin_pb2.PublishRequest(data=bytes(len(good)))]),
    }
    with pytest.raises(grpc.RpcError) as refused:
        server.admin().Publish(parts[damage](), timeout=15)
    wanted = grpc.StatusCode.DATA_LOSS if damage == "digest" else grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.code() == wanted, refused.value.details()
    assert not server.admin().ListModels(admin_pb2.ListModelsRequest(application="bad")).models


def tiny_golden(tiny_student) -> bytes:
    """Golden vectors of another network: this one must fail them."""
    return archive.unpack(tiny_student("bad", seed=99)).golden


def test_everything_is_there_again_after_a_restart_and_after_a_kill(serve, board, tiny_student):
    first = serve()
    device = board(first, first.token(applications=["pets"]), "porch")
    first.publish(tiny_student())
    with device.connect("pets") as stream:
        stream.receive()
        began = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - began < 6.0  # one or two where the machine is idle
        assert stream.receive().HasField("retry_after")
    second = serve()
    device.server = second
    assert not second.devices()["porch"].connected
    with device.connect("pets") as stream:
        assert stream.receive().directive.update.version == 1
        second.stop(signal.SIGKILL)
    third = serve()
    assert third.publish(tiny_student(seed=1)).version == 2
    device.server = third
    with device.connect("pets") as stream:
        assert stream.receive().directive.update.version == 2


def test_a_service_without_its_database_lets_its_own_admin_in(serve):
    first = serve()
    first.stop()
    for path in first.data.glob("fleet.db*"):
        path.unlink()
    assert serve().devices() == {}


def test_a_backup_of_a_running_service_takes_its_place(serve, board, tiny_student, tmp_path):
    running = serve()
    device = board(running, running.token(applications=["pets"]), "porch")
    running.publish(tiny_student())
    done = backup.make(running.data, tmp_path / "copy")
    assert done["files"] > 10 and not (tmp_path / "copy" / "keys" / "offline").exists()
    running.publish(tiny_student(seed=1))  # lost with the old machine, all but its signature
    with pytest.raises(FleetError, match="there already"):
        backup.make(running.data, tmp_path / "copy")
    running.stop(signal.SIGKILL)
    for path in (running.data / "objects" / "metadata").glob("*.json"):
        shutil.copyfile(path, tmp_path / "copy" / "objects" / "metadata" / path.name)

    restored = serve(name="copy")
    device.server = restored
    with device.connect("pets") as stream:
        assert stream.receive().directive.update.version == 1
        assert restored.publish(tiny_student(seed=2)).version == 3  # 2 was signed once: never again
        assert stream.receive().directive.update.version == 3


def test_a_second_service_on_the_same_directory_or_port_is_refused(serve, tmp_path):
    running = serve()
    refusals = {
        "another `distillnet serve`": ["--data", str(running.data), "--port", "0", "--enroll-port", "0"],
        "cannot be opened": ["--data", str(tmp_path / "b"), "--port", str(running.ready["port"])],
        "cannot be written": ["--data", "/proc/nowhere"],
    }
    for message, arguments in refusals.items():
        done = subprocess.run(
            [sys.executable, "-c", "from distillnet.device.cli import main; main()", "serve", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2 and message in done.stderr.replace("\n", " "), done.stderr


def test_the_service_outlives_junk_on_its_ports(serve):
    running = serve()
    for port in (running.ready["port"], running.ready["enroll_port"]):
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"A" * 4096, b""):
            with socket.create_connection(("127.0.0.1", port), 5) as raw:
                raw.sendall(junk)
    assert running.devices() == {}
