"""What devices give back for the next distillation, as facts: plain functions of a session."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import access, devices
from distillnet.cloud.fleet.database import BoardProfile, Example
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.proto.v1 import feedback_pb2

MAX_JPEG_BYTES = 512 << 10
MAX_PROFILE_BYTES = 512 << 10
_DAY_S = 86400.0
_JPEG = b"\xff\xd8\xff"
_USUAL = 1_000


def stored_at(row: Example) -> str:
    """Where an example's picture lies in the object store."""
    return f"examples/{row.application}/{row.device}/{row.digest}.jpg"


def example(device: str, sent: feedback_pb2.Example, digest: str, now: float) -> Example:
    """Read what a device sent.

    Raises:
        RefusedError: a name is none, or the picture is no JPEG of a bearable size.

    """
    for name, what in ((sent.application, "application"), (sent.event, "event"), (sent.source, "source")):
        access.check_name(name, what)
    if not sent.jpeg.startswith(_JPEG) or len(sent.jpeg) > MAX_JPEG_BYTES:
        raise RefusedError(
            Code.INVALID_ARGUMENT, f"an example is a JPEG of at most {MAX_JPEG_BYTES} bytes; got {len(sent.jpeg)} bytes"
        )
    return Example(
        application=sent.application,
        device=device,
        digest=digest,
        event=sent.event,
        source=sent.source,
        ts=sent.ts,
        score=sent.score,
        threshold=sent.threshold,
        model_digest=sent.model_digest[:71],
        received_ts=now,
    )


def check_room(session: Session, row: Example, per_day: int) -> None:
    """Look whether an example may come in.

    Raises:
        RefusedError: the device has nothing to do with the application, or has sent enough for today.

    """
    if not devices.may_fetch(session, row.device, row.application):
        raise RefusedError(Code.PERMISSION_DENIED, f"device {row.device!r} does not run {row.application!r}")
    today = (Example.device == row.device) & (Example.received_ts > row.received_ts - _DAY_S)
    if (session.scalar(select(func.count()).where(today)) or 0) >= per_day:
        raise RefusedError(Code.RESOURCE_EXHAUSTED, f"device {row.device!r} has sent {per_day} examples within a day")


def set_profile(session: Session, device: str, board: str, document: str, now: float) -> None:
    """Keep the newest profile of a device."""
    session.merge(BoardProfile(device=device, board=board, document=document, received_ts=now))


def profile(session: Session, board: str) -> BoardProfile | None:
    """Return the newest profile of a kind of board."""
    query = select(BoardProfile).where(BoardProfile.board == board).order_by(BoardProfile.received_ts.desc())
    return session.scalars(query.limit(1)).first()


def examples(session: Session, application: str, limit: int) -> list[Example]:
    """Return an application's examples, newest first."""
    query = select(Example).where(Example.application == application).order_by(Example.received_ts.desc())
    return list(session.scalars(query.limit(limit or _USUAL)))


def outdated(session: Session, before_ts: float, most: int) -> list[Example]:
    """Return what is too old, or too much of an application."""
    rank = func.row_number().over(partition_by=Example.application, order_by=Example.received_ts.desc())
    ranked = select(Example.application, Example.device, Example.digest, rank.label("rank")).subquery()
    too_many = select(ranked.c.application, ranked.c.device, ranked.c.digest).where(ranked.c.rank > most)
    key = tuple_(Example.application, Example.device, Example.digest)
    return list(session.scalars(select(Example).where((Example.received_ts < before_ts) | key.in_(too_many))))


def forget(session: Session, rows: Sequence[Example]) -> None:
    """Drop examples whose pictures are gone."""
    for row in rows:
        session.execute(
            delete(Example).where(
                Example.application == row.application, Example.device == row.device, Example.digest == row.digest
            )
        )
