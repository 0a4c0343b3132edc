"""What boards give back would be broken if it came from anybody, without limit, were lost, or never went away."""

import time
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from sqlalchemy import func, select

from distillnet.cloud.fleet import devices, feedback, feedback_service
from distillnet.cloud.fleet.access import Spent
from distillnet.cloud.fleet.config import FeedbackSection
from distillnet.cloud.fleet.database import Example
from distillnet.cloud.fleet.errors import RefusedError
from distillnet.cloud.fleet.place import open_store
from distillnet.proto.v1 import admin_pb2, feedback_pb2, feedback_pb2_grpc

PROFILES = Path(feedback_service.__file__).parents[1] / "board_profiles"
DAY_S = 86400.0


def picture(number: int = 0) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def example(number: int = 0, **facts) -> feedback_pb2.Example:
    usual = {"application": "pets", "event": "cat", "source": "cam", "ts": 100.0 + number, "score": 0.45}
    return feedback_pb2.Example(jpeg=picture(number), threshold=0.5, **(usual | facts))


def row(number: int, received_ts: float, application: str = "pets") -> Example:
    return feedback.example("porch", example(number, application=application), f"{number:064d}", received_ts)


def kept(database) -> int:
    return database.read_now(lambda session: session.scalar(select(func.count()).select_from(Example)))


def test_a_device_gives_so_many_a_day_and_only_for_its_applications(database):
    database.write_now(lambda session: devices.enrol(session, Spent("porch", ["pets"], False), 1.0))
    for number in range(3):
        database.write_now(lambda session, number=number: session.merge(row(number, 1000.0 + number)))
    database.read_now(lambda session: feedback.check_room(session, row(9, 1010.0), per_day=4))
    with pytest.raises(RefusedError, match="3 examples within a day"):
        database.read_now(lambda session: feedback.check_room(session, row(9, 1010.0), per_day=3))
    database.read_now(lambda session: feedback.check_room(session, row(9, 1010.0 + DAY_S), per_day=3))
    with pytest.raises(RefusedError, match="does not run 'other'"):
        database.read_now(lambda session: feedback.check_room(session, row(9, 1010.0, "other"), per_day=4))


def test_old_examples_and_those_beyond_the_limit_go_with_their_pictures(database, tmp_path):
    store, now = open_store(None, tmp_path), 200 * DAY_S
    stamps = [now - 100 * DAY_S, *(now - number for number in range(5))]
    for number, ts in enumerate(stamps):
        made = row(number, ts)
        store.put(feedback.stored_at(made), picture(number))
        database.write_now(lambda session, made=made: session.merge(made))
    store.delete(feedback.stored_at(row(5, now)))  # a clean-up that a crash interrupted
    config = FeedbackSection(days=90, most=3)
    for _ in range(2):
        feedback_service.forget_old(database, store, config, now)
    assert kept(database) == 3
    assert len(list((tmp_path / "objects").rglob("*.jpg"))) == 3
    newest = database.read_now(lambda session: feedback.examples(session, "pets", 0))
    assert [made.received_ts for made in newest] == stamps[1:4]


@pytest.mark.integration
def test_what_boards_give_comes_back_to_an_admin_once_and_whole(server, board):
    porch = board(server, server.token(applications=["pets"]), "giver")
    with porch.channel() as channel:
        stub = feedback_pb2_grpc.FeedbackStub(channel)
        for number in (0, 1, 1):
            stub.SendExample(example(number), timeout=9)
        measured = (PROFILES / "rpi4.json").read_bytes()
        stub.SendProfile(feedback_pb2.SendProfileRequest(profile_json=measured), timeout=9)
        for bad, reason in (
            (example(event="../x"), "event"),
            (example(application="other"), "does not run"),
            (feedback_pb2.Example(application="pets", event="a", source="b", jpeg=b"GIF89a"), "JPEG"),
        ):
            with pytest.raises(grpc.RpcError, match=reason):
                stub.SendExample(bad, timeout=9)
        for bad in (b"{}", b"[1]", b"{", b"[" * 100_000, measured.replace(b'"rpi4"', b'"../rpi4"', 1)):
            with pytest.raises(grpc.RpcError) as refused:
                stub.SendProfile(feedback_pb2.SendProfileRequest(profile_json=bad), timeout=9)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    def collected(**wanted):
        request = admin_pb2.CollectFeedbackRequest(application="pets", **wanted)
        return list(server.admin().CollectFeedback(request, timeout=15))

    profile, *examples = collected(board="rpi4")
    assert b'"board":"rpi4"' in profile.profile_json
    assert [item.example for item in examples] == [example(1), example(0)]
    assert {item.device for item in examples} == {"giver"}
    assert [item.example.ts for item in collected(limit=1)] == [101.0]


@pytest.mark.integration
def test_a_service_that_wants_none_says_so(serve, board, tmp_path):
    (tmp_path / "serve.toml").write_text("[feedback]\nper_day = 0\n")
    running = serve("--config", str(tmp_path / "serve.toml"))
    porch = board(running, running.token(), "giver")
    with porch.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        feedback_pb2_grpc.FeedbackStub(channel).SendExample(example(ts=time.time()), timeout=9)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
