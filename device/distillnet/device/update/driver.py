"""Runs an update through the machine's states: saves each step, then does what it means.

The effects are behind one interface; the power-cut harness and the tests drive the same code as the daemon.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from distillnet.device.update import machine
from distillnet.device.update.errors import RefusedError, StoppedError, StoreError
from distillnet.device.update.machine import ENDS, ON_TRIAL, TransitionError
from distillnet.device.update.record import Installed, Record, Update
from distillnet.device.update.store import ModelStore
from distillnet.proto.mqtt import ShadowPayload, UpdatePhase

log = logging.getLogger(__name__)


class Effects(Protocol):
    """What the states do. Each may raise `RefusedError`, or `StoppedError` when the daemon is stopping."""

    def fetch(self, wanted: Update) -> Update:
        """Resolve what is wanted against signed metadata and have it in the store; returns what it turned out to be."""

    def verify(self, update: Update) -> bytes:
        """Return the candidate's bytes, checked against its digest and what its card must say."""

    def self_test(self, update: Update, data: bytes) -> Any:
        """Return the candidate, loaded and tested."""

    def wants_shadow(self) -> bool:
        """Whether the candidate runs beside the current student first."""

    def shadow(self, student: Any, seen: Callable[[ShadowPayload], None]) -> None:
        """Run it beside the current one for a while; `seen` is told what that measured before it is judged."""

    def switch(self, student: Any) -> None:
        """Make it the running student."""

    def probation(self, student: Any) -> str:
        """Watch it; returns why it must go, or nothing."""

    def switch_back(self, reason: str) -> None:
        """Make the current slot's student the running one again."""

    def report(self, record: Record) -> None:
        """Tell everybody where the update stands. Never raises."""


class Driver:
    """One update at a time. Not thread-safe."""

    def __init__(
        self,
        store: ModelStore,
        effects: Effects,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Drive updates in `store`. `clock` gives Unix seconds for the record, `monotonic` durations."""
        self._store, self._effects = store, effects
        self._clock, self._monotonic = clock, monotonic
        self._candidate: Any = None
        self._data = b""

    def begin(self, wanted: Update) -> None:
        """Start an update and run it to its end."""
        self._save(machine.begin(self._store.record, wanted, self._clock()))
        self.run()

    def resume(self, running_candidate: Any = None) -> None:
        """Go on with an update that a stop or a power cut interrupted; does nothing where there is none.

        `running_candidate` is the student on trial, if the daemon has started with it.
        """
        phase = self._store.record.update.phase
        if phase in ENDS:
            return
        self._candidate = running_candidate
        if phase in ON_TRIAL:
            if running_candidate is None:
                self._give_up("the student on trial could not be started", final=True)
                return
            self._save(machine.step(self._store.record, "switched"))
        elif phase != "fetching":
            self._save(machine.step(self._store.record, "verifying"))
        self.run()

    def run(self) -> None:
        """Run from the saved phase to an end.

        Raises:
            StoppedError: the daemon is stopping; `resume` goes on at the next start.
            StoreError: the disk fails; what runs is what the record says.

        """
        while (phase := self._store.record.update.phase) not in ENDS:
            started = self._monotonic()
            try:
                following = self._do(phase)
            except StoppedError:
                raise
            except RefusedError as exc:
                self._give_up(str(exc), final=exc.final)
            except (StoreError, TransitionError) as exc:
                self._give_up(str(exc), final=False)
            except Exception as exc:
                log.exception("update: %s failed in a way nobody thought of", phase)
                self._give_up(f"{phase}: {type(exc).__name__}: {exc}", final=True)
            else:
                took_ms = (self._monotonic() - started) * 1e3
                self._advance(phase, following, took_ms)

    def _do(self, phase: UpdatePhase) -> UpdatePhase:
        effects, update = self._effects, self._store.record.update
        if phase == "fetching":
            found = effects.fetch(update)
            self._store.save(self._store.record.model_copy(update={"update": found}))
            return "verifying"
        if phase == "verifying":
            self._data = effects.verify(update)
            return "self-test"
        if phase == "self-test":
            self._candidate, self._data = effects.self_test(update, self._data), b""
            return "shadow" if effects.wants_shadow() else "switched"
        if phase == "shadow":
            effects.shadow(self._candidate, self._note_shadow)
            return "switched"
        if phase == "switched":
            effects.switch(self._candidate)
            return "probation"
        reason = effects.probation(self._candidate)
        if reason:
            self._give_up(reason, final=True)
            return "rolled-back"
        return "committed"

    def _note_shadow(self, seen: ShadowPayload) -> None:
        self._store.save(machine.shadowed(self._store.record, seen))

    def _advance(self, phase: UpdatePhase, following: UpdatePhase, took_ms: float) -> None:
        if self._store.record.update.phase in ENDS:
            return
        record = machine.timed(self._store.record, phase, took_ms)
        try:
            if following == "committed":
                self._save(machine.commit(record, self._clock()))
                self._candidate = None
                self._store.collect()
                return
            update = record.update
            candidate = None
            if following == "self-test":
                candidate = Installed(application=update.application, version=update.version, digest=update.digest)
            self._save(machine.step(record, following, candidate=candidate))
        except (StoreError, TransitionError) as exc:
            self._give_up(str(exc), final=False)

    def _give_up(self, reason: str, *, final: bool) -> None:
        record, now = self._store.record, self._clock()
        self._candidate, self._data = None, b""
        if record.update.phase in ON_TRIAL:
            self._effects.switch_back(reason)
            self._save(machine.roll_back(record, reason, now))
        else:
            self._save(machine.refuse(record, reason, now, final=final))
        log.warning("update %s: %s", self._store.record.update.phase, reason)
        self._store.collect()

    def _save(self, record: Record) -> None:
        self._store.save(record)
        self._effects.report(self._store.record)
