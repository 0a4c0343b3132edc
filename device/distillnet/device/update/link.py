"""The board's end of `Fleet.Connect`: one stream, kept up for ever, and the channel that fetches share.

Reconnects with backoff and jitter, does what the server's RetryAfter asks, renews the certificate before it ends.
It knows nothing of what directives mean.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from distillnet.device.update.backoff import Backoff
from distillnet.device.update.channel import fleet_channel, pushback_s, reason_of
from distillnet.device.update.enroll import renew
from distillnet.device.update.errors import TransientError, UpdateError
from distillnet.device.update.identity import DeviceIdentity, load_identity
from distillnet.proto.v1 import fleet_pb2, fleet_pb2_grpc

log = logging.getLogger(__name__)

_ENROLMENT_CHECK_S = 2.0
_WELCOME_S = 30.0
_STABLE_S = 10.0
_MAX_RETRY_AFTER_S = 3600.0
_MIN_HEARTBEAT_S = 0.2
_DEFAULT_HEARTBEAT_S = 15.0
_RENEWAL_RETRY_S = 600.0
_QUEUE = 256
_CLOCK_SLACK_S = 60.0
_MAX_TS = 4102444800.0  # the year 2100


class FleetLink:
    """Owns the channel and the stream, in a thread of its own."""

    def __init__(
        self,
        state_dir: Path,
        *,
        address: str,
        hello: Callable[[], fleet_pb2.Hello],
        on_directive: Callable[[fleet_pb2.Directive], None],
        on_connected: Callable[[], None],
        backoff: Backoff | None = None,
    ) -> None:
        """Use the identity under `state_dir`; `address` overrides the enrolled one. Callbacks must not block."""
        self._state_dir, self._address = state_dir, address
        self._hello, self._on_directive, self._on_connected = hello, on_directive, on_connected
        self._backoff = backoff or Backoff()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._identity: DeviceIdentity | None = None
        self._channel: grpc.Channel | None = None
        self._stream: _Stream | None = None
        self._renewal_not_before = 0.0
        self._started = time.monotonic()
        self._ahead_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="update-link", daemon=True)

    def start(self) -> None:
        """Start connecting; again does nothing."""
        with self._opening:
            if self._thread.ident is None:
                self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> None:
        """End the stream and close the channel; does not wait longer than `timeout_s`."""
        self._stop.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.end()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._close_channel()

    @property
    def connected(self) -> bool:
        """Whether the cloud has welcomed this board on a stream that is still up."""
        with self._lock:
            return self._stream is not None and self._stream.welcomed

    def now(self) -> float | None:
        """Return Unix seconds by the cloud's clock; None before its first welcome."""
        return None if self._ahead_s is None else self._ahead_s + time.monotonic()

    def trust(self) -> tuple[DeviceIdentity, grpc.Channel]:
        """Return the identity and the channel to fetch with.

        Raises:
            TransientError: the board is not enrolled, or its identity is damaged.

        """
        try:
            opened = self._open()
        except UpdateError as exc:  # damaged, or its key cannot be reached just now
            raise TransientError(str(exc)) from exc
        if not opened:
            raise TransientError("this board is not enrolled: distillnet enroll")
        with self._lock:
            if self._identity is None or self._channel is None:
                raise TransientError("the link to the fleet is just being closed")
            return self._identity, self._channel

    def send(self, message: fleet_pb2.DeviceMessage) -> bool:
        """Hand a message to the stream; False where there is none, or it takes nothing."""
        with self._lock:
            stream = self._stream
        return stream is not None and stream.welcomed and stream.put(message)

    def _run(self) -> None:
        while not self._stop.is_set():
            wait_s = _ENROLMENT_CHECK_S
            try:
                if self._prepare():
                    wait_s = self._converse()
            except UpdateError as exc:
                log.error("%s", exc)
                wait_s = self._backoff.next_s()
            except Exception:
                if not self._stop.is_set():  # a channel closed under a starting call raises ValueError
                    log.exception("the link to the fleet failed in a way nobody thought of")
                wait_s = self._backoff.next_s()
            self._stop.wait(wait_s)

    def _prepare(self) -> bool:
        """Have an identity and a channel, renewed if due; False while the board is not enrolled."""
        if not self._open():
            return False
        identity = self._identity
        if identity is not None and self._renewal_due(identity):
            self._renewal_not_before = time.monotonic() + _RENEWAL_RETRY_S
            assert self._channel is not None
            try:
                self._use(renew(self._state_dir, identity, self._channel))
            except TransientError as exc:
                log.warning("%s", exc)
        return True

    def _open(self) -> bool:
        """Have the identity and a channel; False while the board is not enrolled."""
        with self._opening:
            if self._channel is None and not self._stop.is_set():
                identity = load_identity(self._state_dir)
                if identity is None:
                    return False
                self._use(identity)
            return True

    def _renewal_due(self, identity: DeviceIdentity) -> bool:
        now = self.now()
        return identity.renewal_due(time.time() if now is None else now) and (
            time.monotonic() >= self._renewal_not_before
        )

    def _use(self, identity: DeviceIdentity) -> None:
        channel = fleet_channel(identity, self._address)
        with self._lock:
            old, self._channel, self._identity = self._channel, channel, identity
        if old is not None:
            old.close()

    def _converse(self) -> float:
        """Hold one stream until it ends; returns how long to wait before the next."""
        assert self._channel is not None
        stream = _Stream(self._channel, self._hello(), self._heartbeat, self._renewal_wanted)
        with self._lock:
            self._stream = stream
        if self._stop.is_set():
            stream.end()
        started = time.monotonic()
        try:
            for message in stream.messages():
                self._take(stream, message)
            outcome = "the server ended the stream"
        except grpc.RpcError as exc:
            outcome = reason_of(exc)
            stream.retry_after_s = stream.retry_after_s or pushback_s(exc)
            self._forget_if_refused(exc)
        finally:
            stream.end()
            with self._lock:
                self._stream = None
        if stream.welcomed and time.monotonic() - started > _STABLE_S:
            self._backoff.reset()
        if stream.renewing:
            return 0.0
        asked_s = stream.retry_after_s
        wait_s = self._backoff.next_s() if asked_s is None else self._backoff.after_s(asked_s)
        if not self._stop.is_set():
            log.info("fleet: %s; trying again in %.1f s", outcome, wait_s)
        return wait_s

    def _forget_if_refused(self, error: grpc.RpcError) -> None:
        """Read the identity anew next time: it may have been enrolled again."""
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            log.error("the fleet refuses this board: %s; enrol it again if it should belong to it", reason_of(error))
            self._close_channel()

    def _take(self, stream: "_Stream", message: fleet_pb2.CloudMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "welcome":
            stream.welcome(message.welcome)
            self._set_clock(message.welcome.ts)
            self._on_connected()
        elif kind == "directive" and stream.welcomed:
            stream.put(fleet_pb2.DeviceMessage(ack=fleet_pb2.Ack(directive_id=message.directive.id)))
            self._on_directive(message.directive)
        elif kind == "retry_after":
            seconds = message.retry_after.seconds
            stream.retry_after_s = min(seconds, _MAX_RETRY_AFTER_S) if seconds > 0 else None

    def _set_clock(self, cloud_ts: float) -> None:
        if not 0 < cloud_ts < _MAX_TS:
            return
        first, self._ahead_s = self._ahead_s is None, cloud_ts - time.monotonic()
        wrong_s = time.time() - cloud_ts
        if first and abs(wrong_s) > _CLOCK_SLACK_S:
            log.warning(
                "this board's clock is %.0f s %s the fleet's", abs(wrong_s), "behind" if wrong_s < 0 else "ahead of"
            )

    def _heartbeat(self) -> fleet_pb2.DeviceMessage:
        beat = fleet_pb2.Heartbeat(uptime_s=time.monotonic() - self._started, models=self._hello().models)
        return fleet_pb2.DeviceMessage(heartbeat=beat)

    def _renewal_wanted(self) -> bool:
        return self._identity is not None and self._renewal_due(self._identity)

    def _close_channel(self) -> None:
        with self._lock:
            channel, self._channel, self._identity = self._channel, None, None
        if channel is not None:
            channel.close()


class _Stream:
    """One call of `Connect`: what goes up, with heartbeats in between."""

    def __init__(
        self,
        channel: grpc.Channel,
        hello: fleet_pb2.Hello,
        heartbeat: Callable[[], fleet_pb2.DeviceMessage],
        renewal_wanted: Callable[[], bool],
    ) -> None:
        self._up: queue.Queue[fleet_pb2.DeviceMessage | None] = queue.Queue(maxsize=_QUEUE)
        self._up.put_nowait(fleet_pb2.DeviceMessage(hello=hello))
        self._heartbeat, self._renewal_wanted = heartbeat, renewal_wanted
        self._heartbeat_s = _DEFAULT_HEARTBEAT_S
        self.welcomed = self.renewing = False
        self._opened = time.monotonic()
        self.retry_after_s: float | None = None
        self._call = fleet_pb2_grpc.FleetStub(channel).Connect(self._requests())

    def messages(self) -> Iterator[fleet_pb2.CloudMessage]:
        yield from self._call

    def put(self, message: fleet_pb2.DeviceMessage) -> bool:
        try:
            self._up.put_nowait(message)
        except queue.Full:
            return False
        return True

    def welcome(self, welcome: fleet_pb2.Welcome) -> None:
        if welcome.heartbeat_s > 0:
            self._heartbeat_s = max(_MIN_HEARTBEAT_S, welcome.heartbeat_s)
        self.welcomed = True
        self._up.put_nowait(self._heartbeat())  # wakes the sender, which then knows the new interval

    def end(self) -> None:
        self.welcomed = False
        self._call.cancel()
        try:
            self._up.put_nowait(None)
        except queue.Full:
            self._up.get_nowait()
            self._up.put_nowait(None)

    def _requests(self) -> Iterator[fleet_pb2.DeviceMessage]:
        while True:
            try:
                message = self._up.get(timeout=self._heartbeat_s if self.welcomed else _WELCOME_S / 4)
            except queue.Empty:
                if not self.welcomed:
                    if time.monotonic() - self._opened > _WELCOME_S:
                        log.warning("fleet: no welcome within %d s", _WELCOME_S)
                        self._call.cancel()
                        return
                    continue
                if self._renewal_wanted():
                    self.renewing = True
                    self._call.cancel()
                    return
                message = self._heartbeat()
            if message is None:
                return
            yield message
