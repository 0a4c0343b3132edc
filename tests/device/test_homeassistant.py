"""Home Assistant's discovery document: what its MQTT integration accepts, and which entities a device becomes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema

from distillnet.device.config import DeviceConfig
from distillnet.device.frames import Intake
from distillnet.device.homeassistant import Shown, discovery, discovery_topic, platforms
from distillnet.device.reporter import Reporter
from distillnet.device.telemetry import Telemetry
from distillnet.proto.mqtt import InfoPayload

# Home Assistant publishes no JSON Schema of its discovery messages. This one states the rules of its documentation
# (integrations/mqtt, binary_sensor.mqtt, event.mqtt, sensor.mqtt, update.mqtt) for the keys that are used here.
_TEXT = {"type": "string", "minLength": 1}
_TOPIC = {"type": "string", "pattern": "^[^#+]+$"}
_COMMON = {
    "platform": _TEXT,
    "unique_id": {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$"},
    "name": _TEXT,
    "entity_category": {"enum": ["config", "diagnostic"]},
    "state_topic": _TOPIC,
    "value_template": {"type": "string", "pattern": r"^\{\{.*\}\}$"},
}


def _platform(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": _COMMON | properties,
        "required": ["platform", "unique_id", "name", *required],
        "additionalProperties": False,
    }


_PLATFORMS = {
    "binary_sensor": _platform(["state_topic"], payload_on=_TEXT, payload_off=_TEXT),
    "event": _platform(["state_topic", "event_types"], event_types={"type": "array", "items": _TEXT, "minItems": 1}),
    "sensor": _platform(
        ["state_topic"],
        unit_of_measurement=_TEXT,
        state_class={"enum": ["measurement", "total", "total_increasing"]},
        device_class={"enum": ["temperature", "duration"]},
        expire_after={"type": "integer", "minimum": 1},
    ),
    "update": _platform(["state_topic"], command_topic=_TOPIC, payload_install=_TEXT, title=_TEXT),
}
_DOCUMENT = {
    "type": "object",
    "required": ["device", "origin", "components"],
    "additionalProperties": False,
    "properties": {
        "device": {
            "type": "object",
            "required": ["identifiers"],
            "additionalProperties": False,
            "properties": {
                "identifiers": {"type": "array", "items": _TEXT, "minItems": 1},
                **dict.fromkeys(("name", "manufacturer", "model", "hw_version", "sw_version"), _TEXT),
            },
        },
        "origin": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": _TEXT, "sw_version": _TEXT},
        },
        "availability_topic": _TOPIC,
        "availability_template": _TEXT,
        "qos": {"enum": [0, 1, 2]},
        "components": {"type": "object", "minProperties": 1},
    },
}


def shown(*events: str) -> Shown:
    info = InfoPayload(
        session="s",
        ts=1.0,
        version="0.1.0",
        board="x86_64",
        engine="native",
        kernels="avx2",
        application="yard",
        model_version=3,
        model_digest="sha256:0",
        events=list(events),
        sources={"door": "/dev/video0"},
    )
    return Shown("porch", info, tuple(("door", event) for event in events), 60.0)


def check(document: dict[str, Any]) -> None:
    jsonschema.validate(document, _DOCUMENT)
    identities = []
    for component in document["components"].values():
        jsonschema.validate(component, _PLATFORMS[component["platform"]])
        identities.append(component["unique_id"])
    assert len(set(identities)) == len(identities)


def test_the_document_is_what_home_assistant_accepts() -> None:
    document = json.loads(json.dumps(discovery(shown("dog", "cat"))))
    check(document)
    kinds = platforms(document)
    assert kinds["door_dog"] == "binary_sensor"
    assert kinds["door_dog_event"] == "event"
    assert kinds["model"] == "update"
    assert document["components"]["door_cat"]["state_topic"] == "distillnet/v1/porch/state/door/cat"
    assert discovery_topic("homeassistant", "porch") == "homeassistant/device/distillnet_porch/config"


def test_templates_give_what_the_platforms_want() -> None:
    """Rendered as Home Assistant renders them: Jinja, `value_json`, and `tojson`."""
    from jinja2 import Environment

    components = discovery(shown("dog"))["components"]

    def render(template: str, payload: dict[str, Any]) -> str:
        return Environment().from_string(template).render(value_json=payload)

    event = {"phase": "new", "score": 0.9, "zone": None, "id": "x"}
    rendered = json.loads(render(components["door_dog_event"]["value_template"], event))
    assert rendered["event_type"] in components["door_dog_event"]["event_types"]
    assert rendered["zone"] is None
    model = {"installed": {"version": 3}, "candidate": None, "phase": "idle"}
    update = json.loads(render(components["model"]["value_template"], model))
    resting = {"in_progress": False, "update_percentage": None, "release_summary": "idle"}
    assert update == {"installed_version": "3", "latest_version": "3", **resting}
    waiting = {"installed": None, "candidate": {"version": 4}, "phase": "fetching", "progress": 0.254}
    update = json.loads(render(components["model"]["value_template"], waiting))
    assert (update["latest_version"], update["in_progress"], update["update_percentage"]) == ("4", True, 25)
    gone = {
        "installed": {"version": 3},
        "phase": "rolled-back",
        "progress": 1.0,
        "reason": "probation: slow " + "x" * 400,
    }
    update = json.loads(render(components["model"]["value_template"], gone))
    assert update["release_summary"].startswith("rolled-back: probation: slow x")
    assert len(update["release_summary"]) == 255 and update["update_percentage"] is None
    telemetry = {"stages": {"infer": {"p95": 1.234}}, "sources": {"door": {"fps": 29.97}}, "temperature_c": None}
    assert render(components["infer_p95"]["value_template"], telemetry) == "1.23"
    assert render(components["end_to_end_p95"]["value_template"], telemetry) == "None"
    assert render(components["door_fps"]["value_template"], telemetry) == "30.0"
    status = discovery(shown("dog"))["availability_template"]
    assert render(status, {"state": "lost"}) == "offline"
    assert render(status, {"state": "degraded"}) == "online"


def test_entities_of_vanished_events_are_removed() -> None:
    before = platforms(discovery(shown("dog", "cat")))
    now = platforms(discovery(shown("dog", "bird")))
    removed = {key: platform for key, platform in before.items() if key not in now}
    document = discovery(shown("dog", "bird"), removed)
    assert document["components"]["door_cat"] == {"platform": "binary_sensor"}
    assert document["components"]["door_cat_event"] == {"platform": "event"}


def test_what_another_session_announced_is_taken_back_also_without_a_broker_in_between(tmp_path: Path) -> None:
    """A crash rolls a student back: the next session knows nothing of it but what is on the disk."""
    first = _session(tmp_path, "dog", "bird")
    assert "state/door/bird" not in first
    _session(tmp_path, "dog", "wolf")  # its broker was away
    third = _session(tmp_path, "dog", "cat")
    assert third["state/door/bird"] == third["state/door/wolf"] == b""
    assert "state/door/dog" not in third
    components = json.loads(third["homeassistant/device/distillnet_porch/config"])["components"]
    assert components["door_bird"] == components["door_wolf"] == {"platform": "binary_sensor"}
    assert components["door_bird_event"] == {"platform": "event"}
    assert len(components["door_cat"]) > 1
    back = json.loads(_session(tmp_path, "bird")["homeassistant/device/distillnet_porch/config"])["components"]
    assert len(back["door_bird"]) > 1


def _session(state_dir: Path, *events: str) -> dict[str, bytes]:
    """What one session of a device retains when its student begins to run."""
    config = DeviceConfig.model_validate(
        {
            "device": {"name": "porch", "state_dir": str(state_dir)},
            "model": {"application": "pets"},
            "source": [{"id": "door", "url": "none"}],
        }
    )
    retained: dict[str, bytes] = {}
    link = SimpleNamespace(retain=lambda topic, payload: retained.__setitem__(topic, payload))
    reporter = Reporter(config, "s", Telemetry(), Intake(), SimpleNamespace(events=0, size=0))  # type: ignore[arg-type]
    reporter.use(link, config)  # type: ignore[arg-type]
    card = SimpleNamespace(application="pets", version=1, events=[SimpleNamespace(name=name) for name in events])
    card.metrics = []
    model = SimpleNamespace(info={"engine": "native", "kernels": "scalar"})
    student = SimpleNamespace(card=card, model=model, digest="sha256:" + "0" * 64)
    reporter.student(student, [("door", name) for name in events])  # type: ignore[arg-type]
    base = "distillnet/v1/porch/"
    return {topic.removeprefix(base): payload for topic, payload in retained.items()}
