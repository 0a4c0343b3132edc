"""The inference thread: takes frames from the intake, gates, infers, decides, announces. Runs in one thread only.

Whatever else must happen between two frames (a rule changes, a source goes) is handed to it with `submit`.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from distillnet.device import host
from distillnet.device.announcer import Announcer, Moment
from distillnet.device.config import EventRule, Source
from distillnet.device.decisions import Decided, Decisions
from distillnet.device.evidence import Evidence
from distillnet.device.frames import Chunk, Frame, Intake, Sense
from distillnet.device.gate import MotionGate
from distillnet.device.readers import FINITE, kind_of
from distillnet.device.slot import ModelSlot, Scores
from distillnet.device.sound.ears import Ears
from distillnet.device.telemetry import Telemetry
from distillnet.engine import ModelError, Zone
from distillnet.engine.student import Student
from distillnet.proto.mqtt import StageLatency

log = logging.getLogger(__name__)

_IDLE_S = 0.5


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
    ) -> None:
        """Wire the stages; `watch` names the sources, `start` begins."""
        self._slot = slot
        self._intake = intake
        self._decisions = decisions
        self._announcer = announcer
        self._telemetry = telemetry
        self._evidence = evidence
        self._sense: Sense = sense
        self._ears = Ears()
        self._shown: set[tuple[str, str]] = set()
        self._latest: dict[str, Frame] = {}
        self._zones: dict[str, list[tuple[str | None, Zone | None]]] = {}
        self._gates: dict[tuple[str, str | None], MotionGate] = {}
        self._gated_sources: set[str] = set()
        self._last_scores: dict[tuple[str, str | None], Scores] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="infer" if sense == "sight" else "hear", daemon=True)
        self.engine_error = ""
        self._inferred = False
        slot.observe(self._switched)

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` of the last frame that was done with, or of the last time there was none to do."""
        return self._heartbeat

    def watch(self, sources: Mapping[str, Source]) -> None:
        """Know these sources and their zones from now on. Before `start`, or through `submit`."""
        self._zones = {}
        self._gated_sources = set()
        for source in sources.values():
            self._zones[source.id] = [(zone.name, zone.box) for zone in source.zones] or [(None, None)]
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
        self._stop.set()
        self._wake()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, job: Callable[[], None]) -> None:
        """Have `job` run by the inference thread between two frames."""
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

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._heartbeat = time.monotonic()
                self._run_jobs()
                student = self._slot.take()
                frame = self._intake.get(_IDLE_S, self._sense)
                if student is None or frame is None:
                    continue
                if isinstance(frame, Chunk):
                    self._listen(student, frame)
                else:
                    self._handle(student, frame)
        finally:
            self._run_jobs()
            self._slot.retire()
            self._announce_ends(self._decisions.finish(time.time()))

    def _run_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            try:
                job()
            except Exception:
                log.exception("a job between two frames failed")

    def _handle(self, student: Student, frame: Frame) -> None:
        times = _Times()
        inferred = False
        self._latest[frame.source] = frame
        self._evidence.observe(frame)
        results: list[tuple[str | None, Scores]] = []
        for zone, box in self._zones.get(frame.source, []):
            scores = None
            if not self._opens(frame, zone, box, times):
                scores = self._last_scores.get((frame.source, zone))
            if scores is None:
                scores = self._infer(student, frame, box, times)
                if scores is None:
                    return
                inferred = True
                self._last_scores[frame.source, zone] = scores
            results.append((zone, scores))
        if inferred:
            self._slot.record_frame(times.preprocess + times.infer)
            self._telemetry.stage("preprocess", times.preprocess)
            self._telemetry.stage("infer", times.infer)
        else:
            self._telemetry.gated(frame.source)
        self._decide(student, frame, results, times)

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
        times = _Times()
        times.infer = (time.perf_counter() - started) * 1000.0
        for decision in heard:
            if decision.inferred:
                self._telemetry.inferred()
                self._slot.record_scores(decision.scores)
            else:
                self._telemetry.gated(chunk.source)
        if any(decision.inferred for decision in heard):
            self._slot.record_frame(times.infer)
            self._telemetry.stage("infer", times.infer)
        for decision in heard:
            moment = Moment(decision.ts, chunk.captured, student.digest, times.latency(chunk))
            for decided in self._decisions.observe(chunk.source, None, decision.scores, decision.t, decision.ts):
                self._announce(decided, moment)

    def _fail(self, source: str, exc: Exception) -> None:
        self._slot.record_error()
        if not self.engine_error:
            log.error("inference failed on source %s", source, exc_info=exc)
        self.engine_error = f"inference fails: {exc}"

    def _opens(self, frame: Frame, zone: str | None, box: Zone | None, times: "_Times") -> bool:
        if frame.source not in self._gated_sources:
            return True
        started = time.perf_counter()
        gate = self._gates.setdefault((frame.source, zone), MotionGate())
        opens = gate.opens(frame.pixels, box, frame.t)
        times.gate += (time.perf_counter() - started) * 1000.0
        return opens

    def _infer(self, student: Student, frame: Frame, box: Zone | None, times: "_Times") -> Scores | None:
        """Score one zone; None when the engine fails, which is counted and said, and must not end the daemon."""
        started = time.perf_counter()
        try:
            tensor = student.tensor(frame.pixels, box)
            prepared = time.perf_counter()
            scores = student.scores_of(student.model.run_tensor(tensor))
        except (ModelError, ValueError, RuntimeError, MemoryError) as exc:
            self._fail(frame.source, exc)
            return None
        times.preprocess += (prepared - started) * 1000.0
        times.infer += (time.perf_counter() - prepared) * 1000.0
        self.engine_error = ""
        if not self._inferred:
            self._inferred = True
            log.info("first inference %.2f s after the start of the process", host.process_age_s())
        self._telemetry.inferred()
        self._slot.record_inference(frame.pixels, box, scores)
        return scores

    def _decide(
        self, student: Student, frame: Frame, results: list[tuple[str | None, Scores]], times: "_Times"
    ) -> None:
        started = time.perf_counter()
        decided = [
            decision
            for zone, scores in results
            for decision in self._decisions.observe(frame.source, zone, scores, frame.t, frame.ts)
        ]
        times.decide = (time.perf_counter() - started) * 1000.0
        self._telemetry.stage("decide", times.decide)
        if frame.source in self._gated_sources:
            self._telemetry.stage("gate", times.gate)
        if decided:
            moment = Moment(frame.ts, frame.captured, student.digest, times.latency(frame))
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


class _Times:
    """What one frame cost, milliseconds."""

    def __init__(self) -> None:
        self.gate = self.preprocess = self.infer = self.decide = 0.0

    def latency(self, frame: Frame | Chunk) -> StageLatency:
        return StageLatency(
            capture=frame.capture_ms,
            gate=self.gate,
            preprocess=self.preprocess,
            infer=self.infer,
            decide=self.decide,
            total=(time.monotonic() - frame.captured) * 1000.0,
        )
