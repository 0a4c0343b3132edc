"""`distillnet score`: event lines against true episodes: what was found, what was not, what was invented, how late.

Truth file, JSON: `event`, `fps`, `tolerance_frames`, and `episodes`: zone → [[first frame, end frame], …]. An event
matches the true episode of its zone that it overlaps most, one event per episode; a second one on the same episode is
a fragment; one that overlaps none is a false alarm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from distillnet.proto.mqtt import EventPayload
from distillnet.proto.strict import ConfigError, Strict


class Truth(Strict):
    """True episodes by zone, in frames; `end` is the first frame without."""

    event: str
    fps: float = Field(gt=0)
    frames: int = Field(default=0, ge=0)
    tolerance_frames: int = Field(default=15, ge=0)
    episodes: dict[str, list[tuple[int, int]]]
    video: str = ""
    zones: dict[str, tuple[float, float, float, float]] = Field(default_factory=dict)
    zone_format: str = ""


@dataclass(frozen=True)
class Episode:
    """One event from `new` to `end`, in frames (fractional)."""

    zone: str
    start: float
    end: float
    detected: float
    """The frame on which `new` was decided."""


@dataclass(frozen=True)
class Match:
    """A true episode and the event that found it; errors in frames, event minus truth."""

    zone: str
    truth: tuple[int, int]
    onset_error: float
    offset_error: float
    latency_frames: float
    within_tolerance: bool


@dataclass(frozen=True)
class Result:
    """How well the events fit the truth."""

    episodes: int
    matches: list[Match]
    missed: list[tuple[str, int, int]]
    false_alarms: list[Episode]
    fragments: int
    hours: float

    def facts(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "episodes": self.episodes,
            "found": len(self.matches),
            "recall": len(self.matches) / self.episodes if self.episodes else 1.0,
            "within_tolerance": sum(match.within_tolerance for match in self.matches),
            "false_alarms": len(self.false_alarms),
            "false_alarms_per_hour": len(self.false_alarms) / self.hours if self.hours else 0.0,
            "fragments": self.fragments,
            "max_onset_error_frames": max((abs(match.onset_error) for match in self.matches), default=0.0),
            "max_offset_error_frames": max((abs(match.offset_error) for match in self.matches), default=0.0),
            "mean_latency_frames": _mean([match.latency_frames for match in self.matches]),
            "matches": [vars(match) for match in self.matches],
            "missed": [list(episode) for episode in self.missed],
            "invented": [vars(episode) for episode in self.false_alarms],
        }


def read_events(path: Path) -> list[EventPayload]:
    """Read event lines as `replay --json` prints them.

    Raises:
        ConfigError: unreadable, or a line is no event.

    """
    events = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            try:
                events.append(EventPayload.model_validate_json(line))
            except ValidationError as exc:
                raise ConfigError(f"{path}: line {number} is no event: {exc.errors()[0]['msg']}") from exc
    return events


def read_truth(path: Path) -> Truth:
    """Read a truth file.

    Raises:
        ConfigError: unreadable, or of another form.

    """
    try:
        return Truth.model_validate_json(_text(path))
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from exc


def score(events: Iterable[EventPayload], truth: Truth) -> Result:
    """Match events with the truth; events of other names count for nothing."""
    found = _episodes([event for event in events if event.event == truth.event], truth)
    matches: list[Match] = []
    missed: list[tuple[str, int, int]] = []
    false_alarms: list[Episode] = []
    fragments = 0
    used: set[int] = set()
    for zone, spans in truth.episodes.items():
        for span in spans:
            candidates = [i for i, e in enumerate(found) if e.zone == zone and i not in used and _overlap(e, span) > 0]
            if not candidates:
                missed.append((zone, *span))
                continue
            best = max(candidates, key=lambda i: _overlap(found[i], span))
            used.add(best)
            matches.append(_match(found[best], span, truth))
    for index, episode in enumerate(found):
        if index in used:
            continue
        if any(_overlap(episode, span) > 0 for span in truth.episodes.get(episode.zone, [])):
            fragments += 1
        else:
            false_alarms.append(episode)
    last = max((span[1] for spans in truth.episodes.values() for span in spans), default=0)
    hours = max(truth.frames, last) / truth.fps / 3600.0
    episodes = sum(len(spans) for spans in truth.episodes.values())
    return Result(episodes, matches, missed, false_alarms, fragments, hours)


def _episodes(events: list[EventPayload], truth: Truth) -> list[Episode]:
    """Join `new` and `end` of each id; an event without end lasts to the end of the file."""
    first: dict[str, EventPayload] = {}
    ends: dict[str, float] = {}
    for event in events:
        if event.phase == "new":
            first.setdefault(event.id, event)
        elif event.phase == "end" and event.end_ts is not None:
            ends[event.id] = event.end_ts
    length_s = truth.frames / truth.fps
    return [
        Episode(
            zone=new.zone or new.source,
            start=new.start_ts * truth.fps,
            end=ends.get(new.id, max(length_s, new.frame_ts)) * truth.fps,
            detected=new.frame_ts * truth.fps,
        )
        for new in first.values()
    ]


def _match(episode: Episode, span: tuple[int, int], truth: Truth) -> Match:
    onset, offset = episode.start - span[0], episode.end - span[1]
    near = abs(onset) <= truth.tolerance_frames and abs(offset) <= truth.tolerance_frames
    return Match(
        zone=episode.zone,
        truth=span,
        onset_error=round(onset, 2),
        offset_error=round(offset, 2),
        latency_frames=round(episode.detected - span[0], 2),
        within_tolerance=near,
    )


def _overlap(episode: Episode, span: tuple[int, int]) -> float:
    return min(episode.end, span[1]) - max(episode.start, span[0])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
