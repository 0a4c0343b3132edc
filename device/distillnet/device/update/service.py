"""The update service: takes directives, looks by itself now and then, and drives one update at a time.

The daemon calls `startup_student` before anything else, then starts an `UpdateService`. Whatever goes wrong here, the
running student keeps running and the reason is published and reported.
"""

import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

from distillnet.device.config import DeviceConfig, within_hours
from distillnet.device.slot import ModelSlot
from distillnet.device.update import capabilities, machine
from distillnet.device.update.driver import Driver
from distillnet.device.update.effects import BoardEffects
from distillnet.device.update.errors import RefusedError, StoppedError, StoreError, TransientError
from distillnet.device.update.files import Files
from distillnet.device.update.giveback import GiveBack
from distillnet.device.update.link import FleetLink
from distillnet.device.update.machine import ENDS, ON_TRIAL
from distillnet.device.update.network import metered_by
from distillnet.device.update.orders import Orders
from distillnet.device.update.record import Installed, Outcome, Past, Record, Update
from distillnet.device.update.store import ModelStore
from distillnet.proto.card import AudioInput, ImageInput
from distillnet.proto.mqtt import InstalledModelPayload, ModelPayload, UpdatePhase
from distillnet.proto.v1 import fleet_pb2

log = logging.getLogger(__name__)

STORE: Final = "store"
SOUND_STORE: Final = "sound-store"
_TICK_S: Final = 0.25
_PROGRESS_S: Final = 1.0
_JITTER: Final = 0.2
_RETRY_STORE_S: Final = 10.0
_MAX_ID: Final = 128
_MAX_PATH: Final = 1024
_MAX_WAITING: Final = 32
_PHASES: Final[dict[UpdatePhase, "fleet_pb2.UpdatePhase"]] = {
    "idle": fleet_pb2.UPDATE_PHASE_IDLE,
    "fetching": fleet_pb2.UPDATE_PHASE_FETCHING,
    "verifying": fleet_pb2.UPDATE_PHASE_VERIFYING,
    "self-test": fleet_pb2.UPDATE_PHASE_SELF_TEST,
    "shadow": fleet_pb2.UPDATE_PHASE_SHADOW,
    "switched": fleet_pb2.UPDATE_PHASE_SWITCHED,
    "probation": fleet_pb2.UPDATE_PHASE_PROBATION,
    "committed": fleet_pb2.UPDATE_PHASE_COMMITTED,
    "rolled-back": fleet_pb2.UPDATE_PHASE_ROLLED_BACK,
    "refused": fleet_pb2.UPDATE_PHASE_REFUSED,
}


def for_sound(config: DeviceConfig) -> DeviceConfig:
    """Return the device file as the second student's updates see it: `[sound_model]` is its model."""
    assert config.sound_model is not None
    return config.model_copy(update={"model": config.sound_model, "sound_model": None})


def open_store(
    config: DeviceConfig, *, name: str = STORE, files: Files | None = None, lock_wait_s: float = 5.0
) -> ModelStore:
    """Open the board's model store; raises `StoreError` if another process has it."""
    directory = config.device.state_dir / name
    return ModelStore(directory, quota_bytes=config.update.store_bytes, files=files, lock_wait_s=lock_wait_s)


def startup_student(config: DeviceConfig, files: Files | None = None, name: str = STORE) -> bytes | None:
    """Return the student to start with, from the store; None if it holds none.

    The one on trial if there is one, unless the daemon has died of it `max_crashes` times: then that update is rolled
    back here. Otherwise the committed one, or the one before it where the committed one is damaged. Never raises
    because of what is in the store; a store that cannot be opened raises `StoreError`.
    """
    with open_store(config, name=name, files=files) as store:
        store.save(machine.started(store.record, config.update.max_crashes, time.time()))
        update, candidate = store.record.update, store.record.slots.candidate
        if update.phase in ON_TRIAL and candidate is not None:
            data = store.read(candidate.digest)
            if data is not None:
                return data
            store.save(machine.roll_back(store.record, "the student on trial is damaged", time.time()))
        found = store.runnable()
        if found is None:
            return None
        slot, data = found
        if slot != store.record.slots.current:
            log.error("the current student is damaged; starting with the previous one, version %d", slot.version)
            slots = store.record.slots.model_copy(update={"current": slot, "previous": None})
            store.save(store.record.model_copy(update={"slots": slots}))
        return data


