"""`Artifacts.Fetch`: byte ranges of the repository. Nothing else of the object store can be named."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import obstore

from distillnet.cloud.fleet import devices
from distillnet.cloud.fleet.authorise import caller
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.turns import Turns
from distillnet.proto.v1 import artifacts_pb2, artifacts_pb2_grpc

CHUNK_BYTES = 16 << 10
_CHUNK_LIMITS = (1 << 10, 256 << 10)
_READ_BYTES = 1 << 20

_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
_METADATA = re.compile(r"metadata/(timestamp|[1-9][0-9]{0,9}\.(root|snapshot|targets))\.json")
_TARGET = re.compile(rf"targets/({_NAME})/[1-9][0-9]{{0,9}}/[0-9a-f]{{64}}\.student\.tflite")


class ArtifactsService(artifacts_pb2_grpc.ArtifactsServicer):
    """Serves metadata and targets; the client verifies them through TUF."""

    def __init__(self, database: Database, store: Any, turns: Turns) -> None:
        self._database = database
        self._store = store
        self._turns = turns

    async def Fetch(self, request: artifacts_pb2.FetchRequest, context: Any) -> AsyncIterator[artifacts_pb2.Chunk]:
        """Stream a range in chunks: small ones unless asked for larger, for links that break. Students take turns."""
        await self._check(request.path)
        with nullcontext() if _METADATA.fullmatch(request.path) else self._turns.turn():
            async for chunk in self._chunks(request):
                yield chunk

    async def _chunks(self, request: artifacts_pb2.FetchRequest) -> AsyncIterator[artifacts_pb2.Chunk]:
        try:
            total = int((await obstore.head_async(self._store, request.path))["size"])
        except FileNotFoundError as exc:
            raise RefusedError(Code.NOT_FOUND, f"{request.path}: not in the repository") from exc
        if request.offset > total:
            raise RefusedError(Code.OUT_OF_RANGE, f"{request.path}: has {total} bytes, asked from {request.offset}")
        end = min(total, request.offset + request.length) if request.length else total
        if end == request.offset:
            yield artifacts_pb2.Chunk(offset=request.offset, total_size=total)
            return
        low, high = _CHUNK_LIMITS
        size = min(max(request.chunk_bytes or CHUNK_BYTES, low), high)
        offset = request.offset
        async for block in self._blocks(request.path, offset, end):
            for at in range(0, len(block), size):
                piece = bytes(block[at : at + size])
                yield artifacts_pb2.Chunk(offset=offset, data=piece, total_size=total)
                offset += len(piece)

    async def _blocks(self, path: str, start: int, end: int) -> AsyncIterator[memoryview]:
        """Read ahead: the next block comes from the store while this one goes out."""
        coming = asyncio.create_task(self._read(path, start, end))
        try:
            for following in range(start + _READ_BYTES, end + _READ_BYTES, _READ_BYTES):
                block = await coming
                if following < end:
                    coming = asyncio.create_task(self._read(path, following, end))
                yield block
        finally:
            coming.cancel()

    async def _read(self, path: str, start: int, end: int) -> memoryview:
        stop = min(start + _READ_BYTES, end)
        return memoryview(await obstore.get_range_async(self._store, path, start=start, end=stop))

    async def _check(self, path: str) -> None:
        if _METADATA.fullmatch(path):
            return
        target = _TARGET.fullmatch(path)
        if target is None:
            raise RefusedError(
                Code.INVALID_ARGUMENT, f"{path[:200]!r} is no path of the repository (metadata/… or targets/…)"
            )
        identity, application = caller(), target.group(1)
        if identity.role == "device" and not await self._database.read(
            lambda session: devices.may_fetch(session, identity.name, application)
        ):
            raise RefusedError(
                Code.PERMISSION_DENIED, f"device {identity.name!r} was not enrolled for application {application!r}"
            )
