"""Sends what waits in `state_dir/feedback`, and the board's measured profile, over the link that brings students.

One message at a time, and only while an update might begin: not outside its hours, not while the way out is metered. An
example goes once the fleet has it, or will not have it; what cannot be sent waits.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from distillnet.device.config import DeviceConfig
from distillnet.device.unsure import ENDING, FOLDER
from distillnet.device.update.channel import reason_of
from distillnet.device.update.errors import TransientError
from distillnet.device.update.link import FleetLink
from distillnet.proto.v1 import feedback_pb2, feedback_pb2_grpc

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_FULL_S = 3600.0
_TIMEOUT_S = 60.0
_FINAL = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,  # an older service
)


class GiveBack:
    """A thread that sends, from `start` to `stop`."""

    def __init__(self, config: DeviceConfig, link: FleetLink, waits_for: Callable[[], str]) -> None:
        """Use `link`; `waits_for` says what keeps this board from using the network much, or nothing."""
        self._profile = config.feedback.profile
        self._wanted = config.feedback.examples or self._profile is not None
        self._folder = config.device.state_dir / FOLDER
        self._link, self._waits_for = link, waits_for
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="give-back", daemon=True)

    def start(self) -> None:
        """Begin, where anything is to be given back."""
        if self._wanted:
            self._thread.start()

    def stop(self) -> None:
        """End within a second; what is being sent is sent again."""
        self._stop.set()

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while not self._stop.wait(pause_s):
            pause_s = _PAUSE_S
            if not self._link.connected or self._waits_for():
                continue
            try:
                if self._profile is not None:
                    self._send_profile(self._profile)
                    self._profile = None
                waiting = min(self._folder.glob(f"*{ENDING}"), default=None)
                if waiting is not None and not self._send_example(waiting):
                    pause_s = _FULL_S
            except (TransientError, grpc.RpcError, OSError, ValueError) as exc:
                reason = reason_of(exc) if isinstance(exc, grpc.RpcError) else exc
                log.warning("what this board gives back could not be sent, and waits: %s", reason)
                pause_s = 10 * _PAUSE_S

    def _send_profile(self, path: Path) -> None:
        request = feedback_pb2.SendProfileRequest(profile_json=path.read_bytes())
        try:
            self._stub().SendProfile(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as exc:
            if exc.code() not in _FINAL:
                raise
            log.error("%s: the fleet does not take it: %s", path, reason_of(exc))

    def _send_example(self, path: Path) -> bool:
        """Send one; False when the fleet has enough for today."""
        try:
            self._stub().SendExample(feedback_pb2.Example.FromString(path.read_bytes()), timeout=_TIMEOUT_S)
        except DecodeError:
            log.error("%s: is damaged, and deleted", path)
        except grpc.RpcError as exc:
            if exc.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                return False
            if exc.code() not in _FINAL:
                raise
            log.error("the fleet does not take an example: %s", reason_of(exc))
        path.unlink(missing_ok=True)
        return True

    def _stub(self) -> feedback_pb2_grpc.FeedbackStub:
        _, channel = self._link.trust()
        return feedback_pb2_grpc.FeedbackStub(channel)
