"""Two services on one PostgreSQL and one object store behave as one."""

import shutil
import signal
import threading

import pytest

from distillnet.proto.v1 import admin_pb2, fleet_pb2

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def pair(serve, postgres_url, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(
        f'[storage]\ndatabase = "{postgres_url()}"\nobjects = "file://{tmp_path}/objects"\n[fleet]\nheartbeat_s = 0.5\n'
    )
    (tmp_path / "objects").mkdir()
    first = serve("--config", str(config), name="one")
    for secret in ("pki", "keys"):
        shutil.copytree(tmp_path / "one" / secret, tmp_path / "two" / secret)
    shutil.rmtree(tmp_path / "two" / "keys" / "offline")
    return first, serve("--config", str(config), name="two")


def at(server, board):
    """The same board, at another instance."""
    return type(board)(server, board.device, board.access, board.tuf_root)


def test_a_directive_made_at_one_instance_reaches_a_device_at_the_other(pair, board, tiny_student):
    first, second = pair
    device = board(first, first.token(applications=["pets"]), "porch")
    with at(second, device).connect("pets") as stream:
        published = first.publish(tiny_student())
        assert stream.receive(1.5).directive.update.digest == published.digest
        stream.report(fleet_pb2.Directive(), fleet_pb2.UPDATE_PHASE_FETCHING, application="pets", version=1)
        target = f"targets/pets/1/{published.digest.removeprefix('sha256:')}.student.tflite"
        assert len(at(second, device).fetch(target)[0]) == published.size_bytes
        assert first.devices()["porch"].connected and second.devices()["porch"].connected


def test_revocation_at_one_shuts_the_device_out_of_the_other(pair, board):
    first, second = pair
    device = board(second, first.token(), "porch")
    with at(second, device).connect() as stream:
        first.admin().RevokeDevice(admin_pb2.RevokeDeviceRequest(device="porch"))
        with pytest.raises(Exception, match="revoked"):
            stream.receive(2.0)


def test_publications_at_both_are_numbered_and_signed_one_after_the_other(pair, tiny_student):
    versions = []
    threads = [
        threading.Thread(target=lambda n=n: versions.append(pair[n % 2].publish(tiny_student(seed=n)).version))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]


def test_a_device_goes_on_at_the_other_when_its_instance_is_killed(pair, board, tiny_student):
    first, second = pair
    device = board(first, first.token(applications=["pets"]), "porch")
    with device.connect("pets"):
        first.stop(signal.SIGKILL)
    second.publish(tiny_student())
    with at(second, device).connect("pets") as stream:
        directive = stream.receive().directive
        assert directive.update.version == 1
        stream.report(directive, fleet_pb2.UPDATE_PHASE_COMMITTED)
