"""What a board gives back would be lost, or sent where it must not, if this were wrong: against a real gRPC server."""

import time
from concurrent import futures

import grpc
import pytest

from distillnet.device.config import DeviceConfig
from distillnet.device.unsure import ENDING, FOLDER
from distillnet.device.update import giveback
from distillnet.proto.v1 import feedback_pb2, feedback_pb2_grpc


class Cloud(feedback_pb2_grpc.FeedbackServicer):
    """Takes what comes, or answers with `refusal`."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.refusal: grpc.StatusCode | None = None
        self.asked = 0

    def _take(self, what: str, context) -> None:
        self.asked += 1
        if self.refusal is not None:
            context.abort(self.refusal, "no")
        self.got.append(what)

    def SendExample(self, request, context):
        self._take(request.event, context)
        return feedback_pb2.SendExampleResponse()

    def SendProfile(self, request, context):
        self._take(request.profile_json.decode(), context)
        return feedback_pb2.SendProfileResponse()


class Link:
    """A link that is up."""

    connected = True

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def trust(self):
        return None, self._channel


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(giveback, "_PAUSE_S", 0.01)
    cloud, server = Cloud(), grpc.server(futures.ThreadPoolExecutor(2))
    feedback_pb2_grpc.add_FeedbackServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        cloud.link = Link(channel)
        yield cloud
    server.stop(0)


def board(tmp_path, cloud, waits_for=lambda: "", profile=None) -> giveback.GiveBack:
    config = DeviceConfig.model_validate(
        {
            "device": {"name": "porch", "state_dir": tmp_path},
            "model": {"application": "pets"},
            "source": [{"id": "cam", "url": "a.mp4"}],
            "feedback": {"examples": True, "profile": profile},
        }
    )
    return giveback.GiveBack(config, cloud.link, waits_for)


def keep(tmp_path, *events: str) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(exist_ok=True)
    for number, event in enumerate(events):
        (folder / f"{number}{ENDING}").write_bytes(feedback_pb2.Example(event=event).SerializeToString())


def waiting(tmp_path) -> int:
    return len(list((tmp_path / FOLDER).glob(f"*{ENDING}")))


def until(check) -> None:
    end = time.monotonic() + 10.0
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_the_profile_goes_first_then_examples_oldest_first_and_each_once(tmp_path, cloud):
    (tmp_path / "profile.json").write_text("{}")
    keep(tmp_path, "a", "b", "c")
    (tmp_path / FOLDER / f"1{ENDING}").write_bytes(b"\xff\xff damaged")
    giving = board(tmp_path, cloud, profile=tmp_path / "profile.json")
    giving.start()
    until(lambda: waiting(tmp_path) == 0)
    giving.stop()
    assert cloud.got == ["{}", "a", "c"]


def test_what_the_fleet_will_not_have_goes_and_what_it_cannot_take_now_stays(tmp_path, cloud):
    keep(tmp_path, "a")
    for refusal, left in ((grpc.StatusCode.UNAVAILABLE, 1), (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
                          (grpc.StatusCode.INVALID_ARGUMENT, 0)):  # fmt: skip
        cloud.refusal, asked = refusal, cloud.asked
        giving = board(tmp_path, cloud)
        giving.start()
        until(lambda asked=asked: cloud.asked > asked)
        until(lambda left=left: waiting(tmp_path) == left)
        giving.stop()
    assert cloud.got == []


def test_nothing_is_sent_while_updates_wait_too(tmp_path, cloud):
    reasons = ["waits for its hours (02:00–04:00)"] * 3
    keep(tmp_path, "a")
    giving = board(tmp_path, cloud, waits_for=lambda: reasons.pop() if reasons else "")
    giving.start()
    until(lambda: waiting(tmp_path) == 0)
    giving.stop()
    assert reasons == [] and cloud.got == ["a"]
