"""`distillnet replay`: a file through the very steps of the daemon, without threads, clocks, randomness or broker.

Times count from the file's beginning, ids derive from what happened: two runs give identical event lines.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distillnet.device.config import EventRule, Source
from distillnet.device.decisions import Decided, Decisions
from distillnet.device.frames import Chunk
from distillnet.device.gate import MotionGate
from distillnet.device.ids import derived_uuid7
from distillnet.device.rate import Rate
from distillnet.device.readers import FINITE, HEARD, Reader, SourceError, kind_of, open_reader
from distillnet.device.sound.ears import Ears
from distillnet.device.sound.reading import Piece
from distillnet.engine import Zone
from distillnet.engine.student import Student
from distillnet.proto.mqtt import EventPayload
from distillnet.proto.strict import ConfigError

SESSION = "replay"


@dataclass
class Replay:
    """One pass over one file. `frames` and `inferences` are right once `events` is exhausted."""

    student: Student
    source: Source
    rules: list[EventRule] = field(default_factory=list)
    frames: int = 0
    inferences: int = 0

    def events(self) -> Iterator[EventPayload]:
        """Yield every phase of every event, in order.

        Raises:
            ConfigError: the source is no file, or cannot be read.

        """
        decisions = Decisions(_timeless(self.rules), lambda start_ts, key: derived_uuid7(start_ts, *map(str, key)))
        decisions.follow(self.student.card)
        zones: list[tuple[str | None, Zone | None]] = [(zone.name, zone.box) for zone in self.source.zones] or [
            (None, None)
        ]
        gates = {name: MotionGate() for name, _ in zones} if self.source.gate == "on" else {}
        last: dict[str | None, list[float]] = {}
        seq, position_s = 0, 0.0
        heard, rate = kind_of(self.source) in HEARD, Rate(self.source.rate_hz)
        reader = _open(self.source)
        ears = Ears()
        try:
            while (grabbed_s := reader.grab()) is not None:
                if not heard and not rate.wants(grabbed_s):
                    continue
                picture = reader.retrieve()
                if picture is None:
                    break
                position_s = picture.position_s
                if isinstance(picture, Piece):
                    position_s += len(picture.samples) / picture.rate_hz
                    for decided, heard_s in self._listen(ears, decisions, picture):
                        yield self._payload(decided, seq, heard_s)
                        seq += 1
                    continue
                self.frames += 1
                for name, box in zones:
                    gate = gates.get(name)
                    if name not in last or gate is None or gate.opens(picture.pixels, box, position_s):
                        last[name] = self.student.scores(picture.pixels, box).tolist()
                        self.inferences += 1
                    for decided in decisions.observe(self.source.id, name, last[name], position_s, position_s):
                        yield self._payload(decided, seq, position_s)
                        seq += 1
        finally:
            reader.close()
        for decided in decisions.finish(position_s):
            yield self._payload(decided, seq, position_s)
            seq += 1

    def _listen(self, ears: Ears, decisions: Decisions, piece: Piece) -> Iterator[tuple[Decided, float]]:
        chunk = Chunk(
            self.source.id, self.frames, piece.samples, piece.rate_hz, piece.position_s, piece.position_s, 0.0, 0.0
        )
        self.frames += 1
        for heard in ears.hear(self.student, chunk, gated=self.source.gate == "on"):
            self.inferences += heard.inferred
            for decided in decisions.observe(self.source.id, None, heard.scores.tolist(), heard.t, heard.t):
                yield decided, heard.t

    def _payload(self, decided: Decided, seq: int, frame_ts: float) -> EventPayload:
        transition = decided.transition
        return EventPayload(
            id=transition.id,
            seq=seq,
            session=SESSION,
            phase=transition.phase,
            source=decided.source,
            zone=decided.zone,
            event=decided.event,
            score=transition.score,
            top_score=transition.top_score,
            start_ts=transition.start_ts,
            end_ts=transition.end_ts,
            frame_ts=frame_ts,
            model_digest=self.student.digest,
        )


def source_for(name: str, sources: list[Source]) -> Source:
    """Return what to replay: a configured source by its id, or a path with the zones of the source that fits it best.

    A path takes the settings of the source with the same url, else of the first one, else the defaults.
    """
    for source in sources:
        if source.id == name:
            return source.model_copy(update={"loop": False})
    for source in sources:
        if Path(source.url).name == Path(name).name:
            return source.model_copy(update={"url": name, "kind": "auto", "loop": False})
    if sources:
        return sources[0].model_copy(update={"url": name, "kind": "auto", "loop": False})
    return Source(id="replay", url=name)


def _open(source: Source) -> Reader:
    if kind_of(source) not in FINITE:
        raise ConfigError(f"only files can be replayed; {source.url} is a {kind_of(source)}")
    try:
        return open_reader(source, exact=True)
    except SourceError as exc:
        raise ConfigError(str(exc)) from exc


def _timeless(rules: list[EventRule]) -> list[EventRule]:
    """Return the rules without hours of the day: a file has none."""
    return [rule.model_copy(update={"hours": []}) for rule in rules]
