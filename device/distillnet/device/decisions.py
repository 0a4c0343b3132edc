"""The states of all events: feeds scores to `decide.step` and yields what is to be announced. One thread."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from distillnet.device.baseline import Baseline, followed, log_odds, moved
from distillnet.device.config import EventRule, within_hours
from distillnet.device.decide import IDLE, Rule, Sample, State, Transition, finish, rule_for, step
from distillnet.proto.card import Card, CardEvent

Key = tuple[str, str | None, str]
"""Source, zone, event."""


class NewId(Protocol):
    """Gives the id of an event that began at a Unix time."""

    def __call__(self, start_ts: float, key: Key) -> str:
        """Return it; `key` says whose event it is."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A transition and whose it is."""

    source: str
    zone: str | None
    event: str
    transition: Transition


class _Lane(NamedTuple):
    """One event of one zone with its rule; what does not change from frame to frame."""

    key: Key
    output: int
    """Its index among the scores."""
    rule: Rule
    hours: tuple[tuple[str, str], ...]
    new_id: Callable[[float], str]


class Decisions:
    """Every event of the card, by source and zone, with the device file's rules."""

    def __init__(self, rules: Iterable[EventRule], new_id: NewId) -> None:
        """Begin with nothing on; `follow` names the events."""
        self._rules = {rule.name: rule for rule in rules}
        self._new_id = new_id
        self._events: tuple[CardEvent, ...] = ()
        self._effective: dict[str, Rule] = {}
        self._states: dict[Key, State] = {}
        self._baselines: dict[Key, Baseline] = {}
        self._lanes: dict[tuple[str, str | None], list[_Lane]] = {}

    @property
    def events(self) -> list[str]:
        """Names of the events that are watched for."""
        return [event.name for event in self._events]

    def rule(self, event: str) -> Rule | None:
        """Return the rule in force for an event; None = the student does not know it."""
        return self._effective.get(event)

    def follow(self, card: Card) -> None:
        """Watch for the events of a card from now on; `finish` first what the old one had on."""
        self._events = tuple(card.events)
        self._effective = {event.name: rule_for(event, self._rules.get(event.name)) for event in card.events}
        self._lanes.clear()
        self._baselines.clear()  # another student, or another usual score
        names = set(self.events)
        self._states = {key: state for key, state in self._states.items() if key[2] in names}

    def use_rules(self, rules: Iterable[EventRule], card: Card | None) -> None:
        """Put other rules in force; what is on stays on."""
        self._rules = {rule.name: rule for rule in rules}
        self._lanes.clear()
        if card is not None:
            self.follow(card)

    def set_threshold(self, event: str, threshold: float, exit_threshold: float | None) -> None:
        """Override an event's thresholds until the next `use_rules` or `follow`; an unknown event is no error."""
        rule = self._effective.get(event)
        if rule is not None:
            lower = rule.exit_threshold if exit_threshold is None else exit_threshold
            self._effective[event] = replace(rule, threshold=threshold, exit_threshold=min(lower, threshold))
            self._lanes.clear()

    def watches(self, source: str, event: str) -> bool:
        """Whether an event is watched for on a source."""
        rule = self._rules.get(event)
        return rule is None or not rule.sources or source in rule.sources

    def observe(self, source: str, zone: str | None, scores: Sequence[float], t: float, ts: float) -> list[Decided]:
        """Advance every event of one zone by its K+1 scores."""
        decided = []
        for lane in self._lanes.get((source, zone)) or self._make_lanes(source, zone):
            state, score = self._states.get(lane.key, IDLE), scores[lane.output]
            if lane.rule.baseline is not None:
                score = self._moved(lane.key, lane.rule.baseline, score, t, learns=not state.likely)
            if state is IDLE and score < lane.rule.threshold:
                continue  # as `step` would; most scores of most events
            state, transition = step(
                lane.rule,
                state,
                Sample(score, t, ts),
                lane.new_id,
                allowed=not lane.hours or within_hours(lane.hours, ts),
            )
            self._states[lane.key] = state
            if transition is not None:
                decided.append(Decided(*lane.key, _rounded(transition)))
        return decided

    def _moved(self, key: Key, usual: float, score: float, t: float, *, learns: bool) -> float:
        """Return a score as it would be in a usual place, and learn from it what this place scores."""
        baseline = self._baselines.get(key) or Baseline(log_odds(usual), t)
        self._baselines[key] = followed(baseline, score, t) if learns else baseline._replace(t=t)
        return moved(score, baseline, usual)

    def finish(self, ts: float, *, source: str | None = None, events: Iterable[str] | None = None) -> Iterator[Decided]:
        """End what is on: everything, or of one source, or of some events."""
        wanted = None if events is None else set(events)
        for key, state in list(self._states.items()):
            if (source is not None and key[0] != source) or (wanted is not None and key[2] not in wanted):
                continue
            self._states[key], transition = finish(state, ts)
            if transition is not None:
                yield Decided(*key, _rounded(transition))

    def on(self, source: str, event: str) -> bool:
        """Whether an event is on in any zone of a source."""
        return any(state.on for key, state in self._states.items() if key[0] == source and key[2] == event)

    def active(self) -> list[Key]:
        """Return what is on now."""
        return [key for key, state in self._states.items() if state.on]

    def _make_lanes(self, source: str, zone: str | None) -> list[_Lane]:
        lanes = []
        for event in self._events:
            if self.watches(source, event.name):
                rule, key = self._rules.get(event.name), (source, zone, event.name)
                new_id = partial(self._new_id, key=key)
                hours = tuple(rule.hours) if rule is not None else ()
                lanes.append(_Lane(key, event.index, self._effective[event.name], hours, new_id))
        self._lanes[source, zone] = lanes
        return lanes


def _rounded(transition: Transition) -> Transition:
    """Return it with scores as they are told: six digits, of float32 no more is meant."""
    return replace(transition, score=round(transition.score, 6), top_score=round(transition.top_score, 6))
