"""Events and telemetry as facts: taken in by batches, kept for a while, asked for. Plain functions of a session."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Double, cast, delete, func, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import Event, Sample
from distillnet.proto.identity import NAME_PATTERN
from distillnet.proto.mqtt import BASE, EventPayload, TelemetryPayload
from distillnet.proto.v1 import admin_pb2

Row = dict[str, Any]

_HOUR_S = 3600.0
_MOST = 10_000
_USUAL = 100
_INT32_MAX = 2**31 - 1


class BadMessageError(ValueError):
    """A message does not fit the MQTT contract; the message says where."""


def read(topic: str, payload: bytes) -> tuple[str, Row]:
    """Turn one MQTT message into ("event" | "telemetry", row).

    Raises:
        BadMessageError: the topic or the payload is none of the contract's.

    """
    device, _, rest = topic.removeprefix(f"{BASE}/").partition("/")
    kind = rest.partition("/")[0]
    if not NAME_PATTERN.fullmatch(device) or kind not in ("event", "telemetry"):
        raise BadMessageError(f"topic {topic[:200]!r} is no event or telemetry of a device")
    try:
        if kind == "event":
            return kind, _event(device, EventPayload.model_validate_json(payload))
        return kind, _sample(device, TelemetryPayload.model_validate_json(payload))
    except ValidationError as exc:
        raise BadMessageError(f"{topic[:200]}: {exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}") from exc


def add_samples(session: Session, rows: Sequence[Row]) -> None:
    """Store telemetry; all rows have the same columns."""
    if not rows:
        return
    if session.get_bind().dialect.name == "postgresql":
        _copy(session, rows)
    else:
        session.execute(insert(Sample), rows)


def _copy(session: Session, rows: Sequence[Row]) -> None:
    """PostgreSQL's COPY takes thousands of rows in a third of the time of INSERT, and a tenth of our processor's."""
    columns = list(rows[0])
    cursor = session.connection().connection.cursor()
    with cursor.copy(f"COPY {Sample.__tablename__} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[column] for column in columns])


def add_events(session: Session, rows: Iterable[Row]) -> None:
    """Store events; a message that comes twice, or late, changes nothing that is newer."""
    newest: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["device"], row["id"])
        if key not in newest or _order(row) >= _order(newest[key]):
            newest[key] = row
    if not newest:
        return
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    add = dialect.insert(Event)
    changes = {name: add.excluded[name] for name in ("phase", "end_ts", "top_score")}
    keep_end = (Event.end_ts.is_(None)) & (add.excluded.top_score >= Event.top_score)
    ending = add.excluded.end_ts.is_not(None)
    session.execute(
        add.on_conflict_do_update(index_elements=["device", "id"], set_=changes, where=keep_end | ending),
        list(newest.values()),
    )


def retain(session: Session, now: float, *, raw_days: float, hourly_days: float, event_days: float) -> None:
    """Turn old samples into hourly ones, and drop what is older still."""
    edge = (now - raw_days * 86400.0) // _HOUR_S * _HOUR_S
    hour = func.floor(Sample.ts / literal(_HOUR_S, Double))
    old = select(
        Sample.device,
        ((hour + 1) * _HOUR_S).label("ts"),
        func.sum(Sample.reports).label("reports"),
        func.sum(Sample.interval_s).label("interval_s"),
        Sample.model_digest,
        func.sum(Sample.frames).label("frames"),
        func.sum(Sample.dropped).label("dropped"),
        func.sum(Sample.gated).label("gated"),
        _mean(Sample.infer_p50_ms).label("infer_p50_ms"),
        _mean(Sample.end_to_end_p50_ms).label("end_to_end_p50_ms"),
        func.max(Sample.end_to_end_p99_ms).label("end_to_end_p99_ms"),
        _mean(Sample.cpu_share).label("cpu_share"),
        func.max(Sample.rss_bytes).label("rss_bytes"),
        func.max(Sample.temperature_c).label("temperature_c"),
    ).where(Sample.ts < edge, Sample.reports == 1)
    hours = [dict(row) for row in session.execute(old.group_by(Sample.device, hour, Sample.model_digest)).mappings()]
    session.execute(delete(Sample).where(Sample.ts < edge, Sample.reports == 1))
    for row in hours:
        row["ts"] = min(row["ts"], edge) - 1e-3  # inside its hour, so that a later run does not take it again
        row["reports"] = max(int(row["reports"]), 2)
    add_samples(session, hours)
    session.execute(delete(Sample).where(Sample.ts < now - hourly_days * 86400.0))
    session.execute(delete(Event).where(Event.start_ts < now - event_days * 86400.0))


def events(session: Session, request: admin_pb2.ListEventsRequest) -> list[admin_pb2.ListEventsResponse.Event]:
    """Events, newest first."""
    query = select(Event).where(Event.start_ts >= request.since_ts).order_by(Event.start_ts.desc())
    if request.device:
        query = query.where(Event.device == request.device)
    if request.event:
        query = query.where(Event.event == request.event)
    return [
        admin_pb2.ListEventsResponse.Event(
            id=row.id,
            device=row.device,
            source=row.source,
            zone=row.zone,
            event=row.event,
            phase=row.phase,
            start_ts=row.start_ts,
            end_ts=row.end_ts or 0.0,
            top_score=row.top_score,
            model_digest=row.model_digest,
        )
        for row in session.scalars(query.limit(min(request.limit or _USUAL, _MOST)))
    ]


def samples(session: Session, request: admin_pb2.ListTelemetryRequest) -> list[admin_pb2.ListTelemetryResponse.Sample]:
    """Telemetry, newest first."""
    query = select(Sample).where(Sample.ts >= request.since_ts).order_by(Sample.ts.desc())
    if request.device:
        query = query.where(Sample.device == request.device)
    return [
        admin_pb2.ListTelemetryResponse.Sample(
            device=row.device,
            ts=row.ts,
            interval_s=row.interval_s,
            model_digest=row.model_digest,
            frames=row.frames,
            dropped=row.dropped,
            gated=row.gated,
            infer_p50_ms=row.infer_p50_ms,
            end_to_end_p50_ms=row.end_to_end_p50_ms,
            end_to_end_p99_ms=row.end_to_end_p99_ms,
            cpu_share=row.cpu_share,
            rss_bytes=row.rss_bytes,
            temperature_c=row.temperature_c or 0.0,
            reports=row.reports,
        )
        for row in session.scalars(query.limit(min(request.limit or _USUAL, _MOST)))
    ]


def _event(device: str, payload: EventPayload) -> Row:
    return {
        "device": device,
        "id": payload.id[:36],
        "source": payload.source,
        "zone": (payload.zone or "")[:63],
        "event": payload.event,
        "phase": payload.phase,
        "start_ts": payload.start_ts,
        "end_ts": payload.end_ts if payload.phase == "end" else None,
        "top_score": payload.top_score,
        "model_digest": payload.model_digest[:71],
    }


def _sample(device: str, payload: TelemetryPayload) -> Row:
    infer, whole = payload.stages.get("infer"), payload.stages.get("end_to_end")
    sources = payload.sources.values()
    return {
        "device": device,
        "ts": payload.ts,
        "reports": 1,
        "interval_s": payload.interval_s,
        "model_digest": payload.model_digest[:71],
        "frames": min(sum(source.frames for source in sources), _INT32_MAX),
        "dropped": min(sum(source.dropped for source in sources), _INT32_MAX),
        "gated": min(sum(source.gated for source in sources), _INT32_MAX),
        "infer_p50_ms": infer.p50 if infer else 0.0,
        "end_to_end_p50_ms": whole.p50 if whole else 0.0,
        "end_to_end_p99_ms": whole.p99 if whole else 0.0,
        "cpu_share": payload.cpu_share,
        "rss_bytes": min(payload.rss_bytes, 2**63 - 1),
        "temperature_c": payload.temperature_c,
    }


def _order(row: Row) -> tuple[bool, float]:
    return row["end_ts"] is not None, row["top_score"]


def _mean(column: Any) -> Any:
    return func.sum(column * Sample.reports) / cast(func.sum(Sample.reports), Double)
