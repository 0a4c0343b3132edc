"""Streams of what a zone may show, of pictures that none is trained on: they choose a student and its thresholds.

Called by `eval_bottles.py`. An arm brings a thing into the picture and lets go of it after a while; it stands there, is
covered for a moment, and an arm takes it away; on a plain surface, in light that changes slowly, with a camera's noise.
Half of the streams show a bottle. On a shelf of bottles other things are rare, and arms are not: of the other streams
one in four shows a thing, the rest an arm that comes for nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from bottle_pictures import GRIP, REACH, SIDE, SMALLER, Picture, arm, grip, held_back, pasted, surface
from numpy.typing import NDArray

from distillnet.device.config import EventRule
from distillnet.device.decisions import Decided, Decisions
from distillnet.device.score import Result, Truth, score
from distillnet.engine.student import Student
from distillnet.proto.mqtt import EventPayload

FPS = 30.0
STREAMS = 400
"""With a bottle, and as many without."""
THING_EVERY = 4
_EMPTY, _MOVES, _STANDS, _COVERED, _HOLDS = (20, 45), (8, 20), (90, 200), (5, 15), (0, 40)
"""Frames, least and most."""
_HAND = (18, 42)
"""Pixels."""
Scores = list[NDArray[np.float32]]
_THRESHOLDS = np.geomspace(0.05, 0.9, 16)
_EXIT_SHARES = (0.8, 0.6, 0.4)


@dataclass(frozen=True)
class Stream:
    """One zone for a few seconds: its frames, and from which to which of them there is a bottle."""

    frames: list[Picture]
    bottle: tuple[int, int] | None


def streams(archive: Path) -> Iterator[Stream]:
    """Yield the streams, always the same ones."""
    rng = np.random.default_rng(2)
    bottles, others, patches = held_back(archive)
    for index in range(STREAMS):
        yield _stream(bottles[index % len(bottles)], patches, rng, bottle=True)
        yield _stream(others[index % len(others)], patches, rng, bottle=False, brought=index % THING_EVERY == 0)


def seen(students: Sequence[Student], archive: Path) -> tuple[list[Scores], Truth]:
    """Return each student's scores for a bottle on every frame of every stream, and what is true."""
    scores: list[Scores] = [[] for _ in students]
    episodes: dict[str, list[tuple[int, int]]] = {}
    for index, stream in enumerate(streams(archive)):
        episodes[str(index)] = [] if stream.bottle is None else [stream.bottle]
        for student, rows in zip(students, scores, strict=True):
            rows.append(np.array([student.scores(frame)[0] for frame in stream.frames]))
    return scores, Truth(event="bottle", fps=FPS, episodes=episodes)


def best(students: Sequence[Student], archive: Path, rule: EventRule) -> tuple[int, EventRule, Result]:
    """Return the best student, its best thresholds, and what they came to on the streams.

    The student has, with some thresholds, the most `worth`. Of its thresholds that are worth as much within a standard
    error the best have the fewest false alarms: which of them is worth most is chance.

    Args:
        students: of one application.
        archive: of the pictures that streams are made of.
        rule: whose thresholds are chosen.

    """
    scores, truth = seen(students, archive)
    tried = []
    for index, threshold, share in product(range(len(students)), _THRESHOLDS.tolist(), _EXIT_SHARES):
        thresholds = {"threshold": round(threshold, 3), "exit_threshold": round(share * threshold, 3)}
        one = rule.model_copy(update=thresholds)
        tried.append((index, one, judged(students[index], scores[index], truth, one)))
    student, _, result = max(tried, key=lambda choice: worth(choice[2]))
    enough = worth(result) - standard_error(result)
    as_good = [choice for choice in tried if choice[0] == student and worth(choice[2]) >= enough]
    return min(as_good, key=lambda choice: (wrong(choice[2]), -worth(choice[2])))


def wrong(result: Result) -> int:
    """Count what is announced and false."""
    return len(result.false_alarms) + result.fragments


def worth(result: Result) -> int:
    """Count episodes within the tolerance less what is announced and false."""
    return sum(match.within_tolerance for match in result.matches) - wrong(result)


def standard_error(result: Result) -> float:
    """Return that of `worth`: episodes are binomial, false ones Poisson."""
    within = sum(match.within_tolerance for match in result.matches)
    return math.sqrt(within * (1 - within / result.episodes) + wrong(result))


