"""Judges a rollout by what devices measure: the same device after its commit against before it was told.

Only devices with enough of both count. A device's own verdict (its probation) comes first; this one sees what shows
only over many devices, or after a probation has ended.
"""

import statistics
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import Event, Model, Rollout, RolloutDevice, Sample

_BEFORE_S = 6 * 3600.0
_ENOUGH_SAMPLES = 2
_ENOUGH_EVENTS = 10  # fewer is chance, whatever the ratio


def against(
    session: Session, rollout: Rollout, *, max_latency_ratio: float, max_event_ratio: float, now: float
) -> str | None:
    """Say what got worse than allowed, or None. A limit of 0 is not judged."""
    if not max_latency_ratio and not max_event_ratio:
        return None
    digest = session.get_one(Model, (rollout.application, rollout.version)).digest
    if max_latency_ratio and (ratio := latency_ratio(session, rollout.id, digest)) is not None:
        name, value = ratio
        if value > max_latency_ratio:
            return f"p99 latency is {value:.2f}× what it was, allowed {max_latency_ratio:g}× (median of {name} devices)"
    if max_event_ratio and (rates := event_rates(session, rollout.id, digest, now)) is not None:
        before, after = rates
        if after > max_event_ratio * max(before, 1.0):
            return f"{after:.0f} events an hour against {before:.0f} before, allowed {max_event_ratio:g}×"
    return None


def latency_ratio(session: Session, rollout: int, digest: str) -> tuple[int, float] | None:
    """(devices, median of p99 after / p99 before) over devices with samples of both."""
    after = _p99(session, _samples(rollout).where(Sample.ts > RolloutDevice.done_ts, Sample.model_digest == digest))
    before = _p99(
        session,
        _samples(rollout).where(
            Sample.ts <= RolloutDevice.told_ts,
            Sample.ts > RolloutDevice.told_ts - _BEFORE_S,
            Sample.model_digest != digest,
        ),
    )
    ratios = [after[device] / before[device] for device in after.keys() & before.keys() if before[device] > 0]
    return (len(ratios), statistics.median(ratios)) if ratios else None


def event_rates(session: Session, rollout: int, digest: str, now: float) -> tuple[float, float] | None:
    """(before, after) in events per hour, summed over committed devices; None while there are few."""
    committed = _events(rollout).where(RolloutDevice.state == "committed")
    after = session.scalar(committed.where(Event.start_ts > RolloutDevice.done_ts, Event.model_digest == digest)) or 0
    if after < _ENOUGH_EVENTS:
        return None
    before = session.scalar(
        committed.where(
            Event.start_ts <= RolloutDevice.told_ts,
            Event.start_ts > RolloutDevice.told_ts - _BEFORE_S,
            Event.model_digest != digest,
        )
    )
    of_rollout = (RolloutDevice.rollout == rollout) & (RolloutDevice.state == "committed")
    after_s = session.scalar(select(func.sum(now - RolloutDevice.done_ts)).where(of_rollout)) or 0.0
    known_s = select(func.sum(RolloutDevice.told_ts - _first(session, rollout))).where(of_rollout)
    before_s = min(session.scalar(known_s) or 0.0, _BEFORE_S * _committed(session, rollout))
    if after_s <= 0 or before_s <= 0:
        return None
    return (before or 0) / before_s * 3600.0, after / after_s * 3600.0


def _samples(rollout: int) -> Select[Any]:
    return (
        select(Sample.device, func.avg(Sample.end_to_end_p99_ms))
        .join(RolloutDevice, RolloutDevice.device == Sample.device)
        .where(RolloutDevice.rollout == rollout, RolloutDevice.state == "committed")
        .group_by(Sample.device)
        .having(func.count() >= _ENOUGH_SAMPLES)
    )


def _p99(session: Session, query: Select[Any]) -> dict[str, float]:
    return {device: float(p99) for device, p99 in session.execute(query)}


def _events(rollout: int) -> Select[Any]:
    return (
        select(func.count())
        .select_from(Event)
        .join(RolloutDevice, RolloutDevice.device == Event.device)
        .where(RolloutDevice.rollout == rollout)
    )


def _first(session: Session, rollout: int) -> float:
    """When the first of these devices was first heard of within the window before."""
    inside = select(RolloutDevice.device).where(RolloutDevice.rollout == rollout)
    told = session.scalar(select(func.min(RolloutDevice.told_ts)).where(RolloutDevice.rollout == rollout)) or 0.0
    first = session.scalar(
        select(func.min(Sample.ts - Sample.interval_s)).where(Sample.device.in_(inside), Sample.ts > told - _BEFORE_S)
    )
    return float(first if first is not None else told)


def _committed(session: Session, rollout: int) -> int:
    query = select(func.count()).select_from(RolloutDevice)
    return session.scalar(query.where(RolloutDevice.rollout == rollout, RolloutDevice.state == "committed")) or 0
