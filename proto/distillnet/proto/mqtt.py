"""The MQTT contract: topics and payloads under `distillnet/v1/<device>/`.

Payloads are JSON objects; their JSON Schemas are generated from these models (`schemas()`), published in
docs/mqtt/ and checked against what really crosses a broker. Times are Unix seconds (float), durations milliseconds.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from distillnet.proto.card import Name, Score
from distillnet.proto.strict import Strict

BASE = "distillnet/v1"
TELEMETRY_EXPIRY_S = 120

DeviceState = Literal["init", "ready", "degraded", "updating", "offline", "lost"]
Phase = Literal["new", "update", "end"]
UpdatePhase = Literal[
    "idle",
    "fetching",
    "verifying",
    "self-test",
    "shadow",
    "switched",
    "probation",
    "committed",
    "rolled-back",
    "refused",
]
Timestamp = Annotated[float, Field(ge=0, description="Unix seconds")]
Milliseconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Topics:
    """The topics of one device."""

    device: str

    @property
    def base(self) -> str:
        """`distillnet/v1/<device>`."""
        return f"{BASE}/{self.device}"

    @property
    def status(self) -> str:
        """QoS 1, retained; the last will."""
        return f"{self.base}/status"

    @property
    def info(self) -> str:
        """QoS 1, retained."""
        return f"{self.base}/info"

    @property
    def telemetry(self) -> str:
        """QoS 0, expires."""
        return f"{self.base}/telemetry"

    @property
    def model(self) -> str:
        """QoS 1, retained."""
        return f"{self.base}/model"

    @property
    def sound_model(self) -> str:
        """As `model`, of the student for sounds on a board that has two; QoS 1, retained."""
        return f"{self.base}/sound_model"

    def event(self, source: str, event: str) -> str:
        """QoS 1, not retained."""
        return f"{self.base}/event/{source}/{event}"

    def state(self, source: str, event: str) -> str:
        """`ON` or `OFF`; QoS 1, retained."""
        return f"{self.base}/state/{source}/{event}"

    def source(self, source: str) -> str:
        """QoS 1, retained."""
        return f"{self.base}/source/{source}"

    def command(self, verb: str) -> str:
        """Requests; a retained one is refused."""
        return f"{self.base}/cmd/{verb}"


class StatusPayload(Strict):
    """`status`."""

    state: DeviceState
    session: str
    ts: Timestamp
    reason: str = ""


class StageLatency(Strict):
    """What one frame cost, stage by stage."""

    capture: Milliseconds = 0.0
    gate: Milliseconds = 0.0
    preprocess: Milliseconds = 0.0
    infer: Milliseconds = 0.0
    decide: Milliseconds = 0.0
    total: Milliseconds = 0.0


class EventPayload(Strict):
    """`event/<source>/<event>`: one phase in the life of one event. Ids are UUIDv7, one per life."""

    schema_: Literal["distillnet.event.v1"] = Field(default="distillnet.event.v1", alias="schema")
    id: str
    seq: int = Field(ge=0, description="per session, over all events; a gap means a loss")
    session: str
    phase: Phase
    source: Name
    zone: str | None = None
    event: Name
    score: Score
    top_score: Score
    start_ts: Timestamp
    end_ts: Timestamp | None = None
    frame_ts: Timestamp
    publish_ts: Timestamp | None = None
    model_digest: str
    latency_ms: StageLatency = StageLatency()
    evidence: str | None = None
    replayed: bool = Field(default=False, description="offered to the broker late, after an outage or a restart")


class SourcePayload(Strict):
    """`source/<id>`."""

    state: Literal["online", "stalled", "error"]
    reason: str = ""
    ts: Timestamp


class Quantiles(Strict):
    """A latency distribution since the last report, milliseconds."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds
    max: Milliseconds
    n: int = Field(ge=0)


class SourceTelemetry(Strict):
    """What one source did since the last report."""

    fps: float = Field(ge=0, description="frames taken from the source per second")
    frames: int = Field(ge=0)
    dropped: int = Field(ge=0, description="frames the bounded queue let go")
    gated: int = Field(ge=0, description="frames on which inference was skipped")
    queue: int = Field(ge=0)


class TelemetryPayload(Strict):
    """`telemetry`."""

    schema_: Literal["distillnet.telemetry.v1"] = Field(default="distillnet.telemetry.v1", alias="schema")
    session: str
    ts: Timestamp
    interval_s: float = Field(ge=0)
    uptime_s: float = Field(ge=0)
    model_digest: str
    stages: dict[str, Quantiles] = Field(description="capture, gate, preprocess, infer, decide, publish, end_to_end")
    sources: dict[str, SourceTelemetry]
    outbox_events: int = Field(ge=0)
    outbox_bytes: int = Field(ge=0)
    rss_bytes: int = Field(ge=0)
    cpu_share: float = Field(ge=0, description="CPU seconds per second, 1.0 = one core")
    temperature_c: float | None = None
    throttled: bool | None = None


class InfoPayload(Strict):
    """`info`."""

    session: str
    ts: Timestamp
    version: str
    board: str
    engine: str = Field(description="native | litert")
    kernels: str
    application: str
    model_version: int = Field(ge=0)
    model_digest: str
    events: list[str]
    sources: dict[str, str]
    metrics: dict[str, float] = Field(default_factory=dict)


class InstalledModelPayload(Strict):
    """One student in the store."""

    application: str
    version: int = Field(ge=0)
    digest: str


class ShadowPayload(Strict):
    """What a shadow run measured: a candidate beside the running student on the same frames or sound."""

    frames: int = Field(ge=0, description="frames, or decisions on sound, that both have scored")
    disagreement: float = Field(ge=0, le=1, description="mean of the largest difference of a score both have")
    latency_ms: float = Field(ge=0, description="median of the candidate's inferences; 0 where there were none")
    live_latency_ms: float = Field(ge=0, description="of the running student's; 0 where there were none")


class ModelPayload(Strict):
    """`model`: what runs, what may come, and how the last update went."""

    ts: Timestamp
    installed: InstalledModelPayload | None
    previous: InstalledModelPayload | None = None
    candidate: InstalledModelPayload | None = None
    phase: UpdatePhase
    progress: float = Field(default=0.0, ge=0, le=1)
    result: Literal["none", "committed", "rolled-back", "refused"] = "none"
    reason: str = ""
    durations_ms: dict[str, float] = Field(default_factory=dict)
    shadow: ShadowPayload | None = None


class CommandAnswer(Strict):
    """The answer to `cmd/<verb>`, on the request's response topic with its correlation data."""

    ok: bool
    reason: str = ""
    result: dict[str, Any] = Field(default_factory=dict)


PAYLOADS: dict[str, type[Strict]] = {
    "status": StatusPayload,
    "info": InfoPayload,
    "event": EventPayload,
    "source": SourcePayload,
    "telemetry": TelemetryPayload,
    "model": ModelPayload,
    "command-answer": CommandAnswer,
}


def encode(payload: Strict) -> bytes:
    """Compact JSON with the contract's key names."""
    return payload.model_dump_json(by_alias=True).encode()


def as_offered(event: bytes, publish_ts: float, *, replayed: bool) -> bytes:
    """Fill in when an encoded event is offered, and whether late, without reading the rest of it.

    Each key is there once: quotes inside of strings are escaped.
    """
    event = event.replace(b'"publish_ts":null', b'"publish_ts":%a' % publish_ts, 1)
    return event.replace(b'"replayed":false', b'"replayed":true', 1) if replayed else event


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of every payload, by name."""
    return {name: model.model_json_schema(by_alias=True) for name, model in PAYLOADS.items()}
