"""The daemon: wires sources, inference, outbox, broker and updates together, and keeps them going.

Nothing imports this but the command line. `Daemon(config)` checks what must be right (files, student) and raises;
`run` returns when told to stop or when every source has come to its end.
"""

import logging
import signal
import threading
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import cv2

from distillnet.device import config as device_file
from distillnet.device import host
from distillnet.device.announcer import Announcer, Tap
from distillnet.device.broker import Link, Message, Will
from distillnet.device.config import DeviceConfig, Source
from distillnet.device.courier import Courier
from distillnet.device.decisions import Decisions
from distillnet.device.feed import Feed, FeedState
from distillnet.device.frames import Intake
from distillnet.device.health import Health
from distillnet.device.ids import uuid7
from distillnet.device.notify import Notifier
from distillnet.device.outbox import Outbox
from distillnet.device.pipeline import Pipeline
from distillnet.device.readers import SourceError, check, redacted
from distillnet.device.slot import ModelSlot
from distillnet.device.telemetry import Telemetry
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError
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
from distillnet.proto.strict import ConfigError

log = logging.getLogger(__name__)

_TICK_S = 0.1
_HUNG_S = 10.0
"""An inference thread without a heartbeat for so long is no longer worth a watchdog's patience."""
_STOP_S = 0.5


class Updates(Protocol):
    """What the daemon needs of the update service."""

    def start(self) -> None:
        """Begin to look for updates."""

    def stop(self) -> None:
        """End within a second."""


@dataclass(frozen=True)
class Summary:
    """What one run did."""

    frames: int
    dropped: int
    gated: int
    events: int


