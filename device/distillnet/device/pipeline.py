"""Inference: takes frames from the intake, gates, infers, decides, announces; one frame at a time.

It has a thread of its own. Where a look is quick, though, the thread that has just read a frame looks at it itself: the
frame is in its processor's caches, it need not be queued, and no thread need be woken. Whatever else must happen
between two frames (a rule changes, a source goes) is handed over with `submit`.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from distillnet.device import host
from distillnet.device.announcer import Announcer, Moment
from distillnet.device.config import EventRule, Source
from distillnet.device.decisions import Decided, Decisions
from distillnet.device.evidence import Evidence
from distillnet.device.frames import Chunk, Frame, Intake, Sense
from distillnet.device.gate import MotionGate
from distillnet.device.readers import FINITE, kind_of
from distillnet.device.slot import ModelSlot
from distillnet.device.sound.ears import Ears
from distillnet.device.telemetry import Telemetry
from distillnet.device.unsure import Unsure
from distillnet.engine import ModelError, Zone
from distillnet.engine.student import Student
from distillnet.proto.mqtt import StageLatency

log = logging.getLogger(__name__)


class Zones(NamedTuple):
    """A source's zones; one nameless zone without a box where there are none."""

    names: tuple[str | None, ...]
    boxes: tuple[Zone | None, ...]


_WHOLE, _NONE = Zones((None,), (None,)), Zones((), ())

Known = dict[str | None, list[float]]
"""The latest scores of a source's zones, K+1 each, by their names."""

_IDLE_S = 0.9
_QUICK_MS = 4.0
"""What takes no longer, on average, keeps no camera waiting; slower looks are left to the thread for them."""
_AVERAGE_OVER = 16


