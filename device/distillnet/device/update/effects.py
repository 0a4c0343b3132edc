"""What each state of an update does on a real board: fetch, verify, test, shadow, switch, watch, switch back."""

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from distillnet.device.config import DeviceConfig
from distillnet.device.slot import Behaviour, ModelSlot, SwapError
from distillnet.device.update import admission
from distillnet.device.update.backoff import Backoff
from distillnet.device.update.beside import Beside
from distillnet.device.update.errors import RefusedError, StoppedError, StoreError, TooSlowError, TransientError
from distillnet.device.update.fetcher import FetchLimits, GrpcFetcher
from distillnet.device.update.identity import DeviceIdentity
from distillnet.device.update.link import FleetLink
from distillnet.device.update.record import Installed, Record, Update
from distillnet.device.update.store import ModelStore
from distillnet.device.update.trust import SignedTarget, Trust
from distillnet.device.update.watch import (
    MIN_PAIRS,
    answers,
    probation_verdict,
    shadow_report,
    shadow_verdict,
    wait_watching,
)
from distillnet.engine import ModelError
from distillnet.engine.student import Student
from distillnet.proto.archive import StudentError
from distillnet.proto.card import AudioInput, ImageInput
from distillnet.proto.mqtt import ShadowPayload

log = logging.getLogger(__name__)

MAX_FRUITLESS: Final = 20
MAX_BUSY_S: Final = 6 * 3600.0
"""A server that is busy for longer, and all the time, is given up."""
_PAUSE_TICK_S: Final = 0.25
_COMPARE_HZ: Final = (0.5, 10.0)
_LOOK_AGAIN_S: Final = 600.0
_BACK_S: Final = 3.0
"""Not longer: where an inference hangs, the rollback must be on the disk before the watchdog bites."""


@dataclass(frozen=True)
class _Found:
    """A signed student on its way here; metadata is not asked for again each time the line breaks."""

    trust: Trust
    target: SignedTarget
    channel: object
    looked_at: float

    def stale(self, link: FleetLink) -> bool:
        """Whether to look again: it was long ago, or over a channel that is no more."""
        return time.monotonic() - self.looked_at > _LOOK_AGAIN_S or link.trust()[1] is not self.channel


