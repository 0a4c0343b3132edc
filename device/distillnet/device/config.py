"""The device file: what the daemon watches, what it says, and to whom. Read once, at the edge."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from distillnet.engine.backend import check_engine
from distillnet.proto.card import Name, Score
from distillnet.proto.strict import Strict, load_toml


def _clock_time(text: str) -> str:
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]|24:00", text):
        raise ValueError("a time of day is written HH:MM, 00:00 to 24:00")
    return text


ClockTime = Annotated[str, AfterValidator(_clock_time)]
"""HH:MM, local."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class DeviceSection(Strict):
    """`[device]`: who this board is and where it keeps its state."""

    name: Name
    state_dir: Path = Field(default=Path("/var/lib/distillnet"), description="store, outbox, identity")
    board: str = "auto"


class EngineSection(Strict):
    """`[engine]`."""

    backend: Annotated[str, AfterValidator(check_engine)] = "auto"
    threads: int = Field(default=1, ge=1, le=64)


class ModelSection(Strict):
    """`[model]`: the student to run. `path` is used until the store holds a committed one."""

    application: Name
    path: Path | None = None


class Zone(Strict):
    """A part of the picture, as fractions of its width and height; it is cropped and recognised by itself."""

    name: Name
    box: tuple[Fraction, Fraction, Fraction, Fraction] = Field(description="left, top, right, bottom, 0–1")

    @model_validator(mode="after")
    def _box_is_not_empty(self) -> Self:
        left, top, right, bottom = self.box
        if left >= right or top >= bottom:
            raise ValueError(
                f"box must be [left, top, right, bottom] with left < right and top < bottom; got {self.box}"
            )
        return self


class Source(Strict):
    """`[[source]]`: one stream. `url` is a V4L2 device, a file, a directory, an rtsp/http URL or a pipeline."""

    id: Name
    kind: Literal["auto", "camera", "video", "images", "stream", "pipeline", "microphone", "sound"] = "auto"
    url: str
    pace: Literal["real-time", "fast"] = "real-time"
    loop: bool = False
    rate_hz: float | None = Field(default=None, gt=0, le=1000, description="at most so many frames a second")
    queue: int = Field(default=4, ge=1, le=256, description="frames waiting; the oldest is dropped and counted")
    stall_s: float = Field(default=10.0, gt=0, description="no frame for so long is `stalled`")
    gate: Literal["off", "on", "auto"] = "off"
    zones: list[Zone] = Field(default_factory=list)

    @property
    def shown_url(self) -> str:
        """The url without user and password, for logs and `info`."""
        return without_login(self.url)


class EventRule(Strict):
    """`[[event]]`: how scores of one event become its life. Unset thresholds come from the card."""

    name: Name
    threshold: Score | None = None
    exit_threshold: Score | None = None
    confirm: int = Field(default=3, ge=1, le=255, description="N of M frames above the threshold start it")
    window: int = Field(default=5, ge=1, le=255, description="M")
    minimum_s: float = Field(default=0.0, ge=0, description="shorter ones are never announced")
    gap_s: float = Field(default=0.0, ge=0, description="gaps shorter than this do not end it, as when it is covered")
    cooldown_s: float = Field(default=0.0, ge=0)
    update_s: float = Field(default=10.0, gt=0, description="an `update` so often while it lasts")
    baseline: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="usual score without it: each zone learns its own, and scores are moved by the difference",
    )
    sources: list[Name] = Field(default_factory=list, description="empty = all")
    hours: list[tuple[ClockTime, ClockTime]] = Field(
        default_factory=list, description='local time ranges, e.g. ["08:00", "18:30"]'
    )

    @model_validator(mode="after")
    def _window_holds_confirm(self) -> Self:
        if self.confirm > self.window:
            raise ValueError(f"confirm ({self.confirm}) is larger than window ({self.window})")
        return self


class MqttSection(Strict):
    """`[mqtt]`."""

    host: str = "localhost"
    port: int = Field(default=1883, ge=1, le=65535)
    version: Literal["auto", "5", "3.1.1"] = "auto"
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    cloudevents: bool = Field(
        default=False, description="events carry CloudEvents attributes as MQTT 5 user properties (binary mode)"
    )
    home_assistant: bool = True
    home_assistant_prefix: str = "homeassistant"


