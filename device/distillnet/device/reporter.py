"""What the device says of itself over MQTT: status, info, sources, model, telemetry, Home Assistant's discovery."""

import json
import threading
import time
from collections.abc import Iterable
from importlib.metadata import version

from distillnet.device import host
from distillnet.device.announced import Announced
from distillnet.device.broker import Link
from distillnet.device.config import DeviceConfig
from distillnet.device.feed import FeedState
from distillnet.device.frames import Intake
from distillnet.device.homeassistant import Shown, discovery, discovery_topic, platforms
from distillnet.device.outbox import Outbox
from distillnet.device.telemetry import Telemetry
from distillnet.engine.student import Student
from distillnet.proto.mqtt import (
    TELEMETRY_EXPIRY_S,
    DeviceState,
    InfoPayload,
    ModelPayload,
    SourcePayload,
    StatusPayload,
    TelemetryPayload,
    Topics,
    encode,
)


class Reporter:
    """Speaks for one session of one device. Thread-safe."""

    def __init__(
        self, config: DeviceConfig, session: str, telemetry: Telemetry, intake: Intake, outbox: Outbox
    ) -> None:
        """Prepare; `use` names the link."""
        self._config = config
        self._session = session
        self._topics = Topics(config.device.name)
        self._telemetry = telemetry
        self._intake = intake
        self._outbox = outbox
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._cpu_before = (host.cpu_s(), self._started)
        self._info: InfoPayload | None = None
        self._announced = Announced(config.device.state_dir / "announced.json")
        self._latest: TelemetryPayload | None = None

    def use(self, link: Link, config: DeviceConfig) -> None:
        """Speak over this link, of this configuration, from now on."""
        self._link, self._config = link, config

    def will(self) -> bytes:
        """Return what the broker is to say when the device vanishes."""
        return self._status("lost", "connection lost")

    def retain(self, topic: str, payload: bytes) -> None:
        """Set a retained topic; empty clears it."""
        if self._link is not None:
            self._link.retain(topic, payload)

    def status(self, state: DeviceState, reason: str) -> None:
        """Say how the device is."""
        self.retain(self._topics.status, self._status(state, reason))

    def source(self, source: str, state: FeedState, reason: str) -> None:
        """Say how a source is."""
        self.retain(self._topics.source(source), encode(SourcePayload(state=state, reason=reason, ts=time.time())))

    def forget_source(self, source: str) -> None:
        """Clear the topic of a source that is no more."""
        self.retain(self._topics.source(source), b"")

    def model(self, payload: ModelPayload) -> None:
        """Say how far an update is."""
        self.retain(self._topics.model, encode(payload))

    def sound_model(self, payload: ModelPayload) -> None:
        """Say how far an update of the student for sounds is."""
        self.retain(self._topics.sound_model, encode(payload))

    def student(self, student: Student, pairs: Iterable[tuple[str, str]]) -> None:
        """Say what runs, and which events on which sources that means."""
        card, engine = student.card, student.model.info
        self._info = InfoPayload(
            session=self._session,
            ts=time.time(),
            version=version("distillnet"),
            board=host.board(self._config.device.board),
            engine=str(engine["engine"]),
            kernels=str(engine["kernels"]),
            application=card.application,
            model_version=card.version,
            model_digest=student.digest,
            events=[event.name for event in card.events],
            sources={source.id: source.shown_url for source in self._config.source},
            metrics={metric.name: metric.value for metric in card.metrics},
        )
        self.retain(self._topics.info, encode(self._info))
        watched = set(pairs)
        for source, event in self._announced.pairs - watched:
            self.retain(self._topics.state(source, event), b"")
        self._announced.remember(watched, {})
        if self._config.mqtt.home_assistant:
            self._discover(self._info, tuple(sorted(watched)))

    def rediscover(self) -> None:
        """Publish Home Assistant's document again, because it has just started."""
        mqtt = self._config.mqtt
        if self._link is not None and mqtt.home_assistant:
            self._link.repeat(discovery_topic(mqtt.home_assistant_prefix, self._config.device.name))

    def telemetry(self, sources: Iterable[str]) -> TelemetryPayload:
        """Publish what was measured since the last time, and return it."""
        queues = {source: (self._intake.depth(source), self._intake.dropped(source)) for source in sources}
        with self._lock:
            interval_s, stages, counts = self._telemetry.report(queues)
            cpu, now = host.cpu_s(), time.monotonic()
            cpu_before, before = self._cpu_before
            self._cpu_before = (cpu, now)
        payload = TelemetryPayload(
            session=self._session,
            ts=time.time(),
            interval_s=interval_s,
            uptime_s=now - self._started,
            model_digest=self._info.model_digest if self._info else "",
            stages=stages,
            sources=counts,
            outbox_events=self._outbox.events,
            outbox_bytes=self._outbox.size,
            rss_bytes=host.rss_bytes(),
            cpu_share=(cpu - cpu_before) / (now - before) if now > before else 0.0,
            temperature_c=host.temperature_c(),
            throttled=host.throttled(),
        )
        self._latest = payload
        if self._link is not None:
            self._link.publish(self._topics.telemetry, encode(payload), qos=0, expiry_s=TELEMETRY_EXPIRY_S)
        return payload

    def latest(self) -> TelemetryPayload | None:
        """Return the telemetry published last."""
        return self._latest

    def _discover(self, info: InfoPayload, pairs: tuple[tuple[str, str], ...]) -> None:
        heard = self._config.sound_model
        sound = "" if heard is None else heard.application
        shown = Shown(self._config.device.name, info, pairs, self._config.telemetry.interval_s, sound)
        topic = discovery_topic(self._config.mqtt.home_assistant_prefix, self._config.device.name)
        now = platforms(discovery(shown))
        removed = {key: platform for key, platform in self._announced.components.items() if key not in now}
        self.retain(topic, json.dumps(discovery(shown, removed)).encode())
        self._announced.remember((), now)

    def _status(self, state: DeviceState, reason: str) -> bytes:
        return encode(StatusPayload(state=state, session=self._session, ts=time.time(), reason=reason))