def judged(student: Student, scores: Scores, truth: Truth, rule: EventRule) -> Result:
    """Decide on scores as the daemon does, and compare with the truth."""
    decisions = Decisions([rule], lambda start_ts, key: f"{key[1]} {start_ts}")
    decisions.follow(student.card)
    events = []
    for zone, row in enumerate(scores):
        for index, value in enumerate(row.tolist()):
            decided = decisions.observe("streams", str(zone), [value, 1.0 - value], index / FPS, index / FPS)
            events += [_payload(one, index / FPS) for one in decided]
        events += [_payload(one, len(row) / FPS) for one in decisions.finish(len(row) / FPS)]
    return score(events, truth)


def _payload(decided: Decided, now: float) -> EventPayload:
    transition = decided.transition
    return EventPayload(
        id=transition.id,
        seq=0,
        session="streams",
        phase=transition.phase,
        source=decided.source,
        zone=decided.zone,
        event=decided.event,
        score=transition.score,
        top_score=transition.top_score,
        start_ts=transition.start_ts,
        end_ts=transition.end_ts,
        frame_ts=now,
        model_digest="",
    )


def _stream(
    picture: Picture, patches: list[Picture], rng: np.random.Generator, *, bottle: bool, brought: bool = True
) -> Stream:
    comes, moves_in, stands, moves_out, goes = (
        int(rng.integers(*some)) for some in (_EMPTY, _MOVES, _STANDS, _MOVES, _EMPTY)
    )
    onto = surface(patches, rng)
    width, height = (int(SIDE * scale) for scale in rng.uniform(*SMALLER, 2))
    left, top = rng.uniform(0, SIDE - width), rng.uniform(0, SIDE - height)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    away = -float(width) if rng.random() < 0.5 else float(SIDE)
    lefts = np.concatenate(
        [
            np.full(comes, away),
            np.linspace(away, left, moves_in, endpoint=False),
            np.full(stands, left),
            np.linspace(left, away, moves_out, endpoint=False),
            np.full(goes, away),
        ]
    )
    held = _held(len(lefts), comes, moves_in, stands, rng)
    reach, holder, grip_top = rng.uniform(*REACH) * width, arm(patches, rng), top + rng.uniform(*GRIP) * height
    gone = float(np.copysign(SIDE, away))
    arms = held * grip(lefts, width, reach, from_left=away < 0) + (1 - held) * gone
    hand = cv2.resize(patches[int(rng.integers(len(patches)))], (int(rng.integers(*_HAND)), SIDE))
    covers, begins = int(rng.integers(*_COVERED)) * (rng.random() < 0.5), comes + moves_in + int(rng.integers(stands))
    hands = np.full(len(lefts), float(SIDE))
    passing = np.linspace(-hand.shape[1], SIDE, covers)[: len(lefts) - begins]
    hands[begins : begins + len(passing)] = passing
    light = 1.0 + rng.uniform(0.0, 0.15) * np.sin(np.arange(len(lefts)) / rng.uniform(30, 120) + rng.uniform(0, 6))
    noise = rng.uniform(1.0, 5.0)
    frames = []
    for at, holds, before, bright in zip(lefts, arms, hands, light, strict=True):
        canvas = onto.astype(np.float32)
        if brought:
            canvas = pasted(small, canvas, at, top)
        canvas = pasted(holder, canvas, holds, grip_top)
        canvas = pasted(hand, canvas, before, 0.0)
        canvas = canvas * bright + rng.normal(0, noise, canvas.shape)
        frames.append(np.clip(canvas, 0, 255).astype(np.uint8))
    inside = np.flatnonzero((lefts + width / 2 >= 0) & (lefts + width / 2 <= SIDE))
    return Stream(frames, (int(inside[0]), int(inside[-1]) + 1) if bottle else None)


def _held(frames: int, comes: int, moves_in: int, stands: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Tell how far an arm is at a thing, by frame: 1 while it brings, holds or takes it, 0 while it is out of sight."""
    lets_go, grasps = (int(rng.integers(*_HOLDS)) for _ in range(2))
    stood = comes + moves_in + stands
    knots = [
        comes - 1,
        comes,
        comes + moves_in + lets_go,
        comes + moves_in + lets_go + 8,
        stood - grasps - 8,
        stood - grasps,
    ]
    return np.interp(np.arange(frames), knots, [0, 1, 1, 0, 0, 1])
