"""`Feedback`: takes what devices give back, and lets it go with age. The picture is stored first, then its facts."""

import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import obstore

from distillnet.cloud.fleet import access, feedback
from distillnet.cloud.fleet.authorise import caller
from distillnet.cloud.fleet.config import FeedbackSection
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.engine import profile as profiles
from distillnet.proto.strict import ConfigError
from distillnet.proto.v1 import admin_pb2, feedback_pb2, feedback_pb2_grpc

log = logging.getLogger(__name__)

_DAY_S = 86400.0


class FeedbackService(feedback_pb2_grpc.FeedbackServicer):
    """Serves devices."""

    def __init__(self, config: FeedbackSection, database: Database, store: Any, clock: Callable[[], float]) -> None:
        self._config = config
        self._database = database
        self._store = store
        self._clock = clock

    async def SendExample(self, request: feedback_pb2.Example, context: Any) -> feedback_pb2.SendExampleResponse:
        """Keep a picture; the same one twice is one."""
        device, digest = caller().name, hashlib.sha256(request.jpeg).hexdigest()
        row = feedback.example(device, request, digest, self._clock())
        await self._database.read(lambda session: feedback.check_room(session, row, self._config.per_day))
        await obstore.put_async(self._store, feedback.stored_at(row), request.jpeg)
        await self._database.write(lambda session: session.merge(row))
        return feedback_pb2.SendExampleResponse()

    async def SendProfile(
        self, request: feedback_pb2.SendProfileRequest, context: Any
    ) -> feedback_pb2.SendProfileResponse:
        """Keep what a board's layers cost."""
        if len(request.profile_json) > feedback.MAX_PROFILE_BYTES:
            raise RefusedError(
                Code.INVALID_ARGUMENT,
                f"a profile has at most {feedback.MAX_PROFILE_BYTES} bytes; got {len(request.profile_json)}",
            )
        try:
            profile = profiles.parse(request.profile_json, where="the profile")
        except ConfigError as exc:
            raise RefusedError(Code.INVALID_ARGUMENT, str(exc)[:1000]) from exc
        access.check_name(profile.board, "board")
        device, now, document = caller().name, self._clock(), profile.model_dump_json()
        await self._database.write(lambda session: feedback.set_profile(session, device, profile.board, document, now))
        log.info("device %s sent its profile as board %s", device, profile.board)
        return feedback_pb2.SendProfileResponse()


async def collect(
    database: Database, store: Any, request: admin_pb2.CollectFeedbackRequest
) -> AsyncIterator[admin_pb2.CollectedFeedback]:
    """Stream what boards gave back: the profile asked for, then examples, newest first."""
    profile = await database.read(lambda session: feedback.profile(session, request.board))
    if profile is not None:
        yield admin_pb2.CollectedFeedback(device=profile.device, profile_json=profile.document.encode())
    rows = await database.read(lambda session: feedback.examples(session, request.application, request.limit))
    for row in rows:
        try:
            found = await obstore.get_async(store, feedback.stored_at(row))
            jpeg = bytes(await found.bytes_async())
        except FileNotFoundError:
            continue  # forgotten in this moment
        example = feedback_pb2.Example(
            application=row.application,
            event=row.event,
            source=row.source,
            ts=row.ts,
            score=row.score,
            threshold=row.threshold,
            model_digest=row.model_digest,
            jpeg=jpeg,
        )
        yield admin_pb2.CollectedFeedback(device=row.device, example=example)


def forget_old(database: Database, store: Any, config: FeedbackSection, now: float) -> None:
    """Let go what is too old or too much: pictures first, so that none is left that nobody knows of."""
    rows = database.read_now(lambda session: feedback.outdated(session, now - config.days * _DAY_S, config.most))
    for row in rows:
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(store, feedback.stored_at(row))
    if rows:
        database.write_now(lambda session: feedback.forget(session, rows))
