"""The whole daemon in this process against a real Mosquitto: everything that crosses the broker, and what survives."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import paho.mqtt.client as paho
import pytest

from distillnet.device.broker import Link, Message
from distillnet.device.config import DeviceConfig, MqttSection
from distillnet.device.config import load as load_config
from distillnet.device.daemon import Daemon
from distillnet.device.outbox import Outbox
from distillnet.engine.student import Student
from distillnet.proto.mqtt import EventPayload, schemas

pytestmark = pytest.mark.integration

BASE = "distillnet/v1/bench/"


class Subscriber:
    """An independent subscriber that keeps everything."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, Any, bool]] = []
        self.up = threading.Event()
        self._link = Link(
            MqttSection(port=port), "subscriber", subscriptions=("#",), on_up=self.up.set, on_message=self._keep
        )
        self._link.start()
        assert self.up.wait(10)

    def _keep(self, message: Message) -> None:
        text = message.payload.decode()
        payload = json.loads(text) if text.startswith("{") else text
        self.messages.append((message.topic.removeprefix(BASE), payload, message.retained))

    def of(self, kind: str) -> list[Any]:
        return [payload for topic, payload, _ in list(self.messages) if topic.split("/")[0] == kind]

    def close(self) -> None:
        self._link.stop()


@pytest.fixture
def subscriber(broker: Any) -> Iterator[Subscriber]:
    one = Subscriber(broker.port)
    yield one
    one.close()


@pytest.fixture
def make_config(tmp_path: Path, student_path: Path) -> Callable[..., DeviceConfig]:
    def make(port: int, *sources: dict[str, Any], **sections: Any) -> DeviceConfig:
        document = {
            "device": {"name": "bench", "state_dir": tmp_path / "state"},
            "model": {"application": "colours", "path": student_path},
            "mqtt": {"port": port},
            "telemetry": {"interval_s": 0.5},
            "source": list(sources),
            **sections,
        }
        return DeviceConfig.model_validate(document)

    return make


@pytest.fixture
def in_background() -> Iterator[Callable[[Daemon], threading.Thread]]:
    """Run a daemon in a thread; a test that fails leaves none behind."""
    running: list[tuple[Daemon, threading.Thread]] = []

    def run(daemon: Daemon) -> threading.Thread:
        thread = threading.Thread(target=daemon.run, name="main", daemon=True)
        thread.start()
        running.append((daemon, thread))
        return thread

    yield run
    for daemon, thread in running:
        daemon.stop()
        thread.join(5)


def test_everything_that_crosses_the_broker_fits_its_schema(
    broker: Any,
    subscriber: Subscriber,
    make_config: Callable[..., DeviceConfig],
    video: Path,
    until: Callable[..., None],
) -> None:
    zones = [{"name": "left", "box": [0, 0, 0.5, 1]}, {"name": "right", "box": [0.5, 0, 1, 1]}]
    config = make_config(broker.port, {"id": "desk", "url": str(video), "zones": zones, "pace": "fast"})
    summary = Daemon(config).run()
    assert (summary.frames, summary.dropped, summary.events) == (100, 0, 4)
    until(lambda: any(payload.get("state") == "offline" for payload in subscriber.of("status")), 5, "offline")

    published = schemas()
    for topic, payload, _ in subscriber.messages:
        kind = topic.split("/")[0]
        if kind == "state":
            assert payload in ("ON", "OFF")
        elif not topic.startswith("homeassistant/"):
            jsonschema.validate(payload, published[kind])

    events = subscriber.of("event")
    assert [event["seq"] for event in events] == list(range(8))
    assert {event["zone"] for event in events} == {"left", "right"}
    assert all(event["publish_ts"] and not event["replayed"] for event in events)
    assert all(event["latency_ms"]["infer"] > 0 for event in events if event["phase"] == "new")
    assert subscriber.of("status")[0]["state"] == "ready"
    assert subscriber.of("info")[0]["events"] == ["red", "green"]
    reports = subscriber.of("telemetry")
    assert sum(report["sources"]["desk"]["frames"] for report in reports) == 100
    assert set(reports[0]["stages"]) >= {"capture", "preprocess", "infer", "decide"}
    assert any("end_to_end" in report["stages"] for report in reports)
    assert subscriber.messages[-1][0] == "status"


