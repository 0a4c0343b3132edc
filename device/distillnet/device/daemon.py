"""The daemon: wires sources, inference, outbox, broker and updates together, and keeps them going.

Nothing imports this but the command line. `Daemon(config)` checks what must be right (files, student) and raises;
`run` returns when told to stop or when every source has come to its end.
"""

import gc
import logging
import queue
import signal
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distillnet.device import config as device_file
from distillnet.device import host
from distillnet.device.announcer import Announcer, Tap
from distillnet.device.broker import Link, Message, Will
from distillnet.device.config import DeviceConfig, Source
from distillnet.device.courier import Courier
from distillnet.device.decisions import Decisions
from distillnet.device.evidence import Evidence
from distillnet.device.feed import Feed, FeedState
from distillnet.device.frames import Intake, Sense
from distillnet.device.health import Health
from distillnet.device.ids import uuid7
from distillnet.device.journal import Note, note
from distillnet.device.notify import Notifier
from distillnet.device.outbox import Outbox
from distillnet.device.pipeline import Pipeline
from distillnet.device.prometheus import Exporter, exposition
from distillnet.device.readers import HEARD, SourceError, check, kind_of
from distillnet.device.remote import CommandError, Commands, NewThreshold, Nothing, OneSource
from distillnet.device.reporter import Reporter
from distillnet.device.slot import ModelSlot
from distillnet.device.startup import check_sources, first_student, sound_student, updates
from distillnet.device.strain import Strain
from distillnet.device.telemetry import SourceCounts, Telemetry
from distillnet.device.unsure import Unsure
from distillnet.engine.student import Student
from distillnet.proto.mqtt import DeviceState, ModelPayload, Topics, encode
from distillnet.proto.strict import ConfigError

log = logging.getLogger(__name__)

_TICK_S = 1.0
"""How often is looked whether all is well; whoever wants something sooner wakes the main thread."""
_HUNG_S = 10.0
"""An inference thread without a heartbeat for so long no longer feeds the watchdog."""
_LOST_S = 20.0
"""After so long again without one it will not come back: the daemon ends, for whoever started it to start it anew."""
_TIDY_S = 60.0
"""How often free memory goes back to the system: threads, decoders that come and go, and clips leave it in pieces."""
_STOP_S = 0.5
_COMMANDS = 32
Wake = Literal["stop", "reload", "request"]
_FIXED = ("device", "model", "sound_model", "engine", "outbox", "update", "evidence", "feedback")
"""Sections that take effect at the next start only."""


@dataclass(frozen=True)
class Summary:
    """What one run did."""

    frames: int
    dropped: int
    gated: int
    events: int


