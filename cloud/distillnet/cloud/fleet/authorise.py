"""One place decides who may call what: the certificate says who, the table below says what.

Every handler of the mTLS port is wrapped: the caller's certificate is checked against the database on each call, and a
`RefusedError` becomes its gRPC status. A method that is not in the table is closed to all.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import grpc

from distillnet.cloud.fleet import access, pki
from distillnet.cloud.fleet.calls import Calls
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.messages import reader
from distillnet.proto.identity import Identity, IdentityError, Role

log = logging.getLogger(__name__)

DEVICE: Final = frozenset[Role]({"device"})
ADMIN: Final = frozenset[Role]({"admin"})
OPERATE: Final = frozenset[Role]({"operator", "admin"})
READ: Final = frozenset[Role]({"viewer", "operator", "admin"})
ANY: Final = DEVICE | READ

PERMISSIONS: Final[Mapping[str, frozenset[Role]]] = {
    "/distillnet.v1.Fleet/Connect": DEVICE,
    "/distillnet.v1.Renewal/Renew": DEVICE,
    "/distillnet.v1.Feedback/SendExample": DEVICE,
    "/distillnet.v1.Feedback/SendProfile": DEVICE,
    "/distillnet.v1.Artifacts/Fetch": ANY,
    "/distillnet.v1.Admin/Publish": ADMIN,
    "/distillnet.v1.Admin/CreateToken": OPERATE,
    "/distillnet.v1.Admin/ListDevices": READ,
    "/distillnet.v1.Admin/ListModels": READ,
    "/distillnet.v1.Admin/RevokeDevice": OPERATE,
    "/distillnet.v1.Admin/RollbackDevices": OPERATE,
    "/distillnet.v1.Admin/TagDevices": OPERATE,
    "/distillnet.v1.Admin/StartRollout": OPERATE,
    "/distillnet.v1.Admin/ListRollouts": READ,
    "/distillnet.v1.Admin/SteerRollout": OPERATE,
    "/distillnet.v1.Admin/ListEvents": READ,
    "/distillnet.v1.Admin/ListTelemetry": READ,
    "/distillnet.v1.Admin/OpenDashboard": READ,
    "/distillnet.v1.Admin/GrantAccess": ADMIN,
    "/distillnet.v1.Admin/RevokeAccess": ADMIN,
    "/distillnet.v1.Admin/SubmitDistillation": ADMIN,  # an application file names paths, and may name code
    "/distillnet.v1.Admin/ListJobs": READ,
    "/distillnet.v1.Admin/WatchJob": READ,
    "/distillnet.v1.Admin/CancelJob": OPERATE,
    "/distillnet.v1.Admin/FetchJobFile": READ,
    "/distillnet.v1.Admin/CollectFeedback": ADMIN,  # pictures of people's places
    "/grpc.health.v1.Health/Check": ANY,
    "/grpc.health.v1.Health/Watch": ANY,
    "/grpc.health.v1.Health/List": ANY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": READ,
}

_PUSHBACK: Final = "grpc-retry-pushback-ms"
_caller: ContextVar[Identity] = ContextVar("caller")
Handler = Callable[..., Any]


def caller() -> Identity:
    """Who makes the call being handled."""
    return _caller.get()


class Authorise(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Checks every call of the mTLS port."""

    def __init__(self, database: Database, calls: Calls, clock: Callable[[], float]) -> None:
        self._database = database
        self._calls = calls
        self._clock = clock

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        return _wrapped(
            handler, lambda context: self._admit(method, context), lambda status: self._calls.count(method, status)
        )

    async def _admit(self, method: str, context: Any) -> None:
        certificates = context.auth_context().get("x509_pem_cert")
        if not certificates:
            raise RefusedError(Code.UNAUTHENTICATED, "a client certificate is required")
        serial, uri = pki.holder(certificates[0])
        try:
            identity = Identity.parse(uri)
        except IdentityError as exc:
            raise RefusedError(Code.UNAUTHENTICATED, str(exc)) from exc
        now = self._clock()
        await self._database.read(lambda session: access.check_certificate(session, serial, identity, now))
        if identity.role not in PERMISSIONS.get(method, frozenset()):
            raise RefusedError(Code.PERMISSION_DENIED, f"{identity.role} {identity.name!r} may not call {method}")
        _caller.set(identity)


class Translate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """For the enrolment port, open to all: only turns `RefusedError` into its status."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(details)
        return None if handler is None else _wrapped(handler, _nobody, _uncounted)


async def _nobody(_context: Any) -> None:
    """Admit everybody."""


def _uncounted(_status: str) -> None:
    """Count nothing."""


def _wrapped(handler: Any, admit: Callable[[Any], Awaitable[None]], count: Callable[[str], None]) -> Any:
    """Admit the caller first, and only then read what it says."""
    read = reader(handler.request_deserializer)
    streams = handler.request_streaming
    if handler.response_streaming:
        handle = handler.stream_stream if streams else handler.unary_stream
        wrapped = _streaming(handle, _each(read) if streams else read, admit, count)
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_stream_rpc_method_handler
    else:
        handle = handler.stream_unary if streams else handler.unary_unary
        wrapped = _answering(handle, _each(read) if streams else read, admit, count)
        make = grpc.stream_unary_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    return make(wrapped, request_deserializer=None, response_serializer=handler.response_serializer)


def _each(read: Callable[[bytes], Any]) -> Callable[[AsyncIterator[bytes]], AsyncIterator[Any]]:
    async def messages(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield read(data)

    return messages


def _answering(
    handle: Handler, read: Handler, admit: Callable[[Any], Awaitable[None]], count: Callable[[str], None]
) -> Handler:
    async def answer(request: Any, context: Any) -> Any:
        try:
            await admit(context)
            response = await handle(read(request), context)
        except Exception as exc:
            count(_status(exc))
            await _refuse(context, exc)
        else:
            count("OK")
            return response

    return answer


def _streaming(
    handle: Handler, read: Handler, admit: Callable[[Any], Awaitable[None]], count: Callable[[str], None]
) -> Handler:
    async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            await admit(context)
            async for response in handle(read(request), context):
                yield response
        except Exception as exc:
            count(_status(exc))
            await _refuse(context, exc)
        else:
            count("OK")

    return generate if inspect.isasyncgenfunction(handle) else _answering(handle, read, admit, count)


def _status(exc: Exception) -> str:
    return exc.code.name if isinstance(exc, RefusedError) else "INTERNAL"


async def _refuse(context: Any, exc: Exception) -> None:
    """End a call with the status that fits; what went wrong inside is for the log, not for the caller."""
    if isinstance(exc, grpc.aio.AbortError):
        raise exc
    if isinstance(exc, RefusedError):
        if exc.retry_after_s is not None:
            context.set_trailing_metadata(((_PUSHBACK, f"{exc.retry_after_s * 1e3:.0f}"),))
        await context.abort(exc.code, str(exc))
    log.error("a call failed", exc_info=exc)
    await context.abort(Code.INTERNAL, "the service failed on this call; its log says why")
