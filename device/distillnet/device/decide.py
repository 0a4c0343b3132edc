"""From scores to events: one pure state machine per event, zone and source.

    idle ──N of M at or above threshold──▶ pending ──minimum_s──▶ active ──N of M below exit, gap_s──▶ cooling ──▶ idle

`step` takes a state and one score and gives the next state and what to announce. No clock, no randomness, no queue:
the same scores give the same transitions everywhere. Durations are measured with `t`, reports made with `ts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from distillnet.device.config import EventRule
from distillnet.proto.card import CardEvent
from distillnet.proto.mqtt import Phase

Stage = Literal["idle", "pending", "active", "cooling"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the scores of one event become its life; all times in seconds."""

    threshold: float
    exit_threshold: float
    confirm: int = 3
    window: int = 5
    minimum_s: float = 0.0
    gap_s: float = 0.0
    cooldown_s: float = 0.0
    update_s: float = 10.0
    baseline: float | None = None
    """What a place usually scores; None = scores are taken as they are. `Decisions` moves them."""


class Sample(NamedTuple):
    """One score, and when."""

    score: float
    t: float
    ts: float


class State(NamedTuple):
    """What one event, zone and source remembers between frames."""

    stage: Stage = "idle"
    recent: tuple[Sample, ...] = ()
    id: str = ""
    start: Sample = Sample(0.0, 0.0, 0.0)
    top: float = 0.0
    last_update_t: float = 0.0
    ended_t: float = 0.0
    gone: Sample | None = None
    """Where the gap began that it is in: it ends there, unless it comes back in time."""

    @property
    def on(self) -> bool:
        """Whether the event is announced and has not ended."""
        return self.stage == "active"

    @property
    def likely(self) -> bool:
        """Whether it is on, or confirmed and about to be announced."""
        return self.stage in ("pending", "active")


IDLE = State()
"""Nothing is on and nothing is remembered; a score below the threshold leaves it so."""


@dataclass(frozen=True, slots=True)
class Transition:
    """Something to announce."""

    phase: Phase
    id: str
    score: float
    top_score: float
    start_ts: float
    end_ts: float | None


def rule_for(event: CardEvent, rule: EventRule | None) -> Rule:
    """Join what the card says with what the device file overrides.

    An overridden threshold below the card's exit threshold takes the exit threshold down with it.
    """
    if rule is None:
        return Rule(threshold=event.threshold, exit_threshold=event.exit_threshold)
    threshold = event.threshold if rule.threshold is None else rule.threshold
    exit_threshold = event.exit_threshold if rule.exit_threshold is None else rule.exit_threshold
    return Rule(
        threshold=threshold,
        exit_threshold=min(exit_threshold, threshold),
        confirm=rule.confirm,
        window=rule.window,
        minimum_s=rule.minimum_s,
        gap_s=rule.gap_s,
        cooldown_s=rule.cooldown_s,
        update_s=rule.update_s,
        baseline=rule.baseline,
    )


def step(
    rule: Rule, state: State, sample: Sample, new_id: Callable[[float], str], *, allowed: bool = True
) -> tuple[State, Transition | None]:
    """Advance by one score.

    Args:
        rule: thresholds and durations.
        state: after the sample before this one.
        sample: the new score; `t` never goes back.
        new_id: gives the id of an event that began at a Unix time.
        allowed: False outside the event's hours: nothing begins, and what is on ends.

    Returns:
        The next state, and at most one transition.

    """
    if state.stage == "idle" and sample.score < rule.threshold and not state.recent:
        return IDLE, None  # most samples of most events: nothing to remember
    recent = (*state.recent, sample)[-rule.window :]
    if state.stage == "active":
        return _while_active(rule, state, recent, sample, allowed)
    if state.stage == "cooling":
        if sample.t - state.ended_t < rule.cooldown_s:
            return state._replace(recent=recent), None
        state = IDLE
    if not allowed:
        return IDLE, None
    if state.stage == "idle":
        hits = [past for past in recent if past.score >= rule.threshold]
        if not hits:
            return IDLE, None
        if sample.score < rule.threshold or len(hits) < rule.confirm:
            return State("idle", recent), None
        state = State("pending", recent, start=hits[0], top=max(hit.score for hit in hits))
    elif _below(rule, recent):
        return IDLE, None
    state = state._replace(recent=recent, top=max(state.top, sample.score))
    if sample.t - state.start.t < rule.minimum_s:
        return state, None
    state = state._replace(stage="active", id=new_id(state.start.ts), last_update_t=sample.t)
    return state, _transition("new", state, sample)


def finish(state: State, ts: float) -> tuple[State, Transition | None]:
    """End what is on, because its source, its student or the daemon goes; `ts` is the time it ends."""
    if not state.on:
        return State(), None
    score = state.recent[-1].score if state.recent else 0.0
    end_ts = max(ts if state.gone is None else state.gone.ts, state.start.ts)
    return State(), Transition("end", state.id, score, state.top, state.start.ts, end_ts)


def _while_active(
    rule: Rule, state: State, recent: tuple[Sample, ...], sample: Sample, allowed: bool
) -> tuple[State, Transition | None]:
    stage, _, name, start, top, last_update_t, ended_t, gone = state
    top = top if top > sample.score else sample.score
    gone = _gone(rule, gone, recent)
    state = State(stage, recent, name, start, top, last_update_t, ended_t, gone)
    if not allowed or (gone is not None and sample.t - gone.t >= rule.gap_s):
        end = sample if gone is None else gone
        ended = _transition("end", state, sample, end_ts=max(end.ts, start.ts))
        return State(stage="cooling", ended_t=sample.t), ended
    if sample.t - last_update_t >= rule.update_s:
        return state._replace(last_update_t=sample.t), _transition("update", state, sample)
    return state, None


def _gone(rule: Rule, gone: Sample | None, recent: tuple[Sample, ...]) -> Sample | None:
    """Return where the gap began that an event is in: it begins with N of M below the exit, and N of M end it."""
    if gone is None:
        below = _below(rule, recent)
        return below[0] if below else None
    back = sum(past.t > gone.t and past.score >= rule.exit_threshold for past in recent)
    return None if back >= rule.confirm else gone


def _below(rule: Rule, recent: tuple[Sample, ...]) -> list[Sample]:
    """Return the samples that confirm the exit; empty while it is not confirmed, or the last one speaks against it."""
    if recent[-1].score >= rule.exit_threshold:
        return []
    below = [past for past in recent if past.score < rule.exit_threshold]
    return below if len(below) >= rule.confirm else []


def _transition(phase: Phase, state: State, sample: Sample, end_ts: float | None = None) -> Transition:
    return Transition(phase, state.id, sample.score, state.top, state.start.ts, end_ts)