class BoardEffects:
    """The effects the daemon uses. `interrupted` gives a reason to drop the update, or nothing."""

    def __init__(
        self,
        config: DeviceConfig,
        store: ModelStore,
        slot: ModelSlot,
        link: FleetLink,
        *,
        stop: threading.Event,
        interrupted: Callable[[Update], str],
        report: Callable[[Record], None],
        progress: Callable[[float], None],
        limits: FetchLimits | None = None,
        backoff: Backoff | None = None,
        tuf_directory: str = "tuf",
        wanted_input: type[AudioInput] | type[ImageInput] | None = None,
    ) -> None:
        """Use the daemon's slot and link; `wanted_input` is what a student must see or hear by, None = either."""
        self._tuf_directory, self._wanted_input = tuf_directory, wanted_input
        self._config, self._store, self._slot, self._link = config, store, slot, link
        self._stop, self._interrupted = stop, interrupted
        self._report, self._progress = report, progress
        self._limits = limits or FetchLimits(rate_bytes_per_s=config.update.rate_bytes_per_s)
        self._backoff = backoff or Backoff()
        self._received = 0
        self._old: Student | None = None
        self._before: Behaviour | None = None

    def report(self, record: Record) -> None:
        """Tell the daemon and the cloud."""
        self._report(record)

    def look(self) -> Trust:
        """Return fresh, verified metadata.

        Raises:
            TransientError: the network failed, or the board is not enrolled.
            RefusedError: the repository is not trustworthy.

        """
        trust = self._trust()
        trust.refresh()
        return trust

    def fetch(self, wanted: Update) -> Update:
        """Try until the student is here, the update is dropped, or nothing at all comes `MAX_FRUITLESS` times.

        A server that says how long to leave it alone is left alone so long, and that is no fruitless attempt.
        """
        fruitless, found = 0, None
        busy_since: float | None = None
        while True:
            self._check(wanted)
            self._received = 0
            try:
                if found is None or found.stale(self._link):
                    found = self._find(wanted)
                return self._obtain(found, wanted)
            except TransientError as exc:
                if self._received and not isinstance(exc, TooSlowError):
                    fruitless, busy_since = 0, None
                    self._backoff.reset()
                if exc.retry_after_s is None:
                    fruitless, busy_since = fruitless + 1, None
                    if fruitless >= MAX_FRUITLESS:
                        raise RefusedError(f"gave up after {fruitless} attempts: {exc}", final=False) from exc
                    if found is not None and not isinstance(exc, TooSlowError):
                        found.trust.expect_breaks()
                    delay_s = self._backoff.next_s()
                else:
                    busy_since = time.monotonic() if busy_since is None else busy_since
                    if time.monotonic() - busy_since > MAX_BUSY_S:
                        raise RefusedError(f"the server was busy for {MAX_BUSY_S:g} s: {exc}", final=False) from exc
                    delay_s = self._backoff.after_s(exc.retry_after_s)
                log.warning("fetching: %s; trying again in %.1f s", exc, delay_s)
                self._pause(delay_s, wanted)

    def verify(self, update: Update) -> bytes:
        """Check hash and card."""
        data = self._store.read(update.digest)
        if data is None:
            raise RefusedError("the student in the store is damaged; it is fetched anew when asked for", final=False)
        admission.check_card(data, update, self._config)
        return data

    def self_test(self, update: Update, data: bytes) -> Student:
        """Test in a process apart, then in this one."""
        admission.try_apart(self._store.path(update.digest), self._config, self._stop)
        student = admission.load_tested(data, self._config)
        if self._wanted_input is not None and not isinstance(student.card.input, self._wanted_input):
            wanted = "hears" if self._wanted_input is AudioInput else "sees"
            raise RefusedError(f"self-test: {student.card.application!r} must be a student that {wanted} on this board")
        return student

    def wants_shadow(self) -> bool:
        """Whether `shadow_s` is set and there is a student to compare with."""
        return self._config.update.shadow_s > 0 and self._slot.current() is not None

    def shadow(self, student: Student, seen: Callable[[ShadowPayload], None]) -> None:
        """Run the candidate on the live stream; the current student goes on."""
        update = self._store.record.update
        ratio = self._config.update.max_latency_ratio
        with Beside(self._slot, student) as beside:

            def judge() -> str:
                return self._interrupted(update) or shadow_verdict(beside.result(), self._slot.behaviour(), ratio)

            verdict = wait_watching(self._config.update.shadow_s, judge, self._stop)
        self._stopped()
        measured = shadow_report(beside.result(), self._slot.behaviour())
        seen(measured)
        log.info("shadow: %s", measured)
        if verdict:
            raise RefusedError(verdict)

    def switch(self, student: Student) -> None:
        """Swap between two frames; nothing to do where the daemon has started with it."""
        running = self._slot.current()
        if running is not None and running.digest == student.digest:
            return
        self._old, self._before = running, self._slot.behaviour() if running is not None else None
        self._swap(student)

    def probation(self, student: Student) -> str:
        """Watch latency, errors and events against the previous student, and their scores on the same frames."""
        seconds = self._config.update.probation_s
        if seconds <= 0:
            return ""
        update = self._store.record.update
        reference = self._reference(student)
        if reference is None:
            return self._watch(update, seconds, None)
        slowest, fastest = _COMPARE_HZ  # seldom enough to cost nothing, often enough to conclude something
        rate_hz = min(fastest, max(slowest, 3 * MIN_PAIRS / seconds))
        with Beside(self._slot, reference, rate_hz=rate_hz) as beside:
            return self._watch(update, seconds, beside)

    def switch_back(self, reason: str) -> None:
        """Put the student of the current slot back; without one the running student stays until a restart."""
        wanted = self._store.record.slots.current
        running = self._slot.current()
        old, self._old, self._before = self._old, None, None
        if running is None or (wanted is not None and running.digest == wanted.digest):
            return
        student = old if old is not None and (wanted is None or old.digest == wanted.digest) else self._committed()
        if student is None:
            log.error("there is no student to go back to; %s", reason)
            return
        try:
            self._swap(student, _BACK_S)
        except RefusedError as exc:
            log.error("cannot switch back now: %s; the next start will", exc)

    def return_to(self, slot: Installed) -> None:
        """Switch to a student of the store by hand or by directive.

        Raises:
            RefusedError: it is damaged, or fails its self-test.

        """
        data = self._store.read(slot.digest)
        if data is None:
            raise RefusedError("the previous student is damaged", final=False)
        self._swap(admission.load_tested(data, self._config))

    def _find(self, wanted: Update) -> "_Found":
        """Look up what is signed about the wanted student, and whether it may come here."""
        if self._store.record.slots.pinned:
            raise RefusedError("pinned to the current student by hand: distillnet model pin --off", final=False)
        _, channel = self._link.trust()
        trust = self.look()
        target = trust.target(wanted.target_path)
        admission.check_signed(target, wanted, self._config, self._store.record.slots.current)
        return _Found(trust, target, channel, time.monotonic())

    def _obtain(self, found: "_Found", wanted: Update) -> Update:
        target = found.target
        if not self._store.has(target.digest):
            self._download(found.trust, target, wanted)
        return wanted.model_copy(
            update={"version": target.version, "digest": target.digest, "size_bytes": target.size_bytes}
        )

    def _download(self, trust: Trust, target: SignedTarget, wanted: Update) -> None:
        try:
            self._store.make_room(target.size_bytes, target.digest)
        except StoreError as exc:
            raise RefusedError(str(exc), final=False) from exc

        def progressed(have: int) -> None:
            self._received += 1
            self._check(wanted)
            self._progress(have / max(1, target.size_bytes))

        trust.download(target, self._store.partial_path(target.digest), progressed)
        self._store.adopt(target.digest)

    def _trust(self) -> Trust:
        identity, channel = self._link.trust()
        fetcher = GrpcFetcher(channel, limits=self._limits, stop=self._stop)
        directory = self._config.device.state_dir / self._tuf_directory
        now = believed_time(identity, time.time(), self._link.now())
        return Trust(directory, identity.tuf_root, fetcher, self._store.files, now)

    def _watch(self, update: Update, seconds: float, beside: Beside | None) -> str:
        before = self._before

        def judge() -> str:
            asked = self._interrupted(update)
            if asked:
                return asked
            return probation_verdict(
                self._slot.behaviour(),
                before,
                beside.result() if beside is not None else None,
                max_latency_ratio=self._config.update.max_latency_ratio,
                max_event_ratio=self._config.update.max_event_ratio,
            )

        verdict = wait_watching(seconds, judge, self._stop, settled=lambda: answers(self._slot.behaviour()))
        if not verdict:
            self._stopped()
        return verdict

    def _reference(self, student: Student) -> Student | None:
        """Return the previous student, loaded: what the one on probation is compared with."""
        if self._old is not None:
            return self._old
        committed = self._committed()
        return committed if committed is not None and committed.digest != student.digest else None

    def _committed(self) -> Student | None:
        """Load what to go back to: the store's, else the device file's."""
        found = self._store.runnable()
        path = self._config.model.path
        try:
            if found is not None:
                return admission.load(found[1], self._config)
            return admission.load(path.read_bytes(), self._config) if path is not None else None
        except (OSError, StudentError, ModelError) as exc:
            log.error("the student to go back to cannot be loaded: %s", exc)
            return None

    def _swap(self, student: Student, timeout_s: float = 10.0) -> None:
        try:
            self._slot.swap(student, timeout_s=timeout_s)
        except SwapError as exc:
            raise RefusedError(f"switch: {exc}", final=False) from exc

    def _pause(self, seconds: float, update: Update) -> None:
        """Wait, unless the update is dropped meanwhile."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._check(update)
            self._stop.wait(min(left_s, _PAUSE_TICK_S))

    def _check(self, update: Update) -> None:
        self._stopped()
        reason = self._interrupted(update)
        if reason:
            raise RefusedError(reason, final=False)

    def _stopped(self) -> None:
        if self._stop.is_set():
            raise StoppedError("the daemon is stopping")


def believed_time(identity: DeviceIdentity, board_ts: float, cloud_ts: float | None) -> datetime.datetime:
    """Return the time to judge expiry by: the latest of this board's clock, the cloud's, and its certificate's start.

    A board without a clock battery may wake in the past, which would let old metadata pass as fresh. The start of the
    certificate is a lower bound that the cloud has signed, and the cloud's word can only make things expire. Nothing
    makes time go back: a board whose clock is ahead waits until it is right.
    """
    floor = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_before_utc
    latest = max(0.0, board_ts, cloud_ts or 0.0)
    return max(floor, datetime.datetime.fromtimestamp(latest, datetime.UTC))
