from distillnet.proto.v1 import enrollment_pb2 as _enrollment_pb2
from distillnet.proto.v1 import feedback_pb2 as _feedback_pb2
from distillnet.proto.v1 import fleet_pb2 as _fleet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PublishHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[PublishHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PublishHeader(_message.Message):
    __slots__ = ("application", "size_bytes", "digest", "boards", "hold")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BOARDS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    application: str
    size_bytes: int
    digest: str
    boards: _containers.RepeatedScalarFieldContainer[str]
    hold: bool
    def __init__(self, application: _Optional[str] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., boards: _Optional[_Iterable[str]] = ..., hold: _Optional[bool] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("application", "version", "digest", "size_bytes", "devices_told")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_TOLD_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    digest: str
    size_bytes: int
    devices_told: int
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., devices_told: _Optional[int] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("ttl_s", "device", "applications")
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    ttl_s: float
    device: str
    applications: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ttl_s: _Optional[float] = ..., device: _Optional[str] = ..., applications: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "expires_ts")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_TS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_ts: float
    def __init__(self, token: _Optional[str] = ..., expires_ts: _Optional[float] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Device(_message.Message):
    __slots__ = ("device", "connected", "revoked", "last_seen_ts", "capabilities", "models", "last_report", "applications", "tags")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_TS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LAST_REPORT_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    device: str
    connected: bool
    revoked: bool
    last_seen_ts: float
    capabilities: _enrollment_pb2.Capabilities
    models: _containers.RepeatedCompositeFieldContainer[_fleet_pb2.InstalledModel]
    last_report: _fleet_pb2.UpdateReport
    applications: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device: _Optional[str] = ..., connected: _Optional[bool] = ..., revoked: _Optional[bool] = ..., last_seen_ts: _Optional[float] = ..., capabilities: _Optional[_Union[_enrollment_pb2.Capabilities, _Mapping]] = ..., models: _Optional[_Iterable[_Union[_fleet_pb2.InstalledModel, _Mapping]]] = ..., last_report: _Optional[_Union[_fleet_pb2.UpdateReport, _Mapping]] = ..., applications: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("application",)
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    application: str
    def __init__(self, application: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("application", "version", "digest", "size_bytes", "published_ts", "card_json", "held")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_TS_FIELD_NUMBER: _ClassVar[int]
    CARD_JSON_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    digest: str
    size_bytes: int
    published_ts: float
    card_json: bytes
    held: bool
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., published_ts: _Optional[float] = ..., card_json: _Optional[bytes] = ..., held: _Optional[bool] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class RevokeDeviceRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: str
    def __init__(self, device: _Optional[str] = ...) -> None: ...

class RevokeDeviceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollbackDevicesRequest(_message.Message):
    __slots__ = ("application", "devices", "reason")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    application: str
    devices: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, application: _Optional[str] = ..., devices: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackDevicesResponse(_message.Message):
    __slots__ = ("devices_told",)
    DEVICES_TOLD_FIELD_NUMBER: _ClassVar[int]
    devices_told: int
    def __init__(self, devices_told: _Optional[int] = ...) -> None: ...

class GrantAccessRequest(_message.Message):
    __slots__ = ("name", "role", "csr_pem", "ttl_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    csr_pem: bytes
    ttl_s: float
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., csr_pem: _Optional[bytes] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class GrantAccessResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    ca_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., ca_pem: _Optional[bytes] = ...) -> None: ...

class RevokeAccessRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RevokeAccessResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TagDevicesRequest(_message.Message):
    __slots__ = ("devices", "add", "remove")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[str]
    add: _containers.RepeatedScalarFieldContainer[str]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, devices: _Optional[_Iterable[str]] = ..., add: _Optional[_Iterable[str]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class TagDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: int
    def __init__(self, devices: _Optional[int] = ...) -> None: ...

class RolloutPlan(_message.Message):
    __slots__ = ("canary", "canary_devices", "waves_percent", "soak_s", "max_failure_share", "concurrency", "pause_on_failure", "max_latency_ratio", "max_event_ratio")
    CANARY_FIELD_NUMBER: _ClassVar[int]
    CANARY_DEVICES_FIELD_NUMBER: _ClassVar[int]
    WAVES_PERCENT_FIELD_NUMBER: _ClassVar[int]
    SOAK_S_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILURE_SHARE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    PAUSE_ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENT_RATIO_FIELD_NUMBER: _ClassVar[int]
    canary: int
    canary_devices: _containers.RepeatedScalarFieldContainer[str]
    waves_percent: _containers.RepeatedScalarFieldContainer[int]
    soak_s: float
    max_failure_share: float
    concurrency: int
    pause_on_failure: bool
    max_latency_ratio: float
    max_event_ratio: float
    def __init__(self, canary: _Optional[int] = ..., canary_devices: _Optional[_Iterable[str]] = ..., waves_percent: _Optional[_Iterable[int]] = ..., soak_s: _Optional[float] = ..., max_failure_share: _Optional[float] = ..., concurrency: _Optional[int] = ..., pause_on_failure: _Optional[bool] = ..., max_latency_ratio: _Optional[float] = ..., max_event_ratio: _Optional[float] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("application", "version", "plan", "tags", "start_ts", "downgrade")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    START_TS_FIELD_NUMBER: _ClassVar[int]
    DOWNGRADE_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    plan: RolloutPlan
    tags: _containers.RepeatedScalarFieldContainer[str]
    start_ts: float
    downgrade: bool
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., plan: _Optional[_Union[RolloutPlan, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., start_ts: _Optional[float] = ..., downgrade: _Optional[bool] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ...) -> None: ...

class SteerRolloutRequest(_message.Message):
    __slots__ = ("id", "action", "reason")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_UNSPECIFIED: _ClassVar[SteerRolloutRequest.Action]
        ACTION_PAUSE: _ClassVar[SteerRolloutRequest.Action]
        ACTION_RESUME: _ClassVar[SteerRolloutRequest.Action]
        ACTION_ABORT: _ClassVar[SteerRolloutRequest.Action]
        ACTION_ROLL_BACK: _ClassVar[SteerRolloutRequest.Action]
    ACTION_UNSPECIFIED: SteerRolloutRequest.Action
    ACTION_PAUSE: SteerRolloutRequest.Action
    ACTION_RESUME: SteerRolloutRequest.Action
    ACTION_ABORT: SteerRolloutRequest.Action
    ACTION_ROLL_BACK: SteerRolloutRequest.Action
    ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    action: SteerRolloutRequest.Action
    reason: str
    def __init__(self, id: _Optional[int] = ..., action: _Optional[_Union[SteerRolloutRequest.Action, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("id", "application", "version", "state", "reason", "wave", "created_ts", "changed_ts", "created_by", "plan", "waves")
    class Wave(_message.Message):
        __slots__ = ("size", "waiting", "told", "committed", "failed", "taken_back", "superseded")
        SIZE_FIELD_NUMBER: _ClassVar[int]
        WAITING_FIELD_NUMBER: _ClassVar[int]
        TOLD_FIELD_NUMBER: _ClassVar[int]
        COMMITTED_FIELD_NUMBER: _ClassVar[int]
        FAILED_FIELD_NUMBER: _ClassVar[int]
        TAKEN_BACK_FIELD_NUMBER: _ClassVar[int]
        SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
        size: int
        waiting: int
        told: int
        committed: int
        failed: int
        taken_back: int
        superseded: int
        def __init__(self, size: _Optional[int] = ..., waiting: _Optional[int] = ..., told: _Optional[int] = ..., committed: _Optional[int] = ..., failed: _Optional[int] = ..., taken_back: _Optional[int] = ..., superseded: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    CREATED_TS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_TS_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    id: int
    application: str
    version: int
    state: str
    reason: str
    wave: int
    created_ts: float
    changed_ts: float
    created_by: str
    plan: RolloutPlan
    waves: _containers.RepeatedCompositeFieldContainer[Rollout.Wave]
    def __init__(self, id: _Optional[int] = ..., application: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., wave: _Optional[int] = ..., created_ts: _Optional[float] = ..., changed_ts: _Optional[float] = ..., created_by: _Optional[str] = ..., plan: _Optional[_Union[RolloutPlan, _Mapping]] = ..., waves: _Optional[_Iterable[_Union[Rollout.Wave, _Mapping]]] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("device", "event", "since_ts", "limit")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_TS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    device: str
    event: str
    since_ts: float
    limit: int
    def __init__(self, device: _Optional[str] = ..., event: _Optional[str] = ..., since_ts: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events",)
    class Event(_message.Message):
        __slots__ = ("id", "device", "source", "zone", "event", "phase", "start_ts", "end_ts", "top_score", "model_digest")
        ID_FIELD_NUMBER: _ClassVar[int]
        DEVICE_FIELD_NUMBER: _ClassVar[int]
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        ZONE_FIELD_NUMBER: _ClassVar[int]
        EVENT_FIELD_NUMBER: _ClassVar[int]
        PHASE_FIELD_NUMBER: _ClassVar[int]
        START_TS_FIELD_NUMBER: _ClassVar[int]
        END_TS_FIELD_NUMBER: _ClassVar[int]
        TOP_SCORE_FIELD_NUMBER: _ClassVar[int]
        MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
        id: str
        device: str
        source: str
        zone: str
        event: str
        phase: str
        start_ts: float
        end_ts: float
        top_score: float
        model_digest: str
        def __init__(self, id: _Optional[str] = ..., device: _Optional[str] = ..., source: _Optional[str] = ..., zone: _Optional[str] = ..., event: _Optional[str] = ..., phase: _Optional[str] = ..., start_ts: _Optional[float] = ..., end_ts: _Optional[float] = ..., top_score: _Optional[float] = ..., model_digest: _Optional[str] = ...) -> None: ...
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ListEventsResponse.Event]
    def __init__(self, events: _Optional[_Iterable[_Union[ListEventsResponse.Event, _Mapping]]] = ...) -> None: ...

class ListTelemetryRequest(_message.Message):
    __slots__ = ("device", "since_ts", "limit")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SINCE_TS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    device: str
    since_ts: float
    limit: int
    def __init__(self, device: _Optional[str] = ..., since_ts: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTelemetryResponse(_message.Message):
    __slots__ = ("samples",)
    class Sample(_message.Message):
        __slots__ = ("device", "ts", "interval_s", "model_digest", "frames", "dropped", "gated", "infer_p50_ms", "end_to_end_p50_ms", "end_to_end_p99_ms", "cpu_share", "rss_bytes", "temperature_c", "reports")
        DEVICE_FIELD_NUMBER: _ClassVar[int]
        TS_FIELD_NUMBER: _ClassVar[int]
        INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
        MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
        FRAMES_FIELD_NUMBER: _ClassVar[int]
        DROPPED_FIELD_NUMBER: _ClassVar[int]
        GATED_FIELD_NUMBER: _ClassVar[int]
        INFER_P50_MS_FIELD_NUMBER: _ClassVar[int]
        END_TO_END_P50_MS_FIELD_NUMBER: _ClassVar[int]
        END_TO_END_P99_MS_FIELD_NUMBER: _ClassVar[int]
        CPU_SHARE_FIELD_NUMBER: _ClassVar[int]
        RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
        TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
        REPORTS_FIELD_NUMBER: _ClassVar[int]
        device: str
        ts: float
        interval_s: float
        model_digest: str
        frames: int
        dropped: int
        gated: int
        infer_p50_ms: float
        end_to_end_p50_ms: float
        end_to_end_p99_ms: float
        cpu_share: float
        rss_bytes: int
        temperature_c: float
        reports: int
        def __init__(self, device: _Optional[str] = ..., ts: _Optional[float] = ..., interval_s: _Optional[float] = ..., model_digest: _Optional[str] = ..., frames: _Optional[int] = ..., dropped: _Optional[int] = ..., gated: _Optional[int] = ..., infer_p50_ms: _Optional[float] = ..., end_to_end_p50_ms: _Optional[float] = ..., end_to_end_p99_ms: _Optional[float] = ..., cpu_share: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., temperature_c: _Optional[float] = ..., reports: _Optional[int] = ...) -> None: ...
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[ListTelemetryResponse.Sample]
    def __init__(self, samples: _Optional[_Iterable[_Union[ListTelemetryResponse.Sample, _Mapping]]] = ...) -> None: ...

class OpenDashboardRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OpenDashboardResponse(_message.Message):
    __slots__ = ("url", "expires_ts")
    URL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_TS_FIELD_NUMBER: _ClassVar[int]
    url: str
    expires_ts: float
    def __init__(self, url: _Optional[str] = ..., expires_ts: _Optional[float] = ...) -> None: ...

class SubmitDistillationRequest(_message.Message):
    __slots__ = ("application_toml", "minutes", "seed", "workers")
    APPLICATION_TOML_FIELD_NUMBER: _ClassVar[int]
    MINUTES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    application_toml: str
    minutes: float
    seed: int
    workers: int
    def __init__(self, application_toml: _Optional[str] = ..., minutes: _Optional[float] = ..., seed: _Optional[int] = ..., workers: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "application", "state", "reason", "step", "created_ts", "started_ts", "done_ts", "created_by", "restarts", "files")
    ID_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CREATED_TS_FIELD_NUMBER: _ClassVar[int]
    STARTED_TS_FIELD_NUMBER: _ClassVar[int]
    DONE_TS_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    id: int
    application: str
    state: str
    reason: str
    step: str
    created_ts: float
    started_ts: float
    done_ts: float
    created_by: str
    restarts: int
    files: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[int] = ..., application: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., step: _Optional[str] = ..., created_ts: _Optional[float] = ..., started_ts: _Optional[float] = ..., done_ts: _Optional[float] = ..., created_by: _Optional[str] = ..., restarts: _Optional[int] = ..., files: _Optional[_Iterable[str]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class JobUpdate(_message.Message):
    __slots__ = ("job", "log")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    job: Job
    log: str
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., log: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class FetchJobFileRequest(_message.Message):
    __slots__ = ("id", "name")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class JobFileChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class CollectFeedbackRequest(_message.Message):
    __slots__ = ("application", "board", "limit")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    application: str
    board: str
    limit: int
    def __init__(self, application: _Optional[str] = ..., board: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class CollectedFeedback(_message.Message):
    __slots__ = ("device", "profile_json", "example")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    device: str
    profile_json: bytes
    example: _feedback_pb2.Example
    def __init__(self, device: _Optional[str] = ..., profile_json: _Optional[bytes] = ..., example: _Optional[_Union[_feedback_pb2.Example, _Mapping]] = ...) -> None: ...