class Daemon:
    """One run of the device."""

    def __init__(self, config: DeviceConfig, path: Path | None = None, *, tap: Tap | None = None) -> None:
        """Check the configuration against the world and wire everything; nothing runs yet.

        Args:
            config: the device file.
            path: where it came from, for reloads.
            tap: sees every event before the outbox does.

        Raises:
            ConfigError: a file the configuration names is missing or of no use.
            StudentError: the student is no valid student.
            ModelError: its model cannot be loaded.

        """
        cv2.setNumThreads(1)
        self._config = config
        self._path = path
        self._session = uuid.uuid4().hex
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._stopped_by = ""
        self._notifier = Notifier()
        self._topics = Topics(config.device.name)
        self._telemetry = Telemetry()
        self._cpu_before = (host.cpu_s(), time.monotonic())
        _check_sources(config)
        self._slot = ModelSlot(_first_student(config))
        self._health = Health(self._publish_status)
        self._intake = Intake(on_drop=self._slot.record_dropped)
        self._outbox = Outbox(
            config.device.state_dir / "outbox.db",
            max_bytes=config.outbox.max_bytes,
            max_age_s=config.outbox.max_age_s,
            clock=time.time,
        )
        self._courier = Courier(self._outbox, self._session, self._telemetry)
        self._link = self._make_link(config)
        self._courier.use(self._link)
        self._decisions = Decisions(config.event, lambda start_ts, key: uuid7(start_ts))
        announcer = Announcer(
            self._topics, self._session, self._outbox, retain=self._retain, put=self._courier.waiting, tap=tap
        )
        self._pipeline = Pipeline(self._slot, self._intake, self._decisions, announcer, self._telemetry)
        self._sources = {source.id: source for source in config.source}
        self._pipeline.watch(self._sources)
        self._slot.observe(lambda old, new: self._new_student(new))
        self._feeds = {
            source.id: Feed(source, self._intake, self._telemetry, self._source_state) for source in config.source
        }
        self._ended: set[str] = set()
        self._updates = _updates(config, self._slot, self._publish_model)

    @property
    def slot(self) -> ModelSlot:
        """Where the running student is."""
        return self._slot

    def run(self) -> Summary:
        """Run until `stop`, a signal, or the end of every source; then end events and say goodbye."""
        self._start()
        try:
            while not self._stop.wait(_TICK_S):
                self._tick()
        finally:
            summary = self._shut_down()
        return summary

    def stop(self, why: str = "asked to") -> None:
        """End `run` soon. Callable from anywhere, signal handlers included."""
        self._stopped_by = self._stopped_by or why
        self._stop.set()

    def reload(self) -> None:
        """Read the device file again soon. Callable from anywhere."""
        self._reload.set()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads. Main thread only."""
        signal.signal(signal.SIGTERM, lambda number, frame: self.stop("SIGTERM"))
        signal.signal(signal.SIGINT, lambda number, frame: self.stop("SIGINT"))
        signal.signal(signal.SIGHUP, lambda number, frame: self.reload())

    # Life

    def _start(self) -> None:
        student = self._slot.current()
        log.info(
            "device %s, session %s, student %s, broker %s",
            self._config.device.name,
            self._session,
            "none yet"
            if student is None
            else f"{student.card.application} v{student.card.version} {student.digest[:19]}",
            self._link.endpoint,
        )
        self._publish_status(*self._health.state())
        if student is not None:
            self._new_student(student)
        self._courier.start()
        self._link.start()
        self._pipeline.start()
        for feed in self._feeds.values():
            feed.start()
        threading.Thread(target=self._report_often, name="telemetry", daemon=True).start()
        if self._updates is not None:
            self._updates.start()
        self._notifier.send(READY=1, STATUS="running")

    def _tick(self) -> None:
        if self._reload.is_set():
            self._reload.clear()
            self._read_again()
        now = time.monotonic()
        for feed in list(self._feeds.values()):
            feed.watch()
            if feed.finished and feed.source.id not in self._ended and self._intake.depth(feed.source.id) == 0:
                self._ended.add(feed.source.id)
                self._pipeline.submit(lambda source=feed.source.id: self._pipeline.finish_source(source, time.time()))  # type: ignore[misc]
        alive = now - self._pipeline.heartbeat < _HUNG_S
        self._health.complain("disk", self._outbox.fault)
        self._health.complain("engine", self._pipeline.engine_error if alive else "inference hangs")
        if self._notifier.watchdog_s is not None and alive:
            self._notifier.send(WATCHDOG=1)
        if self._feeds and len(self._ended) == len(self._feeds):
            self.stop("every source has come to its end")

    def _shut_down(self) -> Summary:
        log.info("stopping: %s", self._stopped_by)
        self._notifier.send(STOPPING=1, STATUS=f"stopping: {self._stopped_by}")
        for feed in self._feeds.values():
            feed.stop()
        if self._updates is not None:
            self._updates.stop()
        if not self._pipeline.stop(_STOP_S):
            log.error("the inference thread hangs; its open events are not ended")
        self._report()
        self._courier.stop(flush_s=_STOP_S)
        self._retain(self._topics.status, self._status("offline", self._stopped_by))
        self._link.stop()
        self._outbox.close()
        for feed in self._feeds.values():
            feed.join(0.1)
        totals = self._telemetry.totals()
        summary = Summary(totals.frames, self._intake.total_dropped(), totals.gated, totals.events)
        log.info(
            "stopped: %d frames, %d dropped, %d gated, %d events",
            summary.frames,
            summary.dropped,
            summary.gated,
            summary.events,
        )
        return summary

    def _report_often(self) -> None:
        while not self._stop.wait(self._config.telemetry.interval_s):
            self._report()

    # Reload

    def _read_again(self) -> None:
        """Take over what may change while running; a broken file is refused and the old one kept."""
        if self._path is None:
            return
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            new = device_file.load(self._path)
            self._take_over(new)
        except (ConfigError, SourceError) as exc:
            log.error("%s is refused, the configuration stays as it was: %s", self._path, exc)
            self._health.complain("config", f"reload refused: {exc}".replace("\n", "; "))
        else:
            self._health.complain("config", "")
            log.info("%s read again", self._path)
        self._notifier.send(READY=1)

    def _take_over(self, new: DeviceConfig) -> None:
        old = self._config
        fixed = [
            part
            for part in ("device", "model", "engine", "outbox", "update")
            if getattr(old, part) != getattr(new, part)
        ]
        for part in fixed:
            log.warning("a change in [%s] takes effect at the next start", part)
        new = new.model_copy(update={part: getattr(old, part) for part in fixed})
        changed = [source for source in new.source if self._sources.get(source.id) != source]
        for source in changed:
            check(source)
        link = self._make_link(new) if new.mqtt != old.mqtt else None
        self._config = new
        self._sources = {source.id: source for source in new.source}
        for source_id in set(self._feeds) - set(self._sources):
            self._remove_feed(source_id)
            self._link.forget(self._topics.source(source_id))
        if link is not None:
            self._link.stop()
            link.adopt(self._link)
            self._link = link
            self._courier.use(link)
            link.start()
        self._pipeline.submit(self._use_new_rules)
        for source in changed:
            self._replace_feed(source)

    def _use_new_rules(self) -> None:
        student = self._slot.current()
        self._decisions.use_rules(self._config.event, student.card if student else None)
        self._pipeline.watch(self._sources)

    def _remove_feed(self, source_id: str) -> None:
        feed = self._feeds.pop(source_id)
        feed.stop()
        feed.join(_STOP_S)
        self._intake.remove(source_id)
        self._ended.discard(source_id)
        self._pipeline.submit(lambda: self._pipeline.finish_source(source_id, time.time()))

    def _replace_feed(self, source: Source) -> None:
        if source.id in self._feeds:
            self._remove_feed(source.id)
        feed = Feed(source, self._intake, self._telemetry, self._source_state)
        self._feeds[source.id] = feed
        feed.start()

    # What others are told

    def _make_link(self, config: DeviceConfig) -> Link:
        return Link(
            config.mqtt,
            client_id=f"distillnet-{config.device.name}-{self._session[:8]}",
            will=Will(self._topics.status, self._status("lost", "connection lost")),
            subscriptions=(self._topics.command("+"),),
            on_up=self._connected,
            on_down=lambda reason: None,
            on_ack=self._courier.acknowledged,
            on_message=self._command,
        )

    def _retain(self, topic: str, payload: bytes) -> None:
        self._link.retain(topic, payload)

    def _connected(self) -> None:
        self._courier.reconnected()

    def _command(self, message: Message) -> None:
        log.warning("command %s is unknown", message.topic)

    def _status(self, state: DeviceState, reason: str) -> bytes:
        return encode(StatusPayload(state=state, session=self._session, ts=time.time(), reason=reason))

    def _publish_status(self, state: DeviceState, reason: str) -> None:
        self._retain(self._topics.status, self._status(state, reason))
        self._notifier.send(STATUS=f"{state}: {reason}" if reason else state)

    def _source_state(self, source: str, state: FeedState, reason: str) -> None:
        level = logging.INFO if state == "online" or reason == "end of file" else logging.WARNING
        log.log(level, "source %s: %s%s", source, state, f" ({reason})" if reason else "")
        self._retain(self._topics.source(source), encode(SourcePayload(state=state, reason=reason, ts=time.time())))
        wrong = state == "error" or (state == "stalled" and reason != "end of file")
        self._health.complain(f"source {source}", f"source {source}: {reason}" if wrong else "")
        if wrong:
            self._pipeline.submit(lambda: self._pipeline.finish_source(source, time.time()))

    def _publish_model(self, payload: ModelPayload) -> None:
        self._retain(self._topics.model, encode(payload))
        self._health.update_phase(payload.phase)

    def _new_student(self, student: Student) -> None:
        log.info(
            "running %s v%d by %s (%s)",
            student.card.application,
            student.card.version,
            student.model.info["engine"],
            student.model.info["kernels"],
        )
        self._health.has_student()
        self._retain(self._topics.info, encode(self._info(student)))

    def _info(self, student: Student) -> InfoPayload:
        card, engine = student.card, student.model.info
        return InfoPayload(
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
            sources={source.id: redacted(source.url) for source in self._config.source},
            metrics={metric.name: metric.value for metric in card.metrics},
        )

    def _report(self) -> None:
        queues = {source: (self._intake.depth(source), self._intake.dropped(source)) for source in list(self._feeds)}
        interval_s, stages, sources = self._telemetry.report(queues)
        cpu, now = host.cpu_s(), time.monotonic()
        cpu_before, before = self._cpu_before
        self._cpu_before = (cpu, now)
        student = self._slot.current()
        payload = TelemetryPayload(
            session=self._session,
            ts=time.time(),
            interval_s=interval_s,
            uptime_s=now - self._started,
            model_digest=student.digest if student else "",
            stages=stages,
            sources=sources,
            outbox_events=self._outbox.events,
            outbox_bytes=self._outbox.size,
            rss_bytes=host.rss_bytes(),
            cpu_share=(cpu - cpu_before) / (now - before) if now > before else 0.0,
            temperature_c=host.temperature_c(),
            throttled=host.throttled(),
        )
        self._link.publish(self._topics.telemetry, encode(payload), qos=0, expiry_s=TELEMETRY_EXPIRY_S)


def _check_sources(config: DeviceConfig) -> None:
    for source in config.source:
        try:
            check(source)
        except SourceError as exc:
            raise ConfigError(str(exc)) from exc


def _first_student(config: DeviceConfig) -> Student | None:
    """Return the student to start with: the committed one, else `model.path`, else none where updates may bring one."""
    data = _committed_student(config)
    where = "the committed student"
    if data is None and config.model.path is not None:
        where = str(config.model.path)
        try:
            data = config.model.path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"model.path: {where} cannot be read: {exc.strerror}") from exc
    if data is None:
        if config.update.server is None:
            raise ConfigError("there is no student to run: set model.path, or update.server to get one")
        return None
    try:
        student = Student.load(data, engine=config.engine.backend, threads=config.engine.threads)
    except StudentError as exc:
        raise StudentError(f"{where}: {exc}") from exc
    if student.card.application != config.model.application:
        raise ConfigError(
            f"model.application is {config.model.application!r} but {where} is for {student.card.application!r}"
        )
    return student


def _has_updates(config: DeviceConfig) -> bool:
    return config.update.server is not None or (config.device.state_dir / "store").exists()


def _committed_student(config: DeviceConfig) -> bytes | None:
    if not _has_updates(config):
        return None
    from distillnet.device.update.service import startup_student  # only boards that take updates need TUF

    return startup_student(config)


def _updates(config: DeviceConfig, slot: ModelSlot, publish: Any) -> Updates | None:
    if not _has_updates(config):
        return None
    from distillnet.device.update.service import UpdateService

    return UpdateService(config, slot, publish)
