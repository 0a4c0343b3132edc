"""From a decision to what the world sees: an event payload into the outbox, `state` topics, the log.

Called by the inference threads; the event is in the outbox before the next frame is looked at, and numbers are in the
outbox's order.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from distillnet.device.decisions import Decided
from distillnet.device.journal import Note, note
from distillnet.device.outbox import Outbox
from distillnet.proto.mqtt import EventPayload, StageLatency, Topics, encode

log = logging.getLogger(__name__)

Tap = Callable[[EventPayload], None]
"""Sees every event before the outbox does."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The frame an event was decided on."""

    frame_ts: float
    captured: float | None
    model_digest: str
    latency: StageLatency = field(default_factory=StageLatency)


class Announcer:
    """Numbers the events of one session and hands them on."""

    def __init__(
        self,
        topics: Topics,
        session: str,
        outbox: Outbox,
        *,
        retain: Callable[[str, bytes], None],
        put: Callable[[int, float | None], None],
        tap: Tap | None = None,
    ) -> None:
        """`retain` sets a retained topic; `put` is told the key of each waiting event and when its frame was read."""
        self._topics = topics
        self._session = session
        self._outbox = outbox
        self._retain = retain
        self._put = put
        self._tap = tap
        self._seq = 0
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str], bool] = {}

    def announce(self, decided: Decided, moment: Moment, evidence: str | None = None) -> EventPayload:
        """Put one phase of an event's life into the outbox."""
        with self._lock:
            return self._announce(decided, moment, evidence)

    def show(self, source: str, event: str, on: bool) -> None:
        """Set the retained `state` of an event on a source, where it has changed."""
        if self._states.get((source, event)) is not on:
            self._states[source, event] = on
            self._retain(self._topics.state(source, event), b"ON" if on else b"OFF")

    def clear(self, gone: Iterable[tuple[str, str]]) -> None:
        """Remove the retained `state` topics of sources and events that are no more."""
        for source, event in gone:
            if self._states.pop((source, event), None) is not None:
                self._retain(self._topics.state(source, event), b"")

    def _announce(self, decided: Decided, moment: Moment, evidence: str | None) -> EventPayload:
        transition = decided.transition
        payload = EventPayload(
            id=transition.id,
            seq=self._seq,
            session=self._session,
            phase=transition.phase,
            source=decided.source,
            zone=decided.zone,
            event=decided.event,
            score=transition.score,
            top_score=transition.top_score,
            start_ts=transition.start_ts,
            end_ts=transition.end_ts,
            frame_ts=moment.frame_ts,
            model_digest=moment.model_digest,
            latency_ms=moment.latency,
            evidence=evidence,
        )
        self._seq += 1
        if self._tap is not None:
            self._tap(payload)
        key = self._outbox.put(self._session, self._topics.event(decided.source, decided.event), encode(payload))
        self._put(key, moment.captured)
        if transition.phase != "update":
            where = decided.source if decided.zone is None else f"{decided.source}/{decided.zone}"
            what = (decided.event, transition.phase, where, transition.score)
            note(log, Note.EVENT, "%s %s on %s, score %.2f", *what, event=decided.event, id=transition.id, source=where)
        return payload
