"""What is wrong now, and the state that follows from it: `init`, `ready`, `degraded`, `updating`. Thread-safe."""

import threading
from collections.abc import Callable

from distillnet.proto.mqtt import DeviceState, UpdatePhase

_UPDATING: tuple[UpdatePhase, ...] = ("fetching", "verifying", "self-test", "shadow", "switched")


class Health:
    """Complaints by topic, and the device state they amount to."""

    def __init__(self, on_change: Callable[[DeviceState, str], None]) -> None:
        """`on_change` is told state and reason whenever either changes."""
        self._on_change = on_change
        self._lock = threading.Lock()
        self._complaints: dict[str, str] = {}
        self._has_student = False
        self._updating = False
        self._said: tuple[DeviceState, str] | None = None

    def complain(self, about: str, reason: str) -> None:
        """Say what is wrong with something; an empty reason says that it is right again."""
        if self._complaints.get(about, "") == reason:
            return
        with self._lock:
            if reason:
                self._complaints[about] = reason
            else:
                self._complaints.pop(about, None)
        self._tell()

    def has_student(self) -> None:
        """Say that a student runs."""
        self._has_student = True
        self._tell()

    def update_phase(self, phase: UpdatePhase) -> None:
        """Say how far an update is."""
        self._updating = phase in _UPDATING
        self._tell()

    def state(self) -> tuple[DeviceState, str]:
        """Return the state and its reason."""
        with self._lock:
            reason = "; ".join(self._complaints[about] for about in sorted(self._complaints))
            if not self._has_student:
                return "init", reason or "waiting for the first student"
            if self._updating:
                return "updating", reason
            return ("degraded", reason) if reason else ("ready", "")

    def _tell(self) -> None:
        now = self.state()
        with self._lock:
            if now == self._said:
                return
            self._said = now
        self._on_change(*now)
