"""Commands, Home Assistant and evidence of a running daemon, over a real Mosquitto with MQTT 5."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from distillnet.device.config import DeviceConfig
from distillnet.device.daemon import Daemon

pytestmark = pytest.mark.integration

BASE = "distillnet/v1/bench"


class Operator:
    """An MQTT 5 client that asks and waits for answers."""

    def __init__(self, port: int) -> None:
        self.seen: dict[str, bytes] = {}
        self.count: dict[str, int] = {}
        self._answers: dict[bytes, Any] = {}
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "operator", protocol=paho.MQTTv5)
        self._client.on_message = self._keep
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert self._ready.wait(10)

    def _keep(self, client: object, userdata: object, message: paho.MQTTMessage) -> None:
        self.seen[message.topic] = message.payload
        self.count[message.topic] = self.count.get(message.topic, 0) + 1
        if message.topic == "answers":
            self._answers[message.properties.CorrelationData] = json.loads(message.payload)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if correlation is not None:
            properties.ResponseTopic = "answers"
            properties.CorrelationData = correlation
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)

    def ask(self, verb: str, until: Callable[..., None], **request: Any) -> Any:
        correlation = f"{verb}-{len(self._answers)}".encode()
        self.publish(f"{BASE}/cmd/{verb}", json.dumps(request).encode(), correlation=correlation)
        until(lambda: correlation in self._answers, 5, f"an answer to {verb}")
        return self._answers[correlation]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def running(
    broker: Any, tmp_path: Path, student_path: Path, make_video: Callable[..., Path], until: Callable[..., None]
) -> Iterator[tuple[Operator, Path]]:
    operator = Operator(broker.port)
    operator.publish(f"{BASE}/cmd/report", b"{}", retain=True)
    url = make_video("grey.mp4", 100, [(0, 40, (20, 20, 230))])
    config = DeviceConfig.model_validate(
        {
            "device": {"name": "bench", "state_dir": tmp_path / "state"},
            "model": {"application": "colours", "path": student_path},
            "mqtt": {"port": broker.port},
            "telemetry": {"interval_s": 60},
            "evidence": {"mode": "snapshot"},
            "source": [{"id": "desk", "url": str(url), "loop": True}],
        }
    )
    daemon = Daemon(config)
    thread = threading.Thread(target=daemon.run, daemon=True)
    thread.start()
    until(lambda: f"{BASE}/event/desk/red" in operator.seen, 10, "red begins")
    yield operator, tmp_path / "state"
    daemon.stop()
    thread.join(5)
    operator.close()


def test_commands_are_answered_with_their_correlation_data(
    running: tuple[Operator, Path], until: Callable[..., None]
) -> None:
    operator, state = running
    report = operator.ask("report", until)
    assert report["ok"] and report["result"]["sources"]["desk"]["frames"] > 0

    snapshot = operator.ask("snapshot", until, source="desk")
    assert (state / snapshot["result"]["evidence"]).read_bytes()[:2] == b"\xff\xd8"
    assert operator.ask("snapshot", until, source="garden") == {
        "ok": False,
        "reason": "there is no source 'garden'; there are ['desk']",
        "result": {},
    }
    assert operator.ask("threshold", until, event="green", threshold=0.9)["ok"]
    assert "knows no event 'blue'" in operator.ask("threshold", until, event="blue", threshold=0.9)["reason"]
    online = operator.count[f"{BASE}/source/desk"]
    assert operator.ask("restart-source", until, source="desk")["ok"]
    until(lambda: operator.count[f"{BASE}/source/desk"] > online, 5, "the source comes back")
    assert "takes no updates" in operator.ask("update", until)["reason"]
    assert "did you mean 'report'" in operator.ask("repot", until)["reason"]


def test_an_event_names_its_evidence(running: tuple[Operator, Path], until: Callable[..., None]) -> None:
    operator, state = running
    event = json.loads(operator.seen[f"{BASE}/event/desk/red"])
    until(lambda: (state / f"evidence/desk/{event['id']}.jpg").exists(), 5, "the picture")
    if event["phase"] == "new":
        assert event["evidence"] == f"evidence/desk/{event['id']}.jpg"


def test_home_assistant_is_told_and_told_again_at_its_birth(
    running: tuple[Operator, Path], until: Callable[..., None]
) -> None:
    operator, _ = running
    topic = "homeassistant/device/distillnet_bench/config"
    until(lambda: topic in operator.seen, 5, "discovery")
    assert "desk_red" in json.loads(operator.seen[topic])["components"]
    before = operator.count[topic]
    operator.publish("homeassistant/status", b"online")
    until(lambda: operator.count[topic] > before, 5, "discovery again")
