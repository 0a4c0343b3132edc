"""`replay` is deterministic and `score` counts right."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distillnet.device.config import EventRule, Source, Zone
from distillnet.device.replay import Replay, source_for
from distillnet.device.score import Truth, score
from distillnet.engine.student import Student
from distillnet.proto.mqtt import EventPayload, encode
from distillnet.proto.strict import ConfigError


@pytest.fixture(scope="module")
def student(student_bytes: bytes) -> Student:
    return Student.load(student_bytes)


def lines(student: Student, source: Source, rules: list[EventRule] | None = None) -> list[bytes]:
    return [encode(event) for event in Replay(student, source, rules or []).events()]


def test_two_runs_give_the_same_bytes(student: Student, video: Path) -> None:
    source = Source(id="desk", url=str(video), zones=[Zone(name="all", box=(0.1, 0.1, 0.9, 0.9))])
    first = lines(student, source)
    assert first == lines(student, source)
    events = [json.loads(line) for line in first]
    assert [(e["event"], e["phase"], e["zone"]) for e in events] == [
        ("red", "new", "all"),
        ("red", "end", "all"),
        ("green", "new", "all"),
        ("green", "end", "all"),
    ]
    assert [e["start_ts"] for e in events[::2]] == [1.0, 3.0]
    assert [e["end_ts"] for e in events[1::2]] == [2.0, 4.0]
    assert [e["seq"] for e in events] == [0, 1, 2, 3]


def test_the_gate_saves_inferences_and_loses_no_event(student: Student, make_video: Callable[..., Path]) -> None:
    source = Source(id="desk", url=str(make_video("long.mp4", 400, [(20, 40, (20, 20, 230))])), gate="on")
    replay = Replay(student, source)
    assert [(event.phase, event.frame_ts) for event in replay.events()] == [("new", 1.1), ("end", 2.1)]
    assert replay.inferences < replay.frames / 2


def test_rules_apply(student: Student, video: Path) -> None:
    source = Source(id="desk", url=str(video))
    rules = [EventRule(name="red", minimum_s=2.0), EventRule(name="green", sources=["elsewhere"], confirm=1)]
    assert lines(student, source, rules) == []


def test_live_sources_cannot_be_replayed(student: Student) -> None:
    with pytest.raises(ConfigError, match="only files can be replayed"):
        lines(student, Source(id="c", url="/dev/video0"))


def test_a_path_takes_the_zones_of_the_source_with_its_name() -> None:
    zone = Zone(name="left", box=(0, 0, 0.5, 1))
    sources = [Source(id="a", url="x.mp4"), Source(id="b", url="/data/y.mp4", zones=[zone], loop=True)]
    found = source_for("/tmp/y.mp4", sources)
    assert (found.url, found.zones, found.loop) == ("/tmp/y.mp4", [zone], False)
    assert source_for("a", sources).url == "x.mp4"
    assert source_for("z.mp4", []).id == "replay"


def event(zone: str, phase: str, start: float, end: float | None, frame: float, identity: str = "") -> EventPayload:
    return EventPayload.model_validate(
        {
            "id": identity or f"{zone}{start}",
            "seq": 0,
            "session": "replay",
            "phase": phase,
            "source": "s",
            "zone": zone,
            "event": "bottle",
            "score": 1,
            "top_score": 1,
            "start_ts": start,
            "end_ts": end,
            "frame_ts": frame,
            "model_digest": "",
        }
    )


TRUTH = Truth(event="bottle", fps=10.0, frames=600, episodes={"left": [(10, 50), (100, 200)], "right": [(0, 30)]})


def test_found_missed_invented_and_fragments_are_told_apart() -> None:
    events = []
    for zone, start, end in [("left", 1.2, 4.9), ("left", 10.0, 14.0), ("left", 16.0, 19.0), ("right", 20.0, 30.0)]:
        events += [event(zone, "new", start, None, start + 0.3), event(zone, "end", start, end, end)]
    result = score(events, TRUTH)
    assert len(result.matches) == 2
    assert result.missed == [("right", 0, 30)]
    assert [(e.zone, e.start) for e in result.false_alarms] == [("right", 200.0)]
    assert result.fragments == 1
    first = result.matches[0]
    assert (first.onset_error, first.offset_error, first.latency_frames) == (2.0, -1.0, 5.0)
    assert first.within_tolerance and not result.matches[1].within_tolerance
    assert result.facts()["false_alarms_per_hour"] == pytest.approx(60.0)


def test_an_event_without_end_lasts_to_the_end_of_the_file() -> None:
    result = score([event("left", "new", 10.0, None, 10.2)], TRUTH)
    assert result.matches[0].offset_error == 400.0


def test_nothing_at_all_is_missed_not_an_error() -> None:
    facts = score([], TRUTH).facts()
    assert (facts["recall"], facts["false_alarms"]) == (0.0, 0)
