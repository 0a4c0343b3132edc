"""A board for tests: its config, its slot, its service, and a patient way to wait."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiny
from simulated_cloud import SimulatedCloud

from distillnet.device.config import DeviceConfig
from distillnet.device.slot import ModelSlot
from distillnet.device.update import admission
from distillnet.device.update.backoff import Backoff
from distillnet.device.update.enroll import enroll
from distillnet.device.update.service import UpdateService, startup_student
from distillnet.proto.mqtt import ModelPayload


@dataclass
class Board:
    """A board: its config, slot, service, and what it published about its model."""

    cloud: SimulatedCloud
    state_dir: Path
    name: str = "porch"
    update: dict = field(default_factory=dict)
    slot: ModelSlot = field(default_factory=ModelSlot)
    payloads: list[ModelPayload] = field(default_factory=list)
    service: UpdateService | None = None

    @property
    def config(self) -> DeviceConfig:
        update = {"probation_s": 0, "poll_s": 3600, **self.update}
        return DeviceConfig.model_validate(
            {
                "device": {"name": self.name, "state_dir": str(self.state_dir)},
                "model": {"application": tiny.APPLICATION},
                "source": [{"id": "door", "url": "none"}],
                "update": update,
            }
        )

    def enroll(self) -> "Board":
        enroll(self.state_dir, self.cloud.enroll_address, self.cloud.token(), device=self.name)
        return self

    def start(self, *, wait: bool = True) -> "Board":
        """As the daemon starts: the store's student first, then the service."""
        data = startup_student(self.config)
        self.slot = ModelSlot(admission.load(data, self.config) if data is not None else None)
        self.service = UpdateService(self.config, self.slot, self.payloads.append)
        self.service._link._backoff = Backoff(first_s=0.05, limit_s=0.2)
        self.service.start()
        if wait:
            self.cloud.wait_connected(self.name)
        return self

    def stop(self) -> None:
        if self.service is not None:
            self.service.stop()
            self.service = None

    @property
    def running_version(self) -> int | None:
        student = self.slot.current()
        return None if student is None else student.card.version

    def take(self, version: int, data: bytes | None = None, **custom):
        """Publish, direct, wait; returns the final report."""
        directive = self.cloud.publish(version, data or tiny.numbered(version), **custom)
        self.cloud.send(self.name, directive)
        return self.cloud.wait_outcome(directive)


def until(condition: Callable[[], bool], timeout_s: float = 10.0, what: str = "") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        threading.Event().wait(0.01)
