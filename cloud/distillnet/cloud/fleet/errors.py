"""The fleet's one family of errors."""

import grpc

from distillnet.proto.strict import ConfigError

Code = grpc.StatusCode


class FleetError(ConfigError):
    """The service cannot start, or a command cannot be carried out; the message says why and what to do."""


class RefusedError(Exception):
    """A request is not carried out; becomes the gRPC status `code` with this message.

    `retry_after_s` asks the caller for patience, as `grpc-retry-pushback-ms` in the trailing metadata (gRFC A6).
    """

    def __init__(self, code: grpc.StatusCode, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
