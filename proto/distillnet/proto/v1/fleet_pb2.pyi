from distillnet.proto.v1 import enrollment_pb2 as _enrollment_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpdatePhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_PHASE_UNSPECIFIED: _ClassVar[UpdatePhase]
    UPDATE_PHASE_IDLE: _ClassVar[UpdatePhase]
    UPDATE_PHASE_FETCHING: _ClassVar[UpdatePhase]
    UPDATE_PHASE_VERIFYING: _ClassVar[UpdatePhase]
    UPDATE_PHASE_SELF_TEST: _ClassVar[UpdatePhase]
    UPDATE_PHASE_SHADOW: _ClassVar[UpdatePhase]
    UPDATE_PHASE_SWITCHED: _ClassVar[UpdatePhase]
    UPDATE_PHASE_PROBATION: _ClassVar[UpdatePhase]
    UPDATE_PHASE_COMMITTED: _ClassVar[UpdatePhase]
    UPDATE_PHASE_ROLLED_BACK: _ClassVar[UpdatePhase]
    UPDATE_PHASE_REFUSED: _ClassVar[UpdatePhase]
UPDATE_PHASE_UNSPECIFIED: UpdatePhase
UPDATE_PHASE_IDLE: UpdatePhase
UPDATE_PHASE_FETCHING: UpdatePhase
UPDATE_PHASE_VERIFYING: UpdatePhase
UPDATE_PHASE_SELF_TEST: UpdatePhase
UPDATE_PHASE_SHADOW: UpdatePhase
UPDATE_PHASE_SWITCHED: UpdatePhase
UPDATE_PHASE_PROBATION: UpdatePhase
UPDATE_PHASE_COMMITTED: UpdatePhase
UPDATE_PHASE_ROLLED_BACK: UpdatePhase
UPDATE_PHASE_REFUSED: UpdatePhase

class DeviceMessage(_message.Message):
    __slots__ = ("hello", "heartbeat", "report", "ack")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    report: UpdateReport
    ack: Ack
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., report: _Optional[_Union[UpdateReport, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("capabilities", "models", "session", "applications")
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    capabilities: _enrollment_pb2.Capabilities
    models: _containers.RepeatedCompositeFieldContainer[InstalledModel]
    session: str
    applications: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, capabilities: _Optional[_Union[_enrollment_pb2.Capabilities, _Mapping]] = ..., models: _Optional[_Iterable[_Union[InstalledModel, _Mapping]]] = ..., session: _Optional[str] = ..., applications: _Optional[_Iterable[str]] = ...) -> None: ...

class InstalledModel(_message.Message):
    __slots__ = ("application", "version", "digest")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    digest: str
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("uptime_s", "models")
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    uptime_s: float
    models: _containers.RepeatedCompositeFieldContainer[InstalledModel]
    def __init__(self, uptime_s: _Optional[float] = ..., models: _Optional[_Iterable[_Union[InstalledModel, _Mapping]]] = ...) -> None: ...

class UpdateReport(_message.Message):
    __slots__ = ("directive_id", "phase", "application", "version", "digest", "progress", "reason", "durations_ms", "shadow")
    class DurationsMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_MS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    phase: UpdatePhase
    application: str
    version: int
    digest: str
    progress: float
    reason: str
    durations_ms: _containers.ScalarMap[str, float]
    shadow: ShadowRun
    def __init__(self, directive_id: _Optional[str] = ..., phase: _Optional[_Union[UpdatePhase, str]] = ..., application: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., progress: _Optional[float] = ..., reason: _Optional[str] = ..., durations_ms: _Optional[_Mapping[str, float]] = ..., shadow: _Optional[_Union[ShadowRun, _Mapping]] = ...) -> None: ...

class ShadowRun(_message.Message):
    __slots__ = ("frames", "disagreement", "latency_ms", "live_latency_ms")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    LIVE_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    frames: int
    disagreement: float
    latency_ms: float
    live_latency_ms: float
    def __init__(self, frames: _Optional[int] = ..., disagreement: _Optional[float] = ..., latency_ms: _Optional[float] = ..., live_latency_ms: _Optional[float] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("directive_id",)
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    def __init__(self, directive_id: _Optional[str] = ...) -> None: ...

class CloudMessage(_message.Message):
    __slots__ = ("welcome", "directive", "retry_after")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    directive: Directive
    retry_after: RetryAfter
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., directive: _Optional[_Union[Directive, _Mapping]] = ..., retry_after: _Optional[_Union[RetryAfter, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("device", "heartbeat_s", "ts")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    device: str
    heartbeat_s: float
    ts: float
    def __init__(self, device: _Optional[str] = ..., heartbeat_s: _Optional[float] = ..., ts: _Optional[float] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("id", "update", "rollback")
    ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    id: str
    update: Update
    rollback: Rollback
    def __init__(self, id: _Optional[str] = ..., update: _Optional[_Union[Update, _Mapping]] = ..., rollback: _Optional[_Union[Rollback, _Mapping]] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("application", "version", "target_path", "digest", "size_bytes")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    target_path: str
    digest: str
    size_bytes: int
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., target_path: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("application", "reason", "version")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    application: str
    reason: str
    version: int
    def __init__(self, application: _Optional[str] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RetryAfter(_message.Message):
    __slots__ = ("seconds", "reason")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    reason: str
    def __init__(self, seconds: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...
