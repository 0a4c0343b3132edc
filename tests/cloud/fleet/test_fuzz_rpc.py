"""Whatever comes over the wire: the service answers an honest caller afterwards and holds no more than before.

Longer: `make test-updates ARGS="--only rpc"`.
"""

import sys
from pathlib import Path

import grpc
import pytest

from distillnet.cloud.fleet.errors import RefusedError
from distillnet.cloud.fleet.messages import reader
from distillnet.proto.v1 import admin_pb2, fleet_pb2

sys.path.insert(0, str(Path(__file__).parent))
import fuzz_rpc


@pytest.mark.integration
@pytest.mark.slow
def test_service_survives_nonsense_of_every_kind_and_holds_no_more_than_before():
    facts = fuzz_rpc.campaign(12.0, rounds=3)
    assert facts["wrong"] == [], facts["log"]
    assert facts["internal"] == {}, facts["log"]
    assert len(facts["by_action"]) == 11 and facts["actions"] > 100


@pytest.mark.integration
def test_message_that_cannot_be_read_is_refused_only_after_its_caller_was_admitted(server, board):
    device = board(server, server.token(), "mumbler")
    nonsense = b"\xff" * 20
    for path, code in (("Renewal/Renew", "INVALID_ARGUMENT"), ("Admin/ListDevices", "PERMISSION_DENIED")):
        with device.channel() as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/distillnet.v1.{path}")(nonsense, timeout=10)
        assert refused.value.code().name == code


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (fleet_pb2.UpdateReport(version=2**63), "version is larger than"),
        (fleet_pb2.UpdateReport(progress=float("nan")), "progress is nan"),
        (fleet_pb2.UpdateReport(durations_ms={"fetching": float("inf")}), "is inf"),
        (fleet_pb2.Hello(applications=["pets", "pe\0ts"]), "applications has a zero byte"),
        (fleet_pb2.DeviceMessage(hello=fleet_pb2.Hello(models=[{"version": 2**64 - 1}])), "larger than"),
    ],
)
def test_value_that_no_database_can_hold_is_refused_by_name(message, reason):
    with pytest.raises(RefusedError, match=reason):
        reader(type(message).FromString)(message.SerializeToString())


def test_ordinary_message_is_read():
    sent = admin_pb2.PublishRequest(data=b"\0" * 100)
    assert reader(admin_pb2.PublishRequest.FromString)(sent.SerializeToString()) == sent