class UpdateService:
    """Runs in threads of its own from `start` to `stop`. One for each student; a second one is the guest of the first:

    it has its own application, store and slot, and shares the first one's link, for a board is one to its fleet.
    """

    def __init__(
        self,
        config: DeviceConfig,
        slot: ModelSlot,
        publish_model: Callable[[ModelPayload], None],
        *,
        source: random.Random | None = None,
        files: Files | None = None,
        host: "UpdateService | None" = None,
    ) -> None:
        """Update `slot`; `publish_model` is called from any thread and must not block.

        `source` jitters the timer; `files` is where every change to the disk goes through. With a `host` this is the
        service of the student that hears, and `config` is `for_sound`'s; the host starts and stops it.
        """
        self._config, self._slot, self._publish, self._files = config, slot, publish_model, files
        self._store_name = STORE if host is None else SOUND_STORE
        self._input = AudioInput if host is not None else ImageInput if config.sound_model is not None else None
        self._guests: list[UpdateService] = []
        self._random = source or random.Random()
        self._stop = threading.Event()
        self._inbox: queue.SimpleQueue[fleet_pb2.Directive | str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: list[fleet_pb2.Directive] = []  # received and not yet taken up; what interrupts an update
        self._postponed: fleet_pb2.Directive | None = None
        self._aborting: set[str] = set()  # rollbacks that an update under way has already given way to
        self._record = Record()
        self._session = uuid.uuid4().hex
        self._progress_at = 0.0
        self._free_bytes = 0
        self._store: ModelStore | None = None
        self._link: FleetLink = host._link if host is not None else self._make_link()
        if host is not None:
            host._guests.append(self)
        self._give_back = GiveBack(config, self._link, self._waits_for) if host is None else None
        self._thread = threading.Thread(target=self._run, name="update", daemon=True)

    def start(self) -> None:
        """Start connecting and looking."""
        for guest in self._guests:
            guest.start()
        if self._give_back is not None:
            self._give_back.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop within a second; an update under way goes on at the next start."""
        self._stop.set()
        self._inbox.put("stop")
        for guest in self._guests:
            guest.stop()
        if self._give_back is not None:
            self._give_back.stop()
        self._link.stop()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def check_now(self) -> None:
        """Look for a newer student now."""
        for guest in self._guests:
            guest.check_now()
        self._inbox.put("check")

    @property
    def record(self) -> Record:
        """Where the update stands."""
        return self._record

    def _make_link(self) -> FleetLink:
        return FleetLink(
            self._config.device.state_dir,
            address=self._config.update.server or "",
            hello=self._everybody,
            on_directive=self._sort,
            on_connected=self._connected,
        )

    # The worker thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with open_store(self._config, name=self._store_name, files=self._files) as store:
                    self._work(store)
            except StoreError as exc:
                log.error("%s; trying again in %d s", exc, _RETRY_STORE_S)
                self._stop.wait(_RETRY_STORE_S)
            except Exception:
                log.exception("the update service failed in a way nobody thought of; starting it again")
                self._stop.wait(_RETRY_STORE_S)

    def _work(self, store: ModelStore) -> None:
        self._store = store
        self._show(store.record)
        effects = BoardEffects(
            self._config,
            store,
            self._slot,
            self._link,
            stop=self._stop,
            interrupted=self._interrupted,
            report=self._report,
            progress=self._progressed,
            tuf_directory=self._store_name.removesuffix(STORE) + "tuf",
            wanted_input=self._input,
        )
        driver = Driver(store, effects)
        orders = Orders(store, effects, self._config, self._show)
        self._link.start()
        try:
            self._resume(driver, store)
            self._loop(driver, effects, orders, store)
        except StoppedError:
            log.info("stopping; the update goes on at the next start")
        finally:
            if self._stop.is_set():
                store.save(store.record.model_copy(update={"clean_stop": True}))

    def _resume(self, driver: Driver, store: ModelStore) -> None:
        candidate, running = store.record.slots.candidate, self._slot.current()
        on_trial = candidate is not None and running is not None and running.digest == candidate.digest
        driver.resume(running if on_trial else None)

    def _loop(self, driver: Driver, effects: BoardEffects, orders: Orders, store: ModelStore) -> None:
        poll_at = time.monotonic() + self._config.update.poll_s * self._random.random()
        while not self._stop.is_set():
            orders.answer_all()
            try:
                item: fleet_pb2.Directive | str = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                may_begin = not self._waits_for()
                if self._postponed is not None and may_begin:
                    postponed, self._postponed = self._postponed, None
                    self._take(postponed, driver, effects, store)
                    continue
                if time.monotonic() < poll_at or not may_begin:
                    continue
                item = "check"
                spread = 1 + _JITTER * (2 * self._random.random() - 1)
                poll_at = time.monotonic() + self._config.update.poll_s * spread
            if isinstance(item, fleet_pb2.Directive):
                self._take(item, driver, effects, store)
            elif item == "connected":
                self._report(store.record)
            elif item == "check":
                self._check(driver, effects, store)

    def _take(self, directive: fleet_pb2.Directive, driver: Driver, effects: BoardEffects, store: ModelStore) -> None:
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if waiting is not directive]
        past = store.record.answered(directive.id)
        if past is not None:
            self._send(_report_of(past, store.record))
            return
        kind = directive.WhichOneof("action")
        if kind == "update" and (reason := self._waits_for()):
            self._postpone(directive, store, reason)
        elif kind == "update":
            self._take_update(directive.id, directive.update, driver, store)
        elif kind == "rollback":
            self._take_rollback(directive.id, directive.rollback, effects, store)
        else:
            log.warning("directive %s asks for nothing this version knows", directive.id)

    def _waits_for(self) -> str:
        """Return what an update has to wait for before it may begin, or nothing."""
        if not within_hours(self._config.update.hours, time.time()):
            hours = ", ".join(f"{start}–{end}" for start, end in self._config.update.hours)
            return f"waits for its hours ({hours})"
        interface = metered_by(self._config.update.metered)
        return f"waits for a way out that is not metered ({interface})" if interface else ""

    def _postpone(self, directive: fleet_pb2.Directive, store: ModelStore, reason: str) -> None:
        """Keep the newest update until it may begin, and say so; the fleet sends it again after a restart."""
        self._postponed = directive
        self._publish(_payload(store.record, self._slot, 0.0).model_copy(update={"reason": reason}))
        self._send(
            fleet_pb2.UpdateReport(
                directive_id=directive.id,
                phase=fleet_pb2.UPDATE_PHASE_IDLE,
                application=directive.update.application,
                version=directive.update.version,
                digest=directive.update.digest,
                reason=reason,
            )
        )

    def _take_update(self, name: str, wanted: fleet_pb2.Update, driver: Driver, store: ModelStore) -> None:
        update = Update(
            directive=name,
            trigger="directive",
            application=wanted.application,
            version=wanted.version,
            target_path=wanted.target_path,
            digest=wanted.digest,
            size_bytes=wanted.size_bytes,
        )
        current, running = store.record.slots.current, self._slot.current()
        if current is not None and running is not None and current.digest == running.digest == wanted.digest:
            answer = fleet_pb2.UpdateReport(
                directive_id=name,
                phase=fleet_pb2.UPDATE_PHASE_COMMITTED,
                application=current.application,
                version=current.version,
                digest=current.digest,
                progress=1.0,
            )
            self._send(answer)
            return
        driver.begin(update)

    def _take_rollback(self, name: str, wanted: fleet_pb2.Rollback, effects: BoardEffects, store: ModelStore) -> None:
        reason = wanted.reason or "asked for by the fleet"
        current, previous, now = store.record.slots.current, store.record.slots.previous, time.time()
        running = current or _installed(self._slot) or Installed.none(self._config.model.application)
        aborted = name in self._aborting
        self._aborting.discard(name)
        try:
            if wanted.application and wanted.application != self._config.model.application:
                raise RefusedError(f"this board does not run {wanted.application!r}")
            if aborted or (wanted.version and running.version != wanted.version):
                store.save(machine.settled(store.record, name, running, "rolled-back", reason, now))
            elif previous is None:
                raise RefusedError("there is no previous student to go back to")
            else:
                effects.return_to(previous)
                store.save(machine.swap_back(store.record, name, reason, "directive", now))
        except RefusedError as exc:
            store.save(machine.settled(store.record, name, running, "refused", str(exc), now))
        self._report(store.record)

    def _check(self, driver: Driver, effects: BoardEffects, store: ModelStore) -> None:
        """Look by oneself. What goes wrong before there is a student to try is logged, and tried again later."""
        if store.record.slots.pinned:
            return
        try:
            newest = effects.look().newest(self._config.model.application)
        except (TransientError, RefusedError) as exc:
            log.warning("looking for a newer student: %s", exc)
            return
        current = store.record.slots.current or _installed(self._slot)
        if newest is None or (current is not None and newest.version <= current.version):
            return
        rejected = store.record.rejected(newest.digest)
        if rejected is not None:
            log.info("version %d was %s before (%s)", newest.version, rejected.result, rejected.reason)
            return
        driver.begin(
            Update(
                trigger="timer",
                application=newest.application,
                version=newest.version,
                target_path=newest.path,
                digest=newest.digest,
                size_bytes=newest.size_bytes,
            )
        )

    # Called from the link's thread

    def _everybody(self) -> fleet_pb2.Hello:
        hello = self._hello()
        for guest in self._guests:
            also = guest._hello()
            hello.models.extend(also.models)
            hello.applications.extend(also.applications)
        return hello

    def _connected(self) -> None:
        for service in (self, *self._guests):
            service._inbox.put("connected")

    def _sort(self, directive: fleet_pb2.Directive) -> None:
        """Hand a directive to whom its application is; what names none, or an unknown one, is the host's to answer."""
        application = directive.update.application or directive.rollback.application
        mine = (guest for guest in self._guests if guest._config.model.application == application)
        next(mine, self)._received(directive)

    def _received(self, directive: fleet_pb2.Directive) -> None:
        if not 0 < len(directive.id) <= _MAX_ID or len(directive.update.target_path) > _MAX_PATH:
            log.warning("a directive whose id or path is too long or empty is ignored")
            return
        with self._lock:
            if any(waiting.id == directive.id for waiting in self._waiting):
                return
            if len(self._waiting) >= _MAX_WAITING:
                log.warning("more than %d directives at once; %s is ignored", _MAX_WAITING, directive.id)
                return
            self._waiting.append(directive)
        self._inbox.put(directive)

    def _hello(self) -> fleet_pb2.Hello:
        student = self._slot.current()
        kernels = str(student.model.info.get("kernels", "")) if student is not None else ""
        installed = self._record.slots.current or _installed(self._slot)
        return fleet_pb2.Hello(
            capabilities=capabilities.describe(
                board=self._config.device.board,
                engine_kernels=kernels,
                free_bytes=self._free_bytes,
                arena_bytes=self._config.update.max_arena_bytes,
            ),
            models=[] if installed is None else [_model(installed)],
            session=self._session,
            applications=[self._config.model.application],
        )

    # Telling

    def _interrupted(self, update: Update) -> str:
        """Return why the update under way gives way to a directive that waits, or nothing."""
        with self._lock:
            waiting = list(self._waiting)
        for directive in waiting:
            if directive.id == update.directive or directive.WhichOneof("action") is None:
                continue
            back = directive.rollback
            if directive.HasField("rollback") and back.application in ("", update.application):
                if back.version not in (0, update.version):
                    continue
                self._aborting.add(directive.id)
                return f"a rollback was asked for: {back.reason or 'no reason given'}"
            newer = directive.update
            if (
                newer.application == update.application
                and newer.version > update.version
                and update.phase
                not in (
                    "switched",
                    "probation",
                )
            ):
                return f"superseded by version {newer.version}"
        return ""

    def _show(self, record: Record) -> None:
        self._record = record
        if self._store is not None:
            self._free_bytes = self._store.free_bytes()
        self._publish(_payload(record, self._slot, 1.0 if record.update.phase in ENDS else 0.0))

    def _report(self, record: Record) -> None:
        self._show(record)
        if record.update.phase != "idle":
            self._send(_report(record, 1.0 if record.update.phase in ENDS else 0.0))

    def _progressed(self, share: float) -> None:
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_S:
            return
        self._progress_at = now
        self._publish(_payload(self._record, self._slot, share))
        self._send(_report(self._record, share))

    def _send(self, report: fleet_pb2.UpdateReport) -> None:
        self._link.send(fleet_pb2.DeviceMessage(report=report))


def _payload(record: Record, slot: ModelSlot, progress: float) -> ModelPayload:
    update = record.update
    shown = record.slots.candidate
    if shown is None and update.phase not in ENDS and update.digest:
        shown = Installed(application=update.application, version=update.version, digest=update.digest)
    return ModelPayload(
        ts=time.time(),
        installed=_shown(record.slots.current or _installed(slot)),
        previous=_shown(record.slots.previous),
        candidate=_shown(shown),
        phase=update.phase,
        progress=min(1.0, max(0.0, progress)),
        result=update.result,
        reason=update.reason,
        durations_ms=update.durations_ms,
        shadow=update.shadow,
    )


def _report(record: Record, progress: float) -> fleet_pb2.UpdateReport:
    """Say where the update stands. After a rollback `version` and `digest` are what runs, not what failed."""
    update = record.update
    what = _told(record, update.result, update)
    return fleet_pb2.UpdateReport(
        directive_id=update.directive,
        phase=_PHASES[update.phase],
        application=update.application,
        version=what.version,
        digest=what.digest,
        progress=progress,
        reason=update.reason,
        durations_ms=update.durations_ms,
        shadow=None if update.shadow is None else fleet_pb2.ShadowRun(**update.shadow.model_dump()),
    )


def _report_of(past: Past, record: Record) -> fleet_pb2.UpdateReport:
    phase: UpdatePhase = past.result if past.result != "none" else "idle"
    what = _told(record, past.result, past)
    return fleet_pb2.UpdateReport(
        directive_id=past.directive,
        phase=_PHASES[phase],
        application=past.application,
        version=what.version,
        digest=what.digest,
        progress=1.0,
        reason=past.reason,
    )


def _told(record: Record, result: Outcome, about: Update | Past) -> Update | Past | Installed:
    return (record.slots.current or about) if result == "rolled-back" else about


def _installed(slot: ModelSlot) -> Installed | None:
    """Return what runs where the store has nothing: the device file's own student."""
    student = slot.current()
    if student is None:
        return None
    return Installed(application=student.card.application, version=student.card.version, digest=student.digest)


def _shown(slot: Installed | None) -> InstalledModelPayload | None:
    if slot is None:
        return None
    return InstalledModelPayload(application=slot.application, version=slot.version, digest=slot.digest)


def _model(slot: Installed) -> fleet_pb2.InstalledModel:
    return fleet_pb2.InstalledModel(application=slot.application, version=slot.version, digest=slot.digest)
