"""The thread between outbox and broker: offers waiting events in order, forgets those the broker has acknowledged.

After every connection it begins again with the oldest event that was not acknowledged; a subscriber may see an event
twice, marked `replayed`, and never sees one missing.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from distillnet.device.bell import Bell
from distillnet.device.broker import Link
from distillnet.device.cloudevents import attributes
from distillnet.device.outbox import Entry, Outbox
from distillnet.device.telemetry import Telemetry
from distillnet.proto.mqtt import EventPayload, as_offered

log = logging.getLogger(__name__)

_WINDOW = 64
"""Events offered and not yet acknowledged."""
_LATE_S = 2.0
"""An event offered so long after it was decided counts as replayed."""
_TEND_S = 1.0
_TIMED = 1024


class Courier:
    """Carries one outbox's events over one link."""

    def __init__(
        self, outbox: Outbox, session: str, telemetry: Telemetry, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Prepare; `use` names the link, `start` begins."""
        self._outbox = outbox
        self._session = session
        self._telemetry = telemetry
        self._clock = clock
        self._link: Link | None = None
        self._label_as: str | None = None
        self._bell = Bell()
        self._stop = threading.Event()
        self._acks: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._generation = 0
        self._in_flight: dict[int, tuple[Entry, float]] = {}
        self._offered = 0
        self._highest = 0
        self._captured: OrderedDict[int, float] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def use(self, link: Link, *, label_as: str | None = None) -> None:
        """Offer over this link from now on; `label_as`: with CloudEvents attributes, under this device's name."""
        self._link, self._label_as = link, label_as
        self._generation = 0
        self._bell.ring()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, flush_s: float) -> None:
        """Wait up to `flush_s` for the broker to take what waits, then end."""
        until = time.monotonic() + flush_s
        while self._outbox.events and self._link is not None and self._link.connected and time.monotonic() < until:
            time.sleep(0.01)
        self._stop.set()
        self._bell.ring()
        self._thread.join(1.0)

    def waiting(self, key: int, captured: float | None) -> None:
        """Say that an event waits, and when (monotonic) its frame was read."""
        if captured is not None:
            self._captured[key] = captured
            while len(self._captured) > _TIMED:
                self._captured.popitem(last=False)
        self._bell.ring()

    def acknowledged(self, token: int) -> None:
        """Say that the broker has a message. Called on paho's thread, which must not wait."""
        self._acks.put((token, time.monotonic()))
        self._bell.ring()

    def reconnected(self) -> None:
        """Say that there is a new connection. Called on paho's thread."""
        self._bell.ring()

    def _run(self) -> None:
        tended = time.monotonic()
        while not self._stop.is_set():
            self._bell.wait(_TEND_S)
            self._take_acks()
            if self._link is not None and self._link.connected:
                self._offer(self._link)
            if time.monotonic() - tended >= _TEND_S:  # afterwards: it may wait for the disk, events need not
                tended = time.monotonic()
                self._outbox.tend()
        self._take_acks()

    def _take_acks(self) -> None:
        done = []
        while not self._acks.empty():
            token, acknowledged = self._acks.get_nowait()
            found = self._in_flight.pop(token, None)
            if found is not None:
                done.append((*found, acknowledged))
        if not done:
            return
        self._outbox.ack([entry.key for entry, _, _ in done])
        for entry, offered, acknowledged in done:
            self._telemetry.stage("publish", (acknowledged - offered) * 1000.0)
            captured = self._captured.pop(entry.key, None)
            if captured is not None:
                self._telemetry.stage("end_to_end", (acknowledged - captured) * 1000.0)

    def _offer(self, link: Link) -> None:
        if link.generation != self._generation:
            self._generation = link.generation
            self._in_flight.clear()
            self._offered = 0
        room = _WINDOW - len(self._in_flight)
        if room <= 0 or self._offered >= self._outbox.newest:
            return
        for entry in self._outbox.peek(self._offered, room):
            token = link.publish(entry.topic, self._payload(entry), qos=1, labels=self._labels(entry))
            if token is None or link.generation_of(token) != self._generation:
                return
            self._in_flight[token] = (entry, time.monotonic())
            self._offered = entry.key
            self._highest = max(self._highest, entry.key)

    def _payload(self, entry: Entry) -> bytes:
        now = self._clock()
        late = entry.session != self._session or entry.key <= self._highest or now - entry.created > _LATE_S
        return as_offered(entry.payload, now, replayed=late)

    def _labels(self, entry: Entry) -> Sequence[tuple[str, str]]:
        if self._label_as is None:
            return ()
        return attributes(self._label_as, EventPayload.model_validate_json(entry.payload))
