"""Home Assistant's device-based discovery: one retained document that names every entity of a device.

Pure: `discovery` turns what the device is into the document. Events become `event` and `binary_sensor` entities, the
model an `update` entity, latency, frame rate and temperature diagnostic sensors.
Format: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from dataclasses import dataclass
from typing import Any

from distillnet.proto.mqtt import InfoPayload, Topics

Component = dict[str, Any]

_GONE = "['offline', 'lost']"
_TELEMETRY_EXPIRES_INTERVALS = 3


@dataclass(frozen=True)
class Shown:
    """What a discovery document is made from."""

    device: str
    info: InfoPayload
    pairs: tuple[tuple[str, str], ...]
    """Source and event of every `state` topic."""
    telemetry_interval_s: float
    sound_application: str = ""
    """Of the student for sounds, on a board that has two."""


def discovery_topic(prefix: str, device: str) -> str:
    """Return where the document goes."""
    return f"{prefix}/device/distillnet_{device}/config"


def discovery(shown: Shown, removed: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the discovery document.

    Args:
        shown: what the device is now.
        removed: components of an earlier document that are no more, key → platform; Home Assistant deletes those.

    """
    topics = Topics(shown.device)
    components = _components(shown, topics)
    for key, platform in (removed or {}).items():
        components.setdefault(key, {"platform": platform})
    return {
        "device": {
            "identifiers": [f"distillnet_{shown.device}"],
            "name": shown.device,
            "manufacturer": "Distill-Net",
            "model": shown.info.application,
            "hw_version": shown.info.board,
            "sw_version": shown.info.version,
        },
        "origin": {"name": "Distill-Net", "sw_version": shown.info.version},
        "availability_topic": topics.status,
        "availability_template": f"{{{{ 'offline' if value_json.state in {_GONE} else 'online' }}}}",
        "qos": 1,
        "components": components,
    }


def platforms(document: dict[str, Any]) -> dict[str, str]:
    """Return the components of a document and their platforms."""
    return {key: component["platform"] for key, component in document["components"].items()}


def _components(shown: Shown, topics: Topics) -> dict[str, Component]:
    components: dict[str, Component] = {
        "state": _sensor(shown, "state", "State", topics.status, "value_json.state"),
        "model": _model(shown, topics, "model", "Student", topics.model, shown.info.application),
    }
    if shown.sound_application:
        components["sound_model"] = _model(
            shown, topics, "sound_model", "Sound student", topics.sound_model, shown.sound_application
        )
    for stage, name in (("infer", "Inference"), ("end_to_end", "End to end")):
        template = f"value_json.stages.{stage}.p95 | round(2) if value_json.stages.{stage} is defined else none"
        components[f"{stage}_p95"] = _measurement(shown, f"{stage}_p95", f"{name} p95", template, "ms")
    temperature = _measurement(shown, "temperature", "Temperature", "value_json.temperature_c", "°C")
    components["temperature"] = temperature | {"device_class": "temperature"}
    for source in sorted({source for source, _ in shown.pairs}):
        template = f"value_json.sources['{source}'].fps | round(1)"
        components[f"{source}_fps"] = _measurement(shown, f"{source}_fps", f"{source} frame rate", template, "fps")
    for source, event in shown.pairs:
        components[f"{source}_{event}"] = _base(shown, "binary_sensor", f"{source}_{event}", f"{source} {event}") | {
            "state_topic": topics.state(source, event),
            "payload_on": "ON",
            "payload_off": "OFF",
        }
        components[f"{source}_{event}_event"] = _event(shown, topics, source, event)
    return components


def _base(shown: Shown, platform: str, key: str, name: str) -> Component:
    return {"platform": platform, "unique_id": f"distillnet_{shown.device}_{key}", "name": name}


def _sensor(shown: Shown, key: str, name: str, topic: str, template: str) -> Component:
    return _base(shown, "sensor", key, name) | {
        "state_topic": topic,
        "value_template": f"{{{{ {template} }}}}",
        "entity_category": "diagnostic",
    }


def _measurement(shown: Shown, key: str, name: str, template: str, unit: str) -> Component:
    return _sensor(shown, key, name, Topics(shown.device).telemetry, template) | {
        "unit_of_measurement": unit,
        "state_class": "measurement",
        "expire_after": max(1, round(_TELEMETRY_EXPIRES_INTERVALS * shown.telemetry_interval_s)),
    }


def _event(shown: Shown, topics: Topics, source: str, event: str) -> Component:
    attributes = (
        "'event_type': value_json.phase, 'score': value_json.score, 'zone': value_json.zone, 'id': value_json.id"
    )
    return _base(shown, "event", f"{source}_{event}_event", f"{source} {event} event") | {
        "state_topic": topics.event(source, event),
        "event_types": ["new", "update", "end"],
        "value_template": f"{{{{ {{{attributes}}} | tojson }}}}",
    }


def _model(shown: Shown, topics: Topics, key: str, name: str, topic: str, title: str) -> Component:
    installed = "(value_json.installed or {}).get('version', 0) | string"
    latest = "((value_json.candidate or value_json.installed) or {}).get('version', 0) | string"
    busy = "value_json.phase in ['fetching', 'verifying', 'self-test', 'shadow', 'switched', 'probation']"
    share = f"(value_json.progress * 100) | round(0) if {busy} and value_json.progress else none"
    summary = "(value_json.phase ~ (': ' ~ value_json.reason if value_json.reason else ''))[:255]"
    fields = f"'installed_version': {installed}, 'latest_version': {latest}, 'in_progress': {busy}"
    fields += f", 'update_percentage': {share}, 'release_summary': {summary}"
    return _base(shown, "update", key, name) | {
        "state_topic": topic,
        "value_template": f"{{{{ {{{fields}}} | tojson }}}}",
        "command_topic": topics.command("update"),
        "payload_install": "{}",
        "title": title,
        "entity_category": "config",
    }