class OutboxSection(Strict):
    """`[outbox]`: events that wait for the broker."""

    max_bytes: int = Field(default=32 << 20, ge=1 << 16)
    max_age_s: float = Field(default=7 * 86400.0, gt=0)


class TelemetrySection(Strict):
    """`[telemetry]`."""

    interval_s: float = Field(default=60.0, ge=0.2, le=3600)
    prometheus_port: int | None = Field(default=None, ge=1, le=65535, description="on localhost; unset = off")


class EvidenceSection(Strict):
    """`[evidence]`: pictures around an event, kept on the board. Off unless asked for."""

    mode: Literal["off", "snapshot", "clip"] = "off"
    before_s: float = Field(default=2.0, ge=0, le=30)
    after_s: float = Field(default=3.0, ge=0, le=30)
    max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    max_age_s: float = Field(default=7 * 86400.0, gt=0)


class FeedbackSection(Strict):
    """`[feedback]`: what the board gives its fleet for the next distillation. Nothing unless asked for."""

    examples: bool = Field(default=False, description="send pictures whose score is close to a threshold")
    margin: Score = Field(default=0.15, description="so close")
    per_hour: float = Field(default=6.0, gt=0, description="at most")
    max_bytes: int = Field(default=32 << 20, ge=1 << 20, description="that wait for the fleet; the oldest go")
    profile: Path | None = Field(default=None, description="what `distillnet bench --profile FILE` measured; sent once")


class UpdateSection(Strict):
    """`[update]`: where students come from, and how carefully a new one is taken."""

    server: str | None = Field(default=None, description="host:port of the fleet; unset = no updates over gRPC")
    poll_s: float = Field(default=6 * 3600.0, ge=1.0, description="look by oneself so often, with jitter")
    shadow_s: float = Field(default=0.0, ge=0, description="run beside the current student so long before switching")
    probation_s: float = Field(default=60.0, ge=0, description="watched so long after switching")
    max_latency_ratio: float = Field(default=2.0, gt=1, description="p99 against the previous student's in probation")
    max_event_ratio: float = Field(default=5.0, gt=1, description="events per hour against the previous student's")
    max_crashes: int = Field(default=2, ge=1, description="restarts in probation before rolling back")
    max_arena_bytes: int = Field(default=64 << 20, ge=1 << 16)
    store_bytes: int = Field(default=256 << 20, ge=1 << 20)
    rate_bytes_per_s: int | None = Field(default=None, gt=0)
    hours: list[tuple[ClockTime, ClockTime]] = Field(
        default_factory=list, description='an update begins only within these local times, e.g. ["02:00", "04:00"]'
    )
    metered: list[str] = Field(
        default_factory=list, description='and not while the way out is one of these interfaces, e.g. "wwan*"'
    )


class DeviceConfig(Strict):
    """The whole device file."""

    device: DeviceSection
    model: ModelSection
    sound_model: ModelSection | None = Field(
        default=None, description="the student for sounds and microphones, where `model` is one for pictures"
    )
    source: list[Source] = Field(min_length=1)
    event: list[EventRule] = Field(default_factory=list)
    engine: EngineSection = EngineSection()
    mqtt: MqttSection = MqttSection()
    outbox: OutboxSection = OutboxSection()
    telemetry: TelemetrySection = TelemetrySection()
    evidence: EvidenceSection = EvidenceSection()
    feedback: FeedbackSection = FeedbackSection()
    update: UpdateSection = UpdateSection()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        for kind, names in (("source", [s.id for s in self.source]), ("event", [e.name for e in self.event])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is there twice")
        return self


def load(path: Path) -> DeviceConfig:
    """Read a device file.

    Raises:
        ConfigError: what is wrong, one line per problem.

    """
    return load_toml(path, DeviceConfig)


def within_hours(hours: Sequence[tuple[ClockTime, ClockTime]], ts: float) -> bool:
    """Whether `ts` (Unix seconds) lies in one of the ranges by local time; they may go over midnight, none = always."""
    if not hours:
        return True
    now = time.strftime("%H:%M", time.localtime(ts))
    return any(start <= now < end if start <= end else now >= start or now < end for start, end in hours)


def without_login(text: str) -> str:
    """Leave the user and password of a url out of what is shown."""
    return re.sub(r"://[^/@]*@", "://", text)
