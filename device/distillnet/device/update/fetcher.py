"""TUF's fetcher over `Artifacts.Fetch`: byte ranges that resume, and limits on length, rate and patience.

Nothing that comes out of here is trusted: `trust.py` verifies it. A server that sends too much, too slowly, out of
order or nothing at all is cut off.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from distillnet.device.update.channel import pushback_s, reason_of
from distillnet.device.update.files import Files
from distillnet.proto.v1 import artifacts_pb2, artifacts_pb2_grpc

_SYNC_BYTES = 1 << 20
_WHOLE = 1 << 40
_CAREFUL_BYTES = 16 << 10
_CAREFUL_CHUNK_BYTES = 4 << 10
_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class ConnectionLostError(DownloadError):
    """The transfer broke, or did not begin; what came before it is kept. `retry_after_s` is as in `TransientError`."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        """Keep the reason, and the server's wish."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class FetchLimits:
    """What a transfer may cost. `rate` = our own ceiling, `minimum_rate` = slower than this is an attack."""

    stall_s: float = 20.0
    minimum_rate_bytes_per_s: float = 256.0
    grace_s: float = 20.0
    rate_bytes_per_s: float | None = None


class GrpcFetcher(FetcherInterface):
    """Fetches over one channel. `stop` ends any transfer at once."""

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        limits: FetchLimits | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `channel`, which the caller closes."""
        self._stub = artifacts_pb2_grpc.ArtifactsStub(channel)
        self._limits = limits or FetchLimits()
        self._stop = stop or threading.Event()
        self._clock = clock
        self._careful = False
        self._since_break = 0

    def expect_breaks(self) -> None:
        """Ask for little at a time from now on: what was under way when the line breaks is lost.

        gRPC throws away what had come in and was not read yet, so it is the request that must be small. It grows
        again with every mebibyte that comes without a break.
        """
        self._careful, self._since_break = True, 0

    def download_into(
        self,
        path: str,
        length: int,
        partial: Path,
        files: Files,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Grow `partial` to `length` bytes of the file served at `path`, from wherever it ended before.

        Raises:
            ConnectionLostError: broken off, or the server is busy; call again to go on.
            SlowRetrievalError: stalled, or slower than is bearable.
            DownloadHTTPError: there is no such file (404).
            DownloadLengthMismatchError: the server has more than `length` bytes.
            DownloadError: the server's answer makes no sense.
            OSError: the disk is full or failing.

        """
        have = partial.stat().st_size if partial.exists() else 0
        if have > length:
            files.remove(partial)
            have = 0
        unsynced = 0
        with partial.open("ab") as file:
            try:
                while have < length:
                    end = min(length, have + self._stretch())
                    for data in self.read(path, have, end, length):
                        files.append(file, data)
                        have += len(data)
                        unsynced += len(data)
                        if unsynced >= _SYNC_BYTES:
                            files.fsync(partial)
                            unsynced = 0
                        progress(have)
                    if have < end:
                        break
            finally:
                if unsynced:
                    files.fsync(partial)
        if have < length:
            raise DownloadError(f"{path}: ends after {have} of {length} bytes")

    def read(self, path: str, offset: int, end: int | None, maximum: int | None) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` to `end` of a file of at most `maximum` bytes; None = unknown.

        Raises as `download_into` does.
        """
        request = artifacts_pb2.FetchRequest(path=path, offset=offset)
        if end is not None:
            request.length = end - offset
        if self._careful:
            request.chunk_bytes = _CAREFUL_CHUNK_BYTES
        try:
            call = self._stub.Fetch(request)
        except ValueError as exc:  # the channel was closed: the certificate was renewed, or the daemon stops
            raise ConnectionLostError(f"{path}: {exc}") from exc
        watch = _Watch(call, self._limits, self._stop, self._clock)
        try:
            with watch:
                for chunk in call:
                    _check(path, chunk, offset, maximum)
                    offset += len(chunk.data)
                    self._since_break += len(chunk.data)
                    yield chunk.data
                    self._pace(len(chunk.data), watch)
                    if offset in (end, chunk.total_size):
                        return
                    if not chunk.data:
                        raise DownloadError(f"{path}: an empty piece at {offset} of {chunk.total_size} bytes")
        except grpc.RpcError as exc:
            raise _mapped(path, exc, watch) from exc
        finally:
            call.cancel()

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Serve TUF's metadata; its caller checks the length as the pieces come."""
        return self.read(url, 0, None, None)

    def _stretch(self) -> int:
        if not self._careful:
            return _WHOLE
        return min(_WHOLE, _CAREFUL_BYTES << min(self._since_break >> 20, 16))

    def _pace(self, count: int, watch: "_Watch") -> None:
        rate = self._limits.rate_bytes_per_s
        if rate is not None:
            self._stop.wait(count / rate)
        watch.progressed(count)


class _Watch:
    """Cancels a call that stalls or crawls, from its own thread."""

    def __init__(self, call: Any, limits: FetchLimits, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._call, self._limits, self._stop, self._clock = call, limits, stop, clock
        self._done = threading.Event()
        self._started = self._latest = clock()
        self._received = 0
        self.verdict = ""
        self._thread = threading.Thread(target=self._run, name="update-fetch-watch", daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def progressed(self, count: int) -> None:
        self._received += count
        self._latest = self._clock()

    def _run(self) -> None:
        tick_s = min(0.1, self._limits.stall_s / 4)
        while not self._done.wait(tick_s):
            self.verdict = self._judge()
            if self.verdict:
                self._call.cancel()
                return

    def _judge(self) -> str:
        if self._stop.is_set():
            return "stopped"
        now, limits = self._clock(), self._limits
        if now - self._latest > limits.stall_s:
            return f"nothing came for {limits.stall_s:g} s"
        elapsed = now - self._started
        if elapsed > limits.grace_s and self._received < limits.minimum_rate_bytes_per_s * elapsed:
            return f"slower than {limits.minimum_rate_bytes_per_s:g} bytes/s"
        return ""


def _check(path: str, chunk: artifacts_pb2.Chunk, offset: int, maximum: int | None) -> None:
    if chunk.offset != offset:
        raise DownloadError(f"{path}: asked for byte {offset}, the server sent byte {chunk.offset}")
    end = offset + len(chunk.data)
    if maximum is not None and max(end, chunk.total_size) > maximum:
        raise DownloadLengthMismatchError(f"{path}: the server has {chunk.total_size} bytes; {maximum} are signed")
    if end > chunk.total_size:
        raise DownloadError(f"{path}: {end} bytes of a file said to have {chunk.total_size}")


def _mapped(path: str, error: grpc.RpcError, watch: _Watch) -> DownloadError:
    if watch.verdict and watch.verdict != "stopped":
        return SlowRetrievalError(f"{path}: {watch.verdict}")
    code = None
    with contextlib.suppress(AttributeError):
        code = error.code()
    if code is grpc.StatusCode.NOT_FOUND:
        return DownloadHTTPError(f"{path}: not found", 404)
    if watch.verdict or code in _LOST:
        return ConnectionLostError(f"{path}: {watch.verdict or reason_of(error)}", retry_after_s=pushback_s(error))
    return DownloadError(f"{path}: {reason_of(error)}")