def test_retained_topics_tell_a_late_subscriber_how_it_is(
    broker: Any, make_config: Callable[..., DeviceConfig], video: Path
) -> None:
    Daemon(make_config(broker.port, {"id": "desk", "url": str(video), "pace": "fast"})).run()
    late = Subscriber(broker.port)
    time.sleep(0.3)
    late.close()
    topics = {topic: payload for topic, payload, retained in late.messages if retained}
    assert topics["state/desk/red"] == "OFF"
    assert topics["status"]["state"] == "offline"
    assert topics["source/desk"]["reason"] == "end of file"
    assert not any(topic.startswith("event/") for topic in topics)


def test_without_a_broker_it_runs_and_delivers_later_as_replayed(
    broker: Any,
    make_config: Callable[..., DeviceConfig],
    video: Path,
    until: Callable[..., None],
    in_background: Callable[[Daemon], threading.Thread],
) -> None:
    broker.kill()
    config = make_config(broker.port, {"id": "desk", "url": str(video), "pace": "fast"})
    assert Daemon(config).run().events == 2
    broker.start()
    subscriber = Subscriber(broker.port)
    daemon = Daemon(make_config(broker.port, {"id": "desk", "url": str(video), "loop": True}))
    thread = in_background(daemon)
    until(lambda: len(subscriber.of("event")) >= 4, 10, "the old session's events")
    daemon.stop()
    thread.join(5)
    subscriber.close()
    old = subscriber.of("event")[:4]
    assert all(event["replayed"] for event in old)
    assert [event["seq"] for event in old] == [0, 1, 2, 3]
    assert [event["phase"] for event in old] == ["new", "end", "new", "end"]


def test_another_student_is_taken_between_two_frames(
    broker: Any,
    subscriber: Subscriber,
    make_config: Callable[..., DeviceConfig],
    make_video: Callable[..., Path],
    other_student_bytes: bytes,
    until: Callable[..., None],
    in_background: Callable[[Daemon], threading.Thread],
) -> None:
    """The new event set is followed, retained states of vanished events are cleared, nothing is dropped."""
    url = make_video("green.mp4", 60, [(0, 60, (20, 230, 20))])
    daemon = Daemon(make_config(broker.port, {"id": "desk", "url": str(url), "loop": True}))
    thread = in_background(daemon)
    until(lambda: "ON" in [p for t, p, _ in subscriber.messages if t == "state/desk/green"], 10, "green is on")
    daemon.slot.swap(Student.load(other_student_bytes))
    until(lambda: "ON" in [p for t, p, _ in subscriber.messages if t == "state/desk/leaf"], 10, "leaf is on")
    daemon.stop()
    thread.join(5)
    phases = [(event["event"], event["phase"]) for event in subscriber.of("event")]
    assert phases == [("green", "new"), ("green", "end"), ("leaf", "new"), ("leaf", "end")]
    assert [p for t, p, _ in subscriber.messages if t == "state/desk/green"][-1] == ""
    assert subscriber.of("info")[-1]["model_version"] == 2
    assert sum(report["sources"]["desk"]["dropped"] for report in subscriber.of("telemetry")) == 0


def test_a_stop_ends_open_events_within_two_seconds(
    broker: Any,
    subscriber: Subscriber,
    make_config: Callable[..., DeviceConfig],
    make_video: Callable[..., Path],
    until: Callable[..., None],
    in_background: Callable[[Daemon], threading.Thread],
) -> None:
    url = make_video("red.mp4", 40, [(0, 40, (20, 20, 230))])
    daemon = Daemon(make_config(broker.port, {"id": "desk", "url": str(url), "loop": True}))
    thread = in_background(daemon)
    until(lambda: len(subscriber.of("event")) >= 1, 10, "red begins")
    started = time.monotonic()
    daemon.stop()
    thread.join(5)
    assert time.monotonic() - started < 2.0
    until(lambda: len(subscriber.of("event")) >= 2, 5, "red ends")
    assert subscriber.of("event")[-1]["phase"] == "end"
    assert subscriber.of("state")[-1] == "OFF"


