"""The fleet's one family of errors."""

import grpc

from distillnet.proto.strict import ConfigError

Code = grpc.StatusCode


class FleetError(ConfigError):
    """The service cannot start, or a command cannot be carried out; the message says why and what to do."""


class RefusedError(Exception):
    """A request is not carried out; becomes the gRPC status `code` with this message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
