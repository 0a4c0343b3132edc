"""The states of all events: feeds scores to `decide.step` and yields what is to be announced. One thread."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from distillnet.device.config import EventRule
from distillnet.device.decide import Rule, Sample, State, Transition, finish, rule_for, step
from distillnet.device.slot import Scores
from distillnet.proto.card import Card, CardEvent

Key = tuple[str, str | None, str]
"""Source, zone, event."""
NewId = Callable[[float, Key], str]
"""Gives the id of an event of `Key` that began at a Unix time."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A transition and whose it is."""

    source: str
    zone: str | None
    event: str
    transition: Transition


class Decisions:
    """Every event of the card, by source and zone, with the device file's rules."""

    def __init__(self, rules: Iterable[EventRule], new_id: NewId) -> None:
        """Begin with nothing on; `follow` names the events."""
        self._rules = {rule.name: rule for rule in rules}
        self._new_id = new_id
        self._events: tuple[CardEvent, ...] = ()
        self._effective: dict[str, Rule] = {}
        self._states: dict[Key, State] = {}

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
        names = set(self.events)
        self._states = {key: state for key, state in self._states.items() if key[2] in names}

    def use_rules(self, rules: Iterable[EventRule], card: Card | None) -> None:
        """Put other rules in force; what is on stays on."""
        self._rules = {rule.name: rule for rule in rules}
        if card is not None:
            self.follow(card)

    def set_threshold(self, event: str, threshold: float, exit_threshold: float | None) -> None:
        """Override an event's thresholds until the next `use_rules` or `follow`; an unknown event is no error."""
        rule = self._effective.get(event)
        if rule is not None:
            lower = rule.exit_threshold if exit_threshold is None else exit_threshold
            self._effective[event] = replace(rule, threshold=threshold, exit_threshold=min(lower, threshold))

    def watches(self, source: str, event: str) -> bool:
        """Whether an event is watched for on a source."""
        rule = self._rules.get(event)
        return rule is None or not rule.sources or source in rule.sources

    def observe(self, source: str, zone: str | None, scores: Scores, t: float, ts: float) -> Iterator[Decided]:
        """Advance every event of one zone by its scores, float32 (K+1,)."""
        values = scores.tolist()
        for event in self._events:
            if not self.watches(source, event.name):
                continue
            key = (source, zone, event.name)
            sample = Sample(round(values[event.index], 6), t, ts)
            state, transition = step(
                self._effective[event.name],
                self._states.get(key, State()),
                sample,
                lambda start_ts, key=key: self._new_id(start_ts, key),  # type: ignore[misc]
                allowed=self._within_hours(event.name, ts),
            )
            self._states[key] = state
            if transition is not None:
                yield Decided(source, zone, event.name, transition)

    def finish(self, ts: float, *, source: str | None = None, events: Iterable[str] | None = None) -> Iterator[Decided]:
        """End what is on: everything, or of one source, or of some events."""
        wanted = None if events is None else set(events)
        for key, state in list(self._states.items()):
            if (source is not None and key[0] != source) or (wanted is not None and key[2] not in wanted):
                continue
            self._states[key], transition = finish(state, ts)
            if transition is not None:
                yield Decided(key[0], key[1], key[2], transition)

    def on(self, source: str, event: str) -> bool:
        """Whether an event is on in any zone of a source."""
        return any(state.on for key, state in self._states.items() if key[0] == source and key[2] == event)

    def active(self) -> list[Key]:
        """Return what is on now."""
        return [key for key, state in self._states.items() if state.on]

    def _within_hours(self, event: str, ts: float) -> bool:
        rule = self._rules.get(event)
        if rule is None or not rule.hours:
            return True
        now = datetime.fromtimestamp(ts).strftime("%H:%M")
        return any(_in_range(now, start, end) for start, end in rule.hours)


def _in_range(now: str, start: str, end: str) -> bool:
    """Whether "HH:MM" lies in a range that may go over midnight."""
    return start <= now < end if start <= end else now >= start or now < end
