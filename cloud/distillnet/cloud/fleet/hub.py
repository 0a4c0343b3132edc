"""The streams that end in this process, and the news they are told.

Directives live in the database, so that any instance may make one and any other deliver it. Each instance asks the
database for news with one indexed query every `poll_s`, at once after a change made here; no per-device work is done
while nothing happens. Who was heard is written in batches, once a second.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable

from distillnet.cloud.fleet import devices
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.proto.v1 import fleet_pb2

log = logging.getLogger(__name__)

_OVERLAP_S = 2.0  # a transaction may commit that much later than the time it wrote; deliveries are idempotent
_FLUSH_S = 1.0
_SWEEP_S = 15.0  # so late at most is a directive of an instance whose clock is wrong
_QUEUE = 256
_AT_ONCE = 5_000
_LOOK_S = 0.02


class Connection:
    """One device's stream."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.heard = time.monotonic()
        self.installed: list[fleet_pb2.InstalledModel] = []  # as it said last
        self._queue: asyncio.Queue[fleet_pb2.CloudMessage | None] = asyncio.Queue()
        self._sending = False
        self._sent: set[str] = set()
        self._refusal: RefusedError | None = None

    @property
    def waits(self) -> bool:
        """Whether there is something left to send."""
        return self._sending or not self._queue.empty()

    def knows(self, directive: str) -> bool:
        """Whether it has been sent a directive."""
        return directive in self._sent

    def tell(self, directive: fleet_pb2.Directive) -> None:
        """Send a directive, once per stream."""
        if directive.id in self._sent:
            return
        if self._queue.qsize() >= _QUEUE:
            self.end(RefusedError(Code.RESOURCE_EXHAUSTED, "the stream is not being read"))
            return
        self._sent.add(directive.id)
        self._queue.put_nowait(fleet_pb2.CloudMessage(directive=directive))

    def end(self, refusal: RefusedError | None = None, last: fleet_pb2.CloudMessage | None = None) -> None:
        """End the stream after `last`, with a status other than OK when there is a `refusal`."""
        self._refusal = self._refusal or refusal
        if last is not None:
            self._queue.put_nowait(last)
        self._queue.put_nowait(None)

    async def next(self) -> fleet_pb2.CloudMessage | None:
        """Return the next message for the device, the one before having been sent; None when the stream shall end.

        Raises:
            RefusedError: it shall end with that status.

        """
        self._sending = False
        message = await self._queue.get()
        self._sending = message is not None
        if message is None and self._refusal is not None:
            raise self._refusal
        return message


class Hub:
    """All streams of this instance."""

    def __init__(
        self,
        database: Database,
        instance: str,
        *,
        heartbeat_s: float,
        poll_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.instance = instance
        self.heartbeat_s = heartbeat_s
        self._database = database
        self._poll_s = poll_s
        self._clock = clock
        self._streams: dict[str, Connection] = {}
        self._heard: dict[str, float] = {}
        self._gone: set[str] = set()
        self._wake = asyncio.Event()
        self._delivered = asyncio.Event()
        self._delivered.set()
        self._since = clock()

    def __len__(self) -> int:
        return len(self._streams)

    def attach(self, device: str) -> Connection:
        """Open a device's stream; an older one of the same device ends."""
        older = self._streams.get(device)
        if older is not None:
            older.end(RefusedError(Code.ABORTED, "the device opened another stream"))
        connection = Connection(device)
        self._streams[device] = connection
        self._gone.discard(device)
        return connection

    def detach(self, connection: Connection) -> None:
        """Forget a stream that has ended."""
        if self._streams.get(connection.device) is connection:
            del self._streams[connection.device]
            self._gone.add(connection.device)

    def hear(self, connection: Connection) -> None:
        """Note that a device spoke."""
        connection.heard = time.monotonic()
        self._heard[connection.device] = self._clock()

    async def delivered(self) -> None:
        """Wait while directives are being handed out: thousands of boards that report would be in their way."""
        await self._delivered.wait()

    def wake(self) -> None:
        """Look for news now: this process has just made some."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver news and write down who was heard, until cancelled."""
        flushed = swept = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            self._wake.clear()
            try:
                await self._deliver()
                if time.monotonic() - swept >= _SWEEP_S:
                    swept = time.monotonic()
                    await self._hand_out(
                        await self._database.read(lambda session: devices.open_at(session, self.instance))
                    )
                if time.monotonic() - flushed >= _FLUSH_S:
                    flushed = time.monotonic()
                    self._end_silent()
                    await self.flush()
            except Exception:  # the database may be away for a while; streams stay up and the next round tries again
                log.exception("news could not be delivered")
                await asyncio.sleep(self._poll_s)

    async def flush(self) -> None:
        """Write down who was heard and who is gone."""
        heard, self._heard = self._heard, {}
        gone, self._gone = self._gone, set()
        if heard or gone:
            await self._database.write(lambda session: devices.heard(session, self.instance, heard, list(gone)))

    def drain(self) -> None:
        """End every stream kindly."""
        for connection in list(self._streams.values()):
            retry = fleet_pb2.RetryAfter(seconds=1.0, reason="the service is restarting")
            connection.end(last=fleet_pb2.CloudMessage(retry_after=retry))

    async def _deliver(self) -> None:
        since = self._since - _OVERLAP_S
        opened, revoked = await self._database.read(
            lambda session: (devices.open_since(session, since), devices.revoked_since(session, since))
        )
        await self._hand_out(opened)
        newest = max((item.changed_ts for item in opened), default=self._since)
        self._since = max(self._since, min(newest, self._clock()))
        for device in revoked:
            connection = self._streams.get(device)
            if connection is not None:
                connection.end(RefusedError(Code.PERMISSION_DENIED, f"device {device!r} has been revoked"))

    async def _hand_out(self, opened: list[devices.Open]) -> None:
        """Tell those who are here and do not know yet."""
        waiting = [
            item.device
            for item in opened
            if (connection := self._streams.get(item.device)) is not None and not connection.knows(item.directive)
        ]
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            told = []
            for item in await self._database.read(functools.partial(devices.news, device_ids=some)):
                if (connection := self._streams.get(item.device)) is not None:
                    connection.tell(item.directive)
                    told.append(connection)
            await self._send_first(told)

    async def _send_first(self, told: list[Connection]) -> None:
        """Let reports wait while these are being sent what they were told; who does not read holds up nobody."""
        self._delivered.clear()
        try:
            before, left = len(told) + 1, len(told)
            while 0 < left < before:
                await asyncio.sleep(_LOOK_S)
                before, left = left, sum(connection.waits for connection in told)
        finally:
            self._delivered.set()

    def _end_silent(self) -> None:
        limit = time.monotonic() - 3 * self.heartbeat_s
        for connection in list(self._streams.values()):
            if connection.heard < limit:
                reason = f"nothing heard for {3 * self.heartbeat_s:g} s"
                connection.end(RefusedError(Code.DEADLINE_EXCEEDED, reason))
