"""Topics and payloads others already script against."""

import json

import pytest

from distillnet.proto.mqtt import EventPayload, Topics, as_offered, encode, schemas


def test_topics_are_the_contract_to_the_letter() -> None:
    topics = Topics("porch")
    assert topics.status == "distillnet/v1/porch/status"
    assert topics.event("camera", "dog") == "distillnet/v1/porch/event/camera/dog"
    assert topics.state("camera", "dog") == "distillnet/v1/porch/state/camera/dog"
    assert topics.command("update") == "distillnet/v1/porch/cmd/update"


def test_an_event_has_the_contract_keys() -> None:
    event = EventPayload(
        id="x", seq=1, session="s", phase="new", source="camera", event="dog", score=0.9, top_score=0.9,
        start_ts=1.0, frame_ts=1.0, model_digest="sha256:0",
    )  # fmt: skip
    keys = set(json.loads(encode(event)))
    assert keys == {
        "schema", "id", "seq", "session", "phase", "source", "zone", "event", "score", "top_score", "start_ts",
        "end_ts", "frame_ts", "publish_ts", "model_digest", "latency_ms", "evidence", "replayed",
    }  # fmt: skip


@pytest.mark.parametrize("replayed", [False, True])
def test_filling_in_when_an_event_is_offered_changes_nothing_else(replayed: bool) -> None:
    event = EventPayload(
        id="x", seq=1, session='"publish_ts":null,"replayed":false', phase="end", source="camera", event="dog",
        zone='"publish_ts":null', score=0.9, top_score=0.9, start_ts=1.0, end_ts=2.5, frame_ts=1764205123.4567891,
        model_digest="sha256:0",
    )  # fmt: skip
    expected = event.model_copy(update={"publish_ts": 1764205123.456789, "replayed": replayed})
    assert as_offered(encode(event), 1764205123.456789, replayed=replayed) == encode(expected)


def test_every_schema_refuses_unknown_keys() -> None:
    for name, schema in schemas().items():
        assert schema["additionalProperties"] is False, name