def test_the_last_will_says_lost(
    broker: Any, subscriber: Subscriber, until: Callable[..., None], tmp_path: Path
) -> None:
    import os
    import signal
    import subprocess
    import sys

    code = (
        "import time\nfrom distillnet.device.broker import Link, Will\n"
        "from distillnet.device.config import MqttSection\n"
        f"will = Will('{BASE}status', b'{{\"state\":\"lost\"}}')\n"
        f"Link(MqttSection(port={broker.port}), 'x', will=will, on_up=lambda: print('up', flush=True)).start()\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: {"state": "lost"} in subscriber.of("status"), 5, "lost")


def test_a_reload_takes_new_rules_and_refuses_a_broken_file(
    broker: Any,
    subscriber: Subscriber,
    tmp_path: Path,
    student_path: Path,
    make_video: Callable[..., Path],
    until: Callable[..., None],
    in_background: Callable[[Daemon], threading.Thread],
) -> None:
    url = make_video("red.mp4", 40, [(0, 40, (20, 20, 230))])
    path = tmp_path / "device.toml"
    text = (
        f'[device]\nname = "bench"\nstate_dir = "{tmp_path / "state"}"\n'
        f'[model]\napplication = "colours"\npath = "{student_path}"\n'
        f'[mqtt]\nport = {broker.port}\n[[source]]\nid = "desk"\nurl = "{url}"\nloop = true\n'
    )
    path.write_text(text + '[[event]]\nname = "red"\nminimum_s = 3600\n')
    daemon = Daemon(load_config(path), path)
    thread = in_background(daemon)
    until(lambda: any(p.get("state") == "online" for p in subscriber.of("source")), 10, "source online")
    path.write_text(text + "[[event]]\nnam = 1\n")
    daemon.reload()
    until(lambda: subscriber.of("status")[-1]["state"] == "degraded", 5, "the refusal is said")
    assert "did you mean 'name'" in subscriber.of("status")[-1]["reason"]
    assert subscriber.of("event") == []
    path.write_text(text.replace('"desk"', '"table"'))
    daemon.reload()
    until(lambda: len(subscriber.of("event")) >= 1, 10, "red begins on the new source")
    daemon.stop()
    thread.join(5)
    assert {event["source"] for event in subscriber.of("event")} == {"table"}
    assert [p for t, p, _ in subscriber.messages if t == "source/desk"][-1] == ""
    until(lambda: subscriber.of("status")[-1]["state"] == "offline", 5, "offline")


def test_without_a_disk_it_runs_delivers_and_says_so(
    broker: Any, subscriber: Subscriber, make_config: Callable[..., DeviceConfig], video: Path, tmp_path: Path
) -> None:
    """A file where the state directory should be stands for a disk that takes nothing."""
    (tmp_path / "state").write_text("in the way")
    summary = Daemon(make_config(broker.port, {"id": "desk", "url": str(video)})).run()
    assert (summary.events, summary.dropped) == (2, 0)
    assert len(subscriber.of("event")) == 4
    said = [payload for payload in subscriber.of("status") if payload["state"] == "degraded"]
    assert said and "cannot be written" in said[0]["reason"]


def test_events_carry_cloudevents_attributes_where_asked(
    broker: Any, make_config: Callable[..., DeviceConfig], video: Path, until: Callable[..., None]
) -> None:
    """https://github.com/cloudevents/spec, MQTT binding 1.0.2, binary mode: the payload is the contract's."""
    heard: list[paho.MQTTMessage] = []
    up = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda c, u, message: heard.append(message)
    client.on_subscribe = lambda *_: up.set()
    client.connect("127.0.0.1", broker.port)
    client.subscribe(f"{BASE}event/#", qos=1)
    client.loop_start()
    assert up.wait(10)
    config = make_config(
        broker.port, {"id": "desk", "url": str(video)}, mqtt={"port": broker.port, "cloudevents": True}
    )
    Daemon(config).run()
    until(lambda: len(heard) == 4, 5, "two events, new and end")
    client.loop_stop()
    for message in heard:
        payload = json.loads(message.payload)
        jsonschema.validate(payload, schemas()["event"])
        labels = dict(message.properties.UserProperty)
        assert message.properties.ContentType == "application/json"
        assert labels.pop("time").endswith("Z")
        assert labels == {
            "specversion": "1.0",
            "id": f"{payload['session']}-{payload['seq']}",
            "source": "/distillnet/bench/desk",
            "type": f"distillnet.event.v1.{payload['phase']}",
            "subject": payload["event"],
        }


BROKEN = """
import sys, time
from distillnet.device import daemon
from distillnet.device.pipeline import Pipeline
daemon._HUNG_S, daemon._LOST_S = 0.5, 0.5
handle, seen = Pipeline._handle, []

def breaks(pipeline, student, frame):
    seen.append(frame)
    if len(seen) > 10:
        {what}
    handle(pipeline, student, frame)

Pipeline._handle = breaks
from distillnet.device.cli import main
sys.argv = ["distillnet", "run", sys.argv[1]]
main()
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise IndexError('out of zones')", "the inference thread has ended: IndexError: out of zones"),
        ("time.sleep(3600)", "inference hangs for"),
    ],
)
def test_a_daemon_that_can_recognise_nothing_any_longer_ends_and_says_why(
    broker: Any,
    subscriber: Subscriber,
    tmp_path: Path,
    student_path: Path,
    video: Path,
    until: Callable[..., None],
    what: str,
    said: str,
) -> None:
    """Without systemd's watchdog nobody else would notice."""
    path = tmp_path / "device.toml"
    path.write_text(
        f'[device]\nname = "bench"\nstate_dir = "{tmp_path / "state"}"\n'
        f'[model]\napplication = "colours"\npath = "{student_path}"\n'
        f'[mqtt]\nport = {broker.port}\n[[source]]\nid = "desk"\nurl = "{video}"\nloop = true\n'
    )
    command = [sys.executable, "-c", BROKEN.format(what=what), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"error: {said}" in done.stderr
    until(lambda: subscriber.of("status")[-1]["state"] == "offline", 5, "it says goodbye")
    assert said in subscriber.of("status")[-1]["reason"]


def test_a_tapped_run_loses_nothing_while_the_broker_comes_and_goes(
    broker: Any,
    make_config: Callable[..., DeviceConfig],
    make_video: Callable[..., Path],
    until: Callable[..., None],
    in_background: Callable[[Daemon], threading.Thread],
    persistent_subscriber: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    url = make_video("flicker.mp4", 100, [(i, i + 5, (20, 20, 230)) for i in range(0, 100, 10)])
    rules = [{"name": "red", "confirm": 1, "window": 1}]
    tapped: list[EventPayload] = []
    source = {"id": "desk", "url": str(url), "loop": True, "pace": "fast", "rate_hz": 1000}
    daemon = Daemon(make_config(broker.port, source, event=rules), tap=tapped.append)
    subscriber = persistent_subscriber(f"{BASE}event/#")
    thread = in_background(daemon)
    for _ in range(2):
        time.sleep(0.5)
        broker.stop()
        time.sleep(0.3)
        broker.start()
    time.sleep(0.5)
    daemon.stop()
    thread.join(5)
    kept = Outbox(tmp_path / "state" / "outbox.db", clock=time.time).peek(0, 10**6)
    waiting = {json.loads(entry.payload)["seq"] for entry in kept}
    decided = {event.seq for event in tapped}
    until(lambda: subscriber.seqs() | waiting >= decided, 10, "all are there, or still in the outbox")
    assert subscriber.seqs() <= decided
    order = list(dict.fromkeys(event["seq"] for event in subscriber.events))
    assert order == sorted(order)
    assert len(tapped) > 50
