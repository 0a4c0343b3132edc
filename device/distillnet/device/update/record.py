"""What the store remembers: which student is in which slot, where the update stands, and what became of earlier ones.

One record, written as one file: a commit turns the slots and ends the update in a single rename.
"""

from typing import Literal, Self

from pydantic import Field

from distillnet.proto.mqtt import ShadowPayload, UpdatePhase
from distillnet.proto.strict import Strict

Outcome = Literal["none", "committed", "rolled-back", "refused"]
Trigger = Literal["directive", "command", "timer", "none"]
HISTORY = 64


class Installed(Strict):
    """A student in a slot."""

    application: str
    version: int = Field(ge=0)
    digest: str = Field(pattern=r"^(sha256:[0-9a-f]{64})?$")

    @classmethod
    def none(cls, application: str) -> Self:
        """Stand for no student at all."""
        return cls(application=application, version=0, digest="")

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.removeprefix("sha256:")


class Slots(Strict):
    """`current` runs and is committed; `previous` is what to go back to; `candidate` is on trial."""

    current: Installed | None = None
    previous: Installed | None = None
    candidate: Installed | None = None
    pinned: bool = Field(default=False, description="take no update until unpinned")


class Update(Strict):
    """One attempt at a new student, or the last one if its phase is an end."""

    phase: UpdatePhase = "idle"
    directive: str = ""
    trigger: Trigger = "none"
    application: str = ""
    version: int = Field(default=0, ge=0)
    digest: str = ""
    target_path: str = ""
    size_bytes: int = Field(default=0, ge=0)
    transitions: int = Field(default=0, ge=0)
    restarts: int = Field(default=0, ge=0, description="starts that found this update on trial, without a clean stop")
    result: Outcome = "none"
    reason: str = ""
    started_ts: float = Field(default=0.0, ge=0)
    durations_ms: dict[str, float] = Field(default_factory=dict)
    shadow: ShadowPayload | None = None


class Past(Strict):
    """How an update ended. `final` = this digest is not tried again unless a new directive asks for it."""

    directive: str = ""
    application: str
    version: int = Field(ge=0)
    digest: str
    result: Outcome
    reason: str = ""
    final: bool = False
    ts: float = Field(default=0.0, ge=0)


class Record(Strict):
    """Everything the store remembers."""

    format: Literal[1] = 1
    sequence: int = Field(default=0, ge=0)
    slots: Slots = Slots()
    update: Update = Update()
    history: list[Past] = Field(default_factory=list, max_length=HISTORY)
    clean_stop: bool = Field(default=True, description="the daemon stopped by itself, it did not die")

    def answered(self, directive: str) -> Past | None:
        """Return how a directive ended before, if this board has had it."""
        return next((past for past in reversed(self.history) if directive and past.directive == directive), None)

    def rejected(self, digest: str) -> Past | None:
        """Return why a student is not tried again unasked, or None."""
        last = next((past for past in reversed(self.history) if past.digest == digest), None)
        return last if last is not None and last.final and last.result != "committed" else None