class Pipeline:
    """Inference and decision for all sources."""

    def __init__(
        self,
        slot: ModelSlot,
        intake: Intake,
        decisions: Decisions,
        announcer: Announcer,
        telemetry: Telemetry,
        evidence: Evidence,
        sense: Sense = "sight",
        unsure: Unsure | None = None,
    ) -> None:
        """Wire the stages; `watch` names the sources, `start` begins."""
        self._slot = slot
        self._intake = intake
        self._decisions = decisions
        self._announcer = announcer
        self._telemetry = telemetry
        self._evidence = evidence
        self._sense: Sense = sense
        self._unsure = unsure
        self._ears = Ears()
        self._shown: set[tuple[str, str]] = set()
        self._latest: dict[str, Frame] = {}
        self._zones: dict[str, Zones] = {}
        self._gates: dict[tuple[str, str | None], MotionGate] = {}
        self._gated_sources: set[str] = set()
        self._last_scores: dict[str, Known] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._turn = threading.Lock()
        """Held by whoever looks at a frame or does a job."""
        self._average_ms = 2 * _QUICK_MS
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="infer" if sense == "sight" else "hear", daemon=True)
        self.engine_error = ""
        self.failure = ""
        """Why the thread has ended though nobody asked it to; empty while it runs."""
        self._inferred = False
        slot.observe(self._switched)

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` of the last frame that was done with, or of the last time there was none to do."""
        return self._heartbeat

    def watch(self, sources: Mapping[str, Source]) -> None:
        """Know these sources and their zones from now on. Before `start`, or through `submit`."""
        self._zones, self._gates, self._last_scores = {}, {}, {}
        self._gated_sources = set()
        for source in sources.values():
            names, boxes = tuple(zone.name for zone in source.zones), tuple(zone.box for zone in source.zones)
            self._zones[source.id] = Zones(names, boxes) if names else _WHOLE
            if source.gate == "on" or (source.gate == "auto" and kind_of(source) not in FINITE):
                self._gated_sources.add(source.id)
        self._show_states()

    def start(self) -> None:
        """Begin; frames are let in as soon as there is a student."""
        self._slot.serve(self._wake)
        student = self._slot.current()
        if student is not None:
            self._decisions.follow(student.card)
            self._show_states()
            self._intake.open(self._sense)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End what is on and the thread; False when it hangs in an inference."""
        self._stopping = True
        self._wake()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, job: Callable[[], None]) -> None:
        """Have `job` run by the thread for inference, between two frames."""
        self._jobs.put(job)
        self._wake()

    def watched(self) -> list[tuple[str, str]]:
        """Return every source and event that is watched for on it."""
        return [
            (source, event)
            for source in self._zones
            for event in self._decisions.events
            if self._decisions.watches(source, event)
        ]

    @property
    def events(self) -> list[str]:
        """Names of the events that are watched for."""
        return self._decisions.events

    def set_threshold(self, event: str, threshold: float, exit_threshold: float | None) -> None:
        """Override an event's thresholds until the next reload or student. Callable from anywhere."""
        self.submit(lambda: self._decisions.set_threshold(event, threshold, exit_threshold))

    def use_rules(self, rules: Iterable[EventRule]) -> None:
        """Put other rules in force; what is on stays on. Through `submit`."""
        student = self._slot.current()
        self._decisions.use_rules(rules, student.card if student else None)

    def latest(self, source: str) -> Frame | None:
        """Return the frame of a source that was looked at last."""
        return self._latest.get(source)

    def finish_source(self, source: str, ts: float) -> None:
        """End what is on on a source that has gone. Through `submit`."""
        self._latest.pop(source, None)
        self._ears.forget(source)
        self._announce_ends(self._decisions.finish(ts, source=source))

    def look_now(self, frame: Frame | Chunk) -> bool:
        """Look at a frame on the thread that has just read it, if that is quick and nothing comes before it.

        Returns:
            False when it was not looked at: it must wait in the intake.

        """
        if self._average_ms > _QUICK_MS or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._stopping or self.failure or not self._jobs.empty():
                return False
            return self._intake.idle(frame.source, self._sense) and self._look_at(frame)
        except Exception as exc:
            self._end_by(exc)
            self._wake()
            return True
        finally:
            self._turn.release()

    def _run(self) -> None:
        try:
            while not self._stopping and not self.failure:
                self._intake.wait(_IDLE_S, self._sense)
                with self._turn:
                    self._run_jobs()
                    while self._look_once() and self._jobs.empty() and not self._stopping:
                        pass
        except Exception as exc:
            self._end_by(exc)
        finally:
            with self._turn:
                self._run_jobs()
                self._slot.retire()
                self._announce_ends(self._decisions.finish(time.time()))

    def _look_once(self) -> bool:
        """Look at the next frame, or hear the next chunk; False when none waits."""
        return self._look_at(self._intake.next(self._sense))

    def _look_at(self, frame: Frame | Chunk | None) -> bool:
        """Look at a frame, or hear a chunk, with the student whose turn it is; False when one of them is missing."""
        self._heartbeat = time.monotonic()
        student = self._slot.take()
        if student is None or frame is None:
            return False
        if isinstance(frame, Chunk):
            self._listen(student, frame)
        else:
            self._handle(student, frame)
        ms = (time.monotonic() - self._heartbeat) * 1000.0
        self._average_ms += (ms - self._average_ms) / _AVERAGE_OVER
        return True

    def _end_by(self, exc: Exception) -> None:
        log.error("inference ends", exc_info=exc)
        self.failure = f"the inference thread has ended: {type(exc).__name__}: {exc}"

    def _run_jobs(self) -> None:
        while not self._jobs.empty():  # this thread alone takes from it
            try:
                self._jobs.get()()
            except Exception:
                log.exception("a job between two frames failed")

    def _handle(self, student: Student, frame: Frame) -> None:
        source = frame.source
        self._latest[source] = frame
        if self._evidence.filming:
            self._evidence.observe(frame)
        zones = self._zones.get(source, _NONE)
        stages: dict[str, float] = {}
        known = self._last_scores.setdefault(source, {})
        open_zones = zones
        if source in self._gated_sources:
            open_zones = self._open_zones(frame, zones, known, stages)
        if open_zones.names and not self._look(student, frame, open_zones, known, stages):
            return
        self._decide(student, frame, known, stages)
        self._telemetry.looked(source, len(open_zones.names), stages)

    def _listen(self, student: Student, chunk: Chunk) -> None:
        """Hear one chunk of sound; decide as often as it completes a window."""
        started = time.perf_counter()
        gated = chunk.source in self._gated_sources
        try:
            heard = self._ears.hear(student, chunk, gated=gated)
        except (ModelError, ValueError, RuntimeError, MemoryError) as exc:
            self._fail(chunk.source, exc)
            return
        self.engine_error = ""
        infer_ms = (time.perf_counter() - started) * 1000.0
        self._slot.record_heard(chunk, heard, infer_ms, gated=gated)
        if any(decision.inferred for decision in heard):
            self._telemetry.stage("infer", infer_ms)
        for decision in heard:
            self._telemetry.looked(chunk.source, int(decision.inferred), {})
            moment = Moment(decision.ts, chunk.captured, student.digest, _latency(chunk, {"infer": infer_ms}))
            scores = decision.scores.tolist()
            for decided in self._decisions.observe(chunk.source, None, scores, decision.t, decision.ts):
                self._announce(decided, moment)

    def _fail(self, source: str, exc: Exception) -> None:
        self._slot.record_error()
        if not self.engine_error:
            log.error("inference failed on source %s", source, exc_info=exc)
        self.engine_error = f"inference fails: {exc}"

    def _open_zones(self, frame: Frame, zones: Zones, known: Known, stages: dict[str, float]) -> Zones:
        """Return the zones to look at: those the gate opens, and those that were never looked at."""
        started = time.perf_counter()
        opened = []
        for name, box in zip(*zones, strict=True):
            gate = self._gates.setdefault((frame.source, name), MotionGate())
            if gate.opens(frame.pixels, box, frame.t) or name not in known:
                opened.append((name, box))
        stages["gate"] = (time.perf_counter() - started) * 1000.0
        names, boxes = tuple(name for name, _ in opened), tuple(box for _, box in opened)
        return Zones(names, boxes)

    def _look(self, student: Student, frame: Frame, zones: Zones, known: Known, stages: dict[str, float]) -> bool:
        """Score zones of a frame; False when the engine fails: that is counted and said, and ends nothing."""
        try:
            look = student.look(frame.pixels, zones.boxes)
        except (ModelError, ValueError, RuntimeError, MemoryError) as exc:
            self._fail(frame.source, exc)
            return False
        stages["preprocess"], stages["infer"] = look.prepare_ms, look.infer_ms
        self.engine_error = ""
        if not self._inferred:
            self._inferred = True
            log.info("first inference %.2f s after the start of the process", host.process_age_s())
        self._slot.record_look(frame.pixels, zones.boxes, look.scores, look.prepare_ms + look.infer_ms)
        if self._unsure is not None:
            self._unsure.offer(student, frame, zones.boxes, look.scores, self._decisions)
        known.update(zip(zones.names, look.scores, strict=True))
        return True

    def _decide(self, student: Student, frame: Frame, scores: Known, stages: dict[str, float]) -> None:
        started = time.perf_counter()
        decided: list[Decided] = []
        for zone, seen in scores.items():
            decided += self._decisions.observe(frame.source, zone, seen, frame.t, frame.ts)
        stages["decide"] = (time.perf_counter() - started) * 1000.0
        if decided:
            moment = Moment(frame.ts, frame.captured, student.digest, _latency(frame, stages))
            for decision in decided:
                begins = decision.transition.phase == "new"
                kept = self._evidence.begin(frame, decision.transition.id) if begins else None
                self._announce(decision, moment, kept)

    def _announce(self, decision: Decided, moment: Moment, evidence: str | None = None) -> None:
        if decision.transition.phase == "new":
            self._slot.record_event()
            self._telemetry.announced()
        self._announcer.announce(decision, moment, evidence)
        on = self._decisions.on(decision.source, decision.event)
        self._announcer.show(decision.source, decision.event, on)

    def _announce_ends(self, decided: Iterable[Decided]) -> None:
        student = self._slot.current()
        digest = student.digest if student else ""
        for decision in list(decided):
            self._announce(decision, Moment(decision.transition.end_ts or 0.0, None, digest))

    def _switched(self, old: Student | None, new: Student) -> None:
        """Follow another student: end the events it does not know, keep the others on."""
        self._last_scores.clear()
        names = {event.name for event in new.card.events}
        vanished = [event for event in self._decisions.events if event not in names]
        self._announce_ends(self._decisions.finish(time.time(), events=vanished))
        self._decisions.follow(new.card)
        self._show_states()
        self._intake.open(self._sense)

    def _wake(self) -> None:
        self._intake.wake(self._sense)

    def _show_states(self) -> None:
        """Publish `state` for every watched event of every source, and take back those that are no more."""
        watched = self.watched()
        self._announcer.clear(self._shown - set(watched))
        self._shown = set(watched)
        for source, event in watched:
            self._announcer.show(source, event, self._decisions.on(source, event))


def _latency(frame: Frame | Chunk, stages: Mapping[str, float]) -> StageLatency:
    return StageLatency(capture=frame.capture_ms, total=(time.monotonic() - frame.captured) * 1000.0, **stages)
