"""An event's CloudEvents attributes, for subscribers that route by them (`mqtt.cloudevents`).

MQTT's binary content mode, CloudEvents 1.0: the payload stays what the contract says and the attributes are MQTT 5
user properties beside it, so that nobody who does not look for them sees a difference. A 3.1.1 connection has none.
"""

from datetime import UTC, datetime

from distillnet.proto.mqtt import EventPayload

CONTENT_TYPE = "application/json"


def attributes(device: str, event: EventPayload) -> list[tuple[str, str]]:
    """Return names and values. `source` and `id` together name one phase of one event, whenever it is sent again."""
    at = datetime.fromtimestamp(event.frame_ts, UTC).isoformat(timespec="milliseconds")
    return [
        ("specversion", "1.0"),
        ("id", f"{event.session}-{event.seq}"),
        ("source", f"/distillnet/{device}/{event.source}"),
        ("type", f"{event.schema_}.{event.phase}"),
        ("subject", event.event if event.zone is None else f"{event.zone}/{event.event}"),
        ("time", at.replace("+00:00", "Z")),
    ]
