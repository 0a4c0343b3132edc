from distillnet.proto.v1 import enrollment_pb2 as _enrollment_pb2
from distillnet.proto.v1 import fleet_pb2 as _fleet_pb2
from google.protobuf.internal import containers as _containers
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
    __slots__ = ("device", "connected", "revoked", "last_seen_ts", "capabilities", "models", "last_report", "applications")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_TS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LAST_REPORT_FIELD_NUMBER: _ClassVar[int]
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    device: str
    connected: bool
    revoked: bool
    last_seen_ts: float
    capabilities: _enrollment_pb2.Capabilities
    models: _containers.RepeatedCompositeFieldContainer[_fleet_pb2.InstalledModel]
    last_report: _fleet_pb2.UpdateReport
    applications: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device: _Optional[str] = ..., connected: _Optional[bool] = ..., revoked: _Optional[bool] = ..., last_seen_ts: _Optional[float] = ..., capabilities: _Optional[_Union[_enrollment_pb2.Capabilities, _Mapping]] = ..., models: _Optional[_Iterable[_Union[_fleet_pb2.InstalledModel, _Mapping]]] = ..., last_report: _Optional[_Union[_fleet_pb2.UpdateReport, _Mapping]] = ..., applications: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("application", "version", "digest", "size_bytes", "published_ts", "card_json")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_TS_FIELD_NUMBER: _ClassVar[int]
    CARD_JSON_FIELD_NUMBER: _ClassVar[int]
    application: str
    version: int
    digest: str
    size_bytes: int
    published_ts: float
    card_json: bytes
    def __init__(self, application: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., published_ts: _Optional[float] = ..., card_json: _Optional[bytes] = ...) -> None: ...

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