class InferenceLostError(Exception):
    """The inference thread has ended or hangs for good; the message says why."""


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
        self._config = config
        self._path = path
        self._session = uuid.uuid4().hex
        self._topics = Topics(config.device.name)
        self._stop = threading.Event()
        self._wake: queue.SimpleQueue[Wake] = queue.SimpleQueue()  # its `put` may interrupt itself: signal handlers
        self._stopped_by = ""
        self._lost = ""
        self._hung_since: float | None = None
        self._requests: queue.Queue[Message] = queue.Queue(_COMMANDS)
        self._notifier = Notifier()
        check_sources(config)
        self._slot = ModelSlot(first_student(config))
        self._telemetry = Telemetry()
        self._intake = Intake(on_drop=self._slot.record_dropped)
        state_dir, outbox = config.device.state_dir, config.outbox
        self._outbox = Outbox(
            state_dir / "outbox.db", max_bytes=outbox.max_bytes, max_age_s=outbox.max_age_s, clock=time.time
        )
        self._reporter = Reporter(config, self._session, self._telemetry, self._intake, self._outbox)
        self._health = Health(self._say_state)
        self._courier = Courier(self._outbox, self._session, self._telemetry)
        self._link = self._make_link(config)
        self._use_link()
        self._reporter.use(self._link, config)
        self._evidence = Evidence(config.evidence, state_dir)
        self._unsure = Unsure(config.feedback, state_dir)
        decisions = Decisions(config.event, lambda start_ts, key: uuid7(start_ts))
        announcer = Announcer(
            self._topics, self._session, self._outbox, retain=self._reporter.retain, put=self._courier.waiting, tap=tap
        )
        self._pipeline = Pipeline(
            self._slot,
            self._intake,
            decisions,
            announcer,
            self._telemetry,
            self._evidence,
            unsure=self._unsure if config.feedback.examples else None,
        )
        self._pipelines: dict[Sense, Pipeline] = {"sight": self._pipeline}
        hearing: ModelSlot | None = None
        if config.sound_model is not None:
            hearing = ModelSlot(sound_student(config))
            sounds = Decisions(config.event, lambda start_ts, key: uuid7(start_ts))
            self._pipelines["hearing"] = Pipeline(
                hearing, self._intake, sounds, announcer, self._telemetry, self._evidence, "hearing"
            )
            hearing.observe(lambda old, new: self._say_student(self._slot.current()))
        self._sources = {source.id: source for source in config.source}
        self._watch_sources()
        self._slot.observe(lambda old, new: self._say_student(new))
        self._feeds = {source.id: self._make_feed(source) for source in config.source}
        self._ended: set[str] = set()
        self._strain = Strain(time.monotonic())
        self._commands = self._make_commands()
        port = config.telemetry.prometheus_port
        self._exporter = None if port is None else Exporter(port, self._exposition)
        self._updates = updates(config, self._slot, self._say_model, hearing, self._reporter.sound_model)

    @property
    def slot(self) -> ModelSlot:
        """Where the running student is."""
        return self._slot

    def run(self) -> Summary:
        """Run until `stop`, a signal, or the end of every source; then end events and say goodbye.

        Raises:
            InferenceLostError: nothing can be recognised any longer; everything else was ended in order.

        """
        self._start()
        try:
            while not self._stop.is_set():
                self._tick(self._woken())
        finally:
            summary = self._shut_down()
        if self._lost:
            raise InferenceLostError(self._lost)
        return summary

    def stop(self, why: str = "asked to") -> None:
        """End `run` soon. Callable from anywhere, signal handlers included."""
        self._stopped_by = self._stopped_by or why
        self._stop.set()
        self._wake.put("stop")

    def reload(self) -> None:
        """Read the device file again soon. Callable from anywhere."""
        self._wake.put("reload")

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads. Main thread only."""
        signal.signal(signal.SIGTERM, lambda number, frame: self.stop("SIGTERM"))
        signal.signal(signal.SIGINT, lambda number, frame: self.stop("SIGINT"))
        signal.signal(signal.SIGHUP, lambda number, frame: self.reload())

    # Life

    def _start(self) -> None:
        student = self._slot.current()
        name = "none yet" if student is None else f"{student.card.application} v{student.card.version}"
        note(log, Note.STARTED, "device %s, student %s, broker %s", self._config.device.name, name, self._link.endpoint)
        self._say_state(*self._health.state())
        self._courier.start()
        self._evidence.start()
        self._unsure.start()
        for pipeline in self._pipelines.values():
            pipeline.start()
        self._say_student(student)
        self._link.start()
        for feed in self._feeds.values():
            feed.start()
        threading.Thread(target=self._report_often, name="telemetry", daemon=True).start()
        if self._exporter is not None:
            self._exporter.start()
        if self._updates is not None:
            self._updates.start()
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it ever again
        self._notifier.send(READY=1)

    def _woken(self) -> Wake | None:
        try:
            return self._wake.get(timeout=_TICK_S)
        except queue.Empty:
            return None

    def _tick(self, why: Wake | None) -> None:
        if why == "reload":
            self._read_again()
        while not self._requests.empty():
            request = self._requests.get_nowait()
            self._link.answer(request, encode(self._commands.run(request)))
        self._watch_feeds()
        now = time.monotonic()
        alive = all(now - pipeline.heartbeat < _HUNG_S for pipeline in self._pipelines.values())
        self._health.complain("disk", self._outbox.fault)
        self._health.complain("evidence", self._evidence.fault)
        errors = [pipeline.engine_error for pipeline in self._pipelines.values() if pipeline.engine_error]
        self._health.complain("engine", "; ".join(errors) if alive else "inference hangs")
        self._give_up_if_lost(now, alive)
        if self._strain.due(now):
            for source, reason in self._strain.look(now, self._counts()).items():
                self._health.complain(f"rate {source}", reason)
        if self._notifier.watchdog_s is not None and alive:
            self._notifier.send(WATCHDOG=1)

    def _give_up_if_lost(self, now: float, alive: bool) -> None:
        # Counted from when it was seen to hang: a process that was stopped for an hour has not hung for an hour.
        self._hung_since = None if alive else (self._hung_since or now)
        failures = [pipeline.failure for pipeline in self._pipelines.values() if pipeline.failure]
        if self._hung_since is not None and now - self._hung_since > _LOST_S:
            failures.append(f"inference hangs for {_HUNG_S + now - self._hung_since:.0f} s")
        if failures:
            self._lost = "; ".join(failures)
            log.error("%s", self._lost)
            self.stop(self._lost)

    def _watch_feeds(self) -> None:
        for name, feed in list(self._feeds.items()):
            feed.watch()
            if feed.finished and name not in self._ended and self._intake.depth(name) == 0:
                self._ended.add(name)
                self._finish_source(name)
        if self._feeds and len(self._ended) == len(self._feeds):
            self.stop("every source has come to its end")

    def _shut_down(self) -> Summary:
        log.info("stopping: %s", self._stopped_by)
        self._notifier.send(STOPPING=1, STATUS=f"stopping: {self._stopped_by}")
        for feed in self._feeds.values():
            feed.stop()
        if self._updates is not None:
            self._updates.stop()
        for pipeline in self._pipelines.values():
            if not pipeline.stop(_STOP_S):
                log.error("an inference thread hangs; its open events are not ended")
        self._evidence.stop(_STOP_S)
        self._unsure.stop(_STOP_S)
        self._reporter.telemetry(list(self._feeds))
        self._courier.stop(flush_s=_STOP_S)
        self._reporter.status("offline", self._stopped_by)
        self._link.stop()
        self._outbox.close()
        if self._exporter is not None:
            self._exporter.stop()
        for feed in self._feeds.values():
            feed.join(0.1)
        totals = self._telemetry.totals()
        summary = Summary(totals.frames, self._intake.total_dropped(), totals.gated, totals.events)
        numbers = (summary.frames, summary.dropped, summary.gated, summary.events)
        note(log, Note.STOPPED, "stopped: %d frames, %d dropped, %d gated, %d events", *numbers)
        return summary

    def _report_often(self) -> None:
        tidied = time.monotonic()
        while not self._stop.wait(self._config.telemetry.interval_s):
            self._reporter.telemetry(list(self._feeds))
            if time.monotonic() - tidied >= _TIDY_S:
                tidied = time.monotonic()
                host.give_memory_back()

    # Reload

    def _read_again(self) -> None:
        """Take over what may change while running; a broken file is refused and the old one kept."""
        if self._path is None:
            return
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            self._take_over(device_file.load(self._path))
        except (ConfigError, SourceError) as exc:
            note(log, Note.REFUSED, "%s is refused, the configuration stays as it was: %s", self._path, exc)
            self._health.complain("config", f"reload refused: {exc}".replace("\n", "; "))
        else:
            self._health.complain("config", "")
            note(log, Note.RELOADED, "%s read again", self._path)
        self._notifier.send(READY=1)

    def _take_over(self, new: DeviceConfig) -> None:
        old = self._config
        fixed = [part for part in _FIXED if getattr(old, part) != getattr(new, part)]
        for part in fixed:
            log.warning("a change in [%s] takes effect at the next start", part)
        new = new.model_copy(update={part: getattr(old, part) for part in fixed})
        changed = [source for source in new.source if self._sources.get(source.id) != source]
        for source in changed:
            check(source)
        link = self._make_link(new) if new.mqtt != old.mqtt else None
        self._config = new
        self._sources = {source.id: source for source in new.source}
        for name in set(self._feeds) - set(self._sources):
            self._remove_feed(name)
            self._reporter.forget_source(name)
        if link is not None:
            self._link.stop()
            link.adopt(self._link)
            self._link = link
            self._use_link()
            link.start()
        self._reporter.use(self._link, new)
        for sense in self._pipelines:
            self._pipelines[sense].submit(lambda sense=sense: self._use_new_rules(sense))  # type: ignore[misc]
        for source in changed:
            self._replace_feed(source)

    def _use_new_rules(self, sense: Sense) -> None:
        self._pipelines[sense].use_rules(self._config.event)
        self._watch_sources(sense)
        student = self._slot.current()
        if sense == "sight":
            self._say_student(student)

    def _watch_sources(self, *senses: Sense) -> None:
        for sense in senses or self._pipelines:
            own = {name: source for name, source in self._sources.items() if self._sense_of(source) == sense}
            self._pipelines[sense].watch(own)

    def _sense_of(self, source: Source) -> Sense:
        """Return which inference thread a source belongs to; where there is one student, it takes every source."""
        return "hearing" if "hearing" in self._pipelines and kind_of(source) in HEARD else "sight"

    def _remove_feed(self, name: str) -> None:
        feed = self._feeds.pop(name)
        feed.stop()
        feed.join(_STOP_S)
        self._intake.remove(name)
        self._ended.discard(name)
        self._finish_source(name)

    def _replace_feed(self, source: Source) -> None:
        if source.id in self._feeds:
            self._remove_feed(source.id)
        self._feeds[source.id] = self._make_feed(source)
        self._feeds[source.id].start()

    # Commands

    def _make_commands(self) -> Commands:
        commands = Commands()
        commands.add("report", Nothing, self._do_report)
        commands.add("restart-source", OneSource, self._do_restart_source)
        commands.add("snapshot", OneSource, self._do_snapshot)
        commands.add("threshold", NewThreshold, self._do_threshold)
        commands.add("update", Nothing, self._do_update)
        return commands

    def _do_report(self, request: Nothing) -> dict[str, Any]:
        return self._reporter.telemetry(list(self._feeds)).model_dump(mode="json", by_alias=True)

    def _do_restart_source(self, request: OneSource) -> dict[str, Any]:
        self._replace_feed(self._known_source(request.source))
        return {"source": request.source}

    def _do_snapshot(self, request: OneSource) -> dict[str, Any]:
        frame = self._pipeline.latest(self._known_source(request.source).id)
        if frame is None:
            raise CommandError(f"no frame of source {request.source!r} has been looked at yet")
        try:
            return {"evidence": self._evidence.save_now(frame), "frame_ts": frame.ts}
        except OSError as exc:
            raise CommandError(f"the picture cannot be written: {exc}") from exc

    def _do_threshold(self, request: NewThreshold) -> dict[str, Any]:
        known = [pipeline for pipeline in self._pipelines.values() if request.event in pipeline.events]
        if not known:
            every = [event for pipeline in self._pipelines.values() for event in pipeline.events]
            raise CommandError(f"the student knows no event {request.event!r}; it knows {every}")
        for pipeline in known:
            pipeline.set_threshold(request.event, request.threshold, request.exit_threshold)
        return {"event": request.event, "threshold": request.threshold}

    def _do_update(self, request: Nothing) -> dict[str, Any]:
        if self._updates is None:
            raise CommandError("this device takes no updates: update.server is not set")
        self._updates.check_now()
        return {}

    def _known_source(self, name: str) -> Source:
        if name not in self._sources:
            raise CommandError(f"there is no source {name!r}; there are {sorted(self._sources)}")
        return self._sources[name]

    # What others are told

    def _make_feed(self, source: Source) -> Feed:
        sense = self._sense_of(source)
        look = self._pipelines[sense].look_now
        return Feed(source, self._intake, self._telemetry, self._say_source, sense=sense, look_now=look)

    def _make_link(self, config: DeviceConfig) -> Link:
        mqtt = config.mqtt
        birth = (f"{mqtt.home_assistant_prefix}/status",) if mqtt.home_assistant else ()
        return Link(
            mqtt,
            client_id=f"distillnet-{config.device.name}-{self._session[:8]}",
            will=Will(self._topics.status, self._reporter.will()),
            subscriptions=(self._topics.command("+"), *birth),
            on_up=self._courier.reconnected,
            on_ack=self._courier.acknowledged,
            on_message=self._received,
        )

    def _use_link(self) -> None:
        mqtt = self._config.mqtt
        self._courier.use(self._link, label_as=self._config.device.name if mqtt.cloudevents else None)

    def _received(self, message: Message) -> None:
        """Take a message on paho's thread."""
        if not message.topic.startswith(self._topics.base):
            if message.payload == b"online":
                self._reporter.rediscover()
            return
        try:
            self._requests.put_nowait(message)
            self._wake.put("request")
        except queue.Full:
            log.warning("too many commands at once: %s is let go", message.topic)

    def _say_state(self, state: DeviceState, reason: str) -> None:
        self._reporter.status(state, reason)
        self._notifier.send(STATUS=f"{state}: {reason}" if reason else state)
        if state == "degraded":
            note(log, Note.DEGRADED, "degraded: %s", reason)

    def _say_source(self, source: str, state: FeedState, reason: str) -> None:
        wrong = state == "error" or (state == "stalled" and reason != "end of file")
        what = Note.SOURCE_LOST if wrong else Note.SOURCE
        note(log, what, "source %s: %s%s", source, state, f" ({reason})" if reason else "")
        self._reporter.source(source, state, reason)
        self._health.complain(f"source {source}", f"source {source}: {reason}" if wrong else "")
        if wrong:
            self._finish_source(source)

    def _finish_source(self, source: str) -> None:
        for pipeline in self._pipelines.values():
            pipeline.submit(lambda pipeline=pipeline: pipeline.finish_source(source, time.time()))  # type: ignore[misc]

    def _say_model(self, payload: ModelPayload) -> None:
        self._reporter.model(payload)
        self._health.update_phase(payload.phase)

    def _say_student(self, student: Student | None) -> None:
        if student is None:
            return
        card, engine = student.card, student.model.info
        how = f"{engine['engine']} ({engine['kernels']})"
        note(log, Note.STUDENT, "running %s v%d by %s", card.application, card.version, how)
        self._health.has_student()
        watched = [pair for pipeline in self._pipelines.values() for pair in pipeline.watched()]
        self._reporter.student(student, watched)

    def _counts(self) -> dict[str, tuple[int, int]]:
        taken = self._telemetry.totals().sources
        return {
            name: (taken.get(name, SourceCounts()).frames, self._intake.dropped(name)) for name in list(self._feeds)
        }

    def _exposition(self) -> str:
        taken = self._telemetry.totals().sources
        totals = {
            name: (
                taken.get(name, SourceCounts()).frames,
                taken.get(name, SourceCounts()).gated,
                self._intake.dropped(name),
            )
            for name in list(self._feeds)
        }
        return exposition(self._reporter.latest(), totals)
