from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Example(_message.Message):
    __slots__ = ("application", "event", "source", "ts", "score", "threshold", "model_digest", "jpeg")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    application: str
    event: str
    source: str
    ts: float
    score: float
    threshold: float
    model_digest: str
    jpeg: bytes
    def __init__(self, application: _Optional[str] = ..., event: _Optional[str] = ..., source: _Optional[str] = ..., ts: _Optional[float] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., model_digest: _Optional[str] = ..., jpeg: _Optional[bytes] = ...) -> None: ...

class SendExampleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SendProfileRequest(_message.Message):
    __slots__ = ("profile_json",)
    PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    profile_json: bytes
    def __init__(self, profile_json: _Optional[bytes] = ...) -> None: ...

class SendProfileResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
