"""`Fleet.Connect`: one stream per device, reports up and directives down."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from distillnet.cloud.fleet import devices
from distillnet.cloud.fleet.authorise import caller
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.hub import Connection, Hub
from distillnet.proto.v1 import fleet_pb2, fleet_pb2_grpc

log = logging.getLogger(__name__)

_HELLO_TIMEOUT_S = 20.0


class FleetService(fleet_pb2_grpc.FleetServicer):
    """Serves devices."""

    def __init__(self, database: Database, hub: Hub, clock: Callable[[], float]) -> None:
        self._database = database
        self._hub = hub
        self._clock = clock

    async def Connect(
        self, request_iterator: AsyncIterator[fleet_pb2.DeviceMessage], context: Any
    ) -> AsyncIterator[fleet_pb2.CloudMessage]:
        """Hello, Welcome, then reports up and directives down until one side ends it."""
        device = caller().name
        requests = aiter(request_iterator)
        hello = await _hello(requests)
        connection = self._hub.attach(device)
        reader = None
        try:
            now = self._clock()
            open_now = await self._database.write(
                lambda session: devices.hello(session, device, hello, self._hub.instance, now)
            )
            connection.installed = list(hello.models)
            for item in open_now:
                connection.tell(item.directive)
            reader = asyncio.create_task(self._listen(requests, connection), name=f"listen-{device}")
            welcome = fleet_pb2.Welcome(device=device, heartbeat_s=self._hub.heartbeat_s, ts=self._clock())
            yield fleet_pb2.CloudMessage(welcome=welcome)
            while (message := await connection.next()) is not None:
                yield message
        finally:
            self._hub.detach(connection)
            if reader is not None:
                reader.cancel()

    async def _listen(self, requests: AsyncIterator[fleet_pb2.DeviceMessage], connection: Connection) -> None:
        try:
            async for message in requests:
                self._hub.hear(connection)
                await self._take(connection, message)
        except asyncio.CancelledError:
            raise
        except RefusedError as exc:
            connection.end(exc)
        except Exception:
            log.exception("device %s: its message could not be taken", connection.device)
            connection.end(RefusedError(Code.INTERNAL, "the message could not be taken"))
        finally:
            connection.end()

    async def _take(self, connection: Connection, message: fleet_pb2.DeviceMessage) -> None:
        device, kind = connection.device, message.WhichOneof("message")
        if kind == "report":
            report, now = message.report, self._clock()
            log.info(
                "device %s: %s %s version %d %s",
                device,
                devices.phase_name(report.phase),
                report.application[:63],
                report.version,
                report.reason[:200],
            )
            await self._hub.delivered()
            await self._database.write(lambda session: devices.report(session, device, report, now))
            connection.installed = []  # a report changes what we hold for installed: the next heartbeat counts
        elif kind == "heartbeat" and message.heartbeat.models:
            installed = list(message.heartbeat.models)
            if installed != connection.installed:  # thousands of boards say the same every few seconds
                await self._database.write(lambda session: devices.set_installed(session, device, installed))
                connection.installed = installed
        elif kind == "hello":
            raise RefusedError(Code.INVALID_ARGUMENT, "Hello is the first message of a stream, once")


async def _hello(requests: AsyncIterator[fleet_pb2.DeviceMessage]) -> fleet_pb2.Hello:
    try:
        first = await asyncio.wait_for(anext(requests), _HELLO_TIMEOUT_S)
    except TimeoutError as exc:
        raise RefusedError(Code.DEADLINE_EXCEEDED, f"no Hello within {_HELLO_TIMEOUT_S:g} s") from exc
    except StopAsyncIteration as exc:
        raise RefusedError(Code.INVALID_ARGUMENT, "the stream ended before its Hello") from exc
    if first.WhichOneof("message") != "hello":
        raise RefusedError(Code.INVALID_ARGUMENT, "the first message must be Hello")
    return first.hello
