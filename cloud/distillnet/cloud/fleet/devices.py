"""Devices as facts: what they are, what they run, what they shall run. Plain functions of a database session.

A device's wish is one row per application (`Assignment`). While it is `open` its directive is sent on every stream,
until the device reports the end of it; a device offline for months gets the newest one only.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import access, models
from distillnet.cloud.fleet.database import Assignment, Device, Installed, Model, Report, Tag
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.repository import target_path
from distillnet.proto.v1 import enrollment_pb2, fleet_pb2

FINAL_PHASES = {"committed", "rolled-back", "refused"}
_MAX_APPLICATIONS = 32


@dataclass(frozen=True)
class News:
    """A directive for a device."""

    device: str
    directive: fleet_pb2.Directive


class Open(NamedTuple):
    """That there is a directive for a device, and since when."""

    device: str
    directive: str
    changed_ts: float


def enrol(session: Session, spent: access.Spent, now: float) -> None:
    """Make a device's row, or renew it where the token was made for this very device.

    Raises:
        RefusedError: the name is taken.

    """
    device, applications = spent.device, spent.applications
    row = session.get(Device, device)
    if row is None:
        row = Device(id=device, created_ts=now, last_seen_ts=0.0, restricted=bool(applications), capabilities={})
        session.add(row)
        session.flush()
    elif not spent.replaces:
        raise RefusedError(
            Code.ALREADY_EXISTS,
            f"a device {device!r} is enrolled: choose another name, or make a token for it with --device {device}",
        )
    row.revoked_ts, row.restricted = None, bool(applications)
    if applications:
        session.execute(
            delete(Assignment).where(Assignment.device == device, Assignment.application.not_in(applications))
        )
    for application in applications:
        if session.get(Assignment, (device, application)) is None:
            session.add(Assignment(device=device, application=application, changed_ts=now))


def set_capabilities(session: Session, device: str, capabilities: enrollment_pb2.Capabilities, now: float) -> None:
    """Remember what a board is."""
    session.execute(
        update(Device).where(Device.id == device).values(capabilities=capabilities_dict(capabilities), last_seen_ts=now)
    )


def hello(session: Session, device: str, hello: fleet_pb2.Hello, instance: str, now: float) -> list[News]:
    """Take a device's first words on a stream; returns what it is to do."""
    row = session.get(Device, device)
    if row is None:
        raise RefusedError(Code.PERMISSION_DENIED, f"device {device!r} is not enrolled")
    row.instance, row.session, row.last_seen_ts = instance, hello.session[:128], now
    if hello.HasField("capabilities"):
        row.capabilities = capabilities_dict(hello.capabilities)
    session.flush()
    set_installed(session, device, hello.models)
    named = [*hello.applications, *(model.application for model in hello.models)]
    if not any(wish.state == "open" for wish in _assign_new(session, row, named, now)):
        return []
    _settle(session, device)
    return news(session, [device])


def set_installed(session: Session, device: str, installed: Iterable[fleet_pb2.InstalledModel]) -> None:
    """Replace what a device says it runs."""
    told = {
        model.application[:63]: (model.version, model.digest[:71])
        for model in list(installed)[:_MAX_APPLICATIONS]
        if model.application
    }
    known = {row.application: row for row in session.scalars(select(Installed).where(Installed.device == device))}
    if told == {application: (row.version, row.digest) for application, row in known.items()}:
        return
    for row in known.values():
        session.delete(row)
    session.flush()
    session.add_all(
        Installed(device=device, application=application, version=version, digest=digest)
        for application, (version, digest) in told.items()
    )
    session.flush()


def report(session: Session, device: str, told: fleet_pb2.UpdateReport, now: float) -> None:
    """Take one step of an update: what the device says is the truth."""
    phase = phase_name(told.phase)
    _append(session, device, phase, told, now)
    row = session.get(Assignment, (device, told.application), with_for_update=True)
    model = session.get(Model, (told.application, row.version)) if row and row.version else None
    wanted = model is not None and told.digest == model.digest
    # A board that rolled back names what runs now; older ones name the student they gave up: that one runs not.
    if told.digest and (phase == "committed" or (phase == "rolled-back" and not wanted)):
        _install(session, device, told)
    if row is None or not _ends(row, phase, told.directive_id, wanted):
        return
    row.state, row.reason = phase, told.reason[:1000]


def _ends(row: Assignment, phase: str, directive: str, wanted: bool) -> bool:
    """Whether a report ends what a device was asked for; a late rollback also ends what it had committed."""
    if phase not in FINAL_PHASES or row.state not in ("open", "committed"):
        return False
    if row.state == "committed" or row.action == "rollback":
        return directive == row.directive and phase != "committed"
    if phase == "committed":
        return wanted
    return wanted or directive == row.directive


def assign(session: Session, model: Model, device_ids: Iterable[str] | None, now: float) -> list[str]:
    """Make `model` the wish of devices (None = every one whose applications include it); returns those it is for."""
    query = (
        select(Assignment, Device.capabilities)
        .join(Device, Device.id == Assignment.device)
        .where(Assignment.application == model.application, Device.revoked_ts.is_(None))
    )
    if device_ids is not None:
        query = query.where(Assignment.device.in_(list(device_ids)))
    told = []
    for row, capabilities in session.execute(query).all():
        if models.fits(model, capabilities.get("board", "")):
            _open(row, "update", model.version, "", now)
            told.append(row.device)
    return told


def roll_back(
    session: Session,
    application: str,
    device_ids: Iterable[str],
    reason: str,
    now: float,
    version: int | None = None,
    *,
    strict: bool = True,
) -> list[str]:
    """Ask devices (none named = all with the application) to go back to their previous student; returns them.

    With `version` only those on which it runs or is under way do so, the others change nothing.

    Raises:
        RefusedError: a device does not run it, or (`strict` or not) none is named and none does.

    """
    query = (
        select(Assignment)
        .join(Device, Device.id == Assignment.device)
        .where(Assignment.application == application, Device.revoked_ts.is_(None))
    )
    wanted = set(device_ids)
    if wanted:
        query = query.where(Assignment.device.in_(wanted))
    rows = list(session.scalars(query))
    missing = wanted - {row.device for row in rows}
    if (missing and strict) or (not rows and not wanted):
        who = ", ".join(sorted(missing)) or "no device"
        raise RefusedError(Code.NOT_FOUND, f"{who}: not running application {application!r}")
    for row in rows:
        _open(row, "rollback", version, reason[:1000], now)
    return [row.device for row in rows]


def news(session: Session, device_ids: list[str]) -> list[News]:
    """Open directives of some devices."""
    query = (
        select(
            Assignment.device,
            Assignment.directive,
            Assignment.action,
            Assignment.application,
            Assignment.version,
            Assignment.reason,
            Model.digest,
            Model.size_bytes,
        )
        .outerjoin(Model, (Model.application == Assignment.application) & (Model.version == Assignment.version))
        .where(Assignment.state == "open", Assignment.device.in_(device_ids))
        .order_by(Assignment.changed_ts)
    )
    return [News(row.device, _directive(row)) for row in session.execute(query)]


def open_since(session: Session, since: float) -> list[Open]:
    """Which directives were opened at or after `since`; what they say is for `news`."""
    query = select(Assignment.device, Assignment.directive, Assignment.changed_ts)
    opened = session.execute(query.where(Assignment.state == "open", Assignment.changed_ts >= since))
    return [Open(*row) for row in opened]


def open_at(session: Session, instance: str) -> list[Open]:
    """Every open directive of the devices whose streams end in `instance`."""
    query = select(Assignment.device, Assignment.directive, Assignment.changed_ts)
    here = query.join(Device, Device.id == Assignment.device).where(Device.instance == instance)
    return [Open(*row) for row in session.execute(here.where(Assignment.state == "open"))]


def heard(session: Session, instance: str, times: dict[str, float], ended: list[str]) -> None:
    """Note when devices were last heard, and whose streams to `instance` have ended."""
    if times:
        rows = [{"id": device, "last_seen_ts": ts, "instance": instance} for device, ts in times.items()]
        session.execute(update(Device), rows)
    if ended:
        gone(session, instance, ended)


def gone(session: Session, instance: str, device_ids: list[str] | None) -> None:
    """Note that streams to `instance` have ended (None = all of them)."""
    change = update(Device).where(Device.instance == instance)
    if device_ids is not None:
        change = change.where(Device.id.in_(device_ids))
    session.execute(change.values(instance=None))


def revoke(session: Session, device: str, now: float) -> None:
    """Shut a device out."""
    row = session.get(Device, device)
    if row is None:
        raise RefusedError(Code.NOT_FOUND, f"there is no device {device!r}")
    row.revoked_ts = now


def revoked_since(session: Session, since: float) -> list[str]:
    """Devices shut out at or after `since`."""
    return list(session.scalars(select(Device.id).where(Device.revoked_ts >= since)))


def may_fetch(session: Session, device: str, application: str) -> bool:
    """Whether a device may read an application's students: any, unless its token named some."""
    row = session.get(Device, device)
    if row is None:
        return False
    return not row.restricted or session.get(Assignment, (device, application)) is not None


def forget_reports(session: Session, before_ts: float) -> int:
    """Drop old reports, except the last one of each device; returns how many went."""
    last = select(func.max(Report.id)).group_by(Report.device)
    gone_rows = session.execute(delete(Report).where(Report.ts < before_ts, Report.id.not_in(last)))
    return int(gone_rows.rowcount)  # type: ignore[attr-defined]


def phase_name(phase: int) -> str:
    """`UPDATE_PHASE_ROLLED_BACK` → `rolled-back`, as in the MQTT contract."""
    name = str(fleet_pb2.UpdatePhase.Name(phase))
    return name.removeprefix("UPDATE_PHASE_").lower().replace("_", "-")


def shadow_dict(shadow: fleet_pb2.ShadowRun) -> dict[str, Any]:
    """What a shadow run measured as plain values."""
    return {name: getattr(shadow, name) for name in ("frames", "disagreement", "latency_ms", "live_latency_ms")}


def capabilities_dict(capabilities: enrollment_pb2.Capabilities) -> dict[str, Any]:
    """Capabilities as plain values."""
    return {
        "board": capabilities.board[:63],
        "machine": capabilities.machine[:63],
        "runtime": capabilities.runtime[:63],
        "engine_kernels": capabilities.engine_kernels[:63],
        "free_bytes": capabilities.free_bytes,
        "arena_bytes": capabilities.arena_bytes,
    }


def _assign_new(session: Session, device: Device, named: list[str], now: float) -> list[Assignment]:
    """Wish for what the device names and nobody has wished for yet; returns all its wishes."""
    rows = {row.application: row for row in session.scalars(select(Assignment).where(Assignment.device == device.id))}
    for application in dict.fromkeys(named):
        if application in rows or device.restricted or len(rows) >= _MAX_APPLICATIONS or len(application) > 63:
            continue
        row = Assignment(device=device.id, application=application, changed_ts=now)
        session.add(row)
        rows[application] = row
    session.flush()
    for row in rows.values():
        if row.state is None or row.state == "none":
            model = models.latest(session, row.application, device.capabilities.get("board", ""))
            if model is not None:
                _open(row, "update", model.version, "", now)
    session.flush()
    return list(rows.values())


def _settle(session: Session, device: str) -> None:
    """Close what the device has done without our hearing of it."""
    done = (
        select(Assignment)
        .join(Model, (Model.application == Assignment.application) & (Model.version == Assignment.version))
        .join(Installed, (Installed.device == Assignment.device) & (Installed.application == Assignment.application))
        .where(Assignment.device == device, Assignment.state == "open", Assignment.action == "update")
        .where(Installed.digest == Model.digest)
    )
    for row in session.scalars(done):
        row.state, row.reason = "committed", "found installed"
    session.flush()


def _open(row: Assignment, action: str, version: int | None, reason: str, now: float) -> None:
    row.action, row.version, row.reason, row.state = action, version, reason, "open"
    row.directive, row.changed_ts = str(uuid.uuid4()), now


def _install(session: Session, device: str, told: fleet_pb2.UpdateReport) -> None:
    session.merge(
        Installed(device=device, application=told.application[:63], version=told.version, digest=told.digest[:71])
    )


def _append(session: Session, device: str, phase: str, told: fleet_pb2.UpdateReport, now: float) -> None:
    """Add a report; progress within a phase changes the last one instead of adding more."""
    last = session.scalars(select(Report).where(Report.device == device).order_by(Report.id.desc()).limit(1)).first()
    same = (
        last is not None
        and (last.directive, last.phase, last.application) == (told.directive_id, phase, told.application)
        and last.digest == told.digest
    )
    row = last if last is not None and same else Report(device=device)
    row.ts, row.directive, row.phase = now, told.directive_id[:36], phase
    row.application, row.version, row.digest = told.application[:63], told.version, told.digest[:71]
    row.progress, row.reason = told.progress, told.reason[:1000]
    row.durations_ms = dict(list(told.durations_ms.items())[:32])
    row.shadow = shadow_dict(told.shadow) if told.HasField("shadow") else None
    session.add(row)


def _directive(row: Any) -> fleet_pb2.Directive:
    """Say what a row of `news` asks for."""
    if row.action == "rollback" or row.digest is None:
        rollback = fleet_pb2.Rollback(application=row.application, reason=row.reason, version=row.version or 0)
        return fleet_pb2.Directive(id=row.directive, rollback=rollback)
    wanted = fleet_pb2.Update(
        application=row.application,
        version=row.version,
        target_path=target_path(row.application, row.version),
        digest=row.digest,
        size_bytes=row.size_bytes,
    )
    return fleet_pb2.Directive(id=row.directive, update=wanted)


def tag(session: Session, device_ids: list[str], add: list[str], remove: list[str]) -> None:
    """Put tags on devices and take others off.

    Raises:
        RefusedError: no such device, or no such word.

    """
    for word in (*add, *remove):
        access.check_name(word, "tag")
    known = set(session.scalars(select(Device.id).where(Device.id.in_(device_ids))))
    if not device_ids or set(device_ids) - known:
        missing = ", ".join(sorted(set(device_ids) - known)) or "no device named"
        raise RefusedError(Code.NOT_FOUND, f"no such device: {missing}")
    session.execute(delete(Tag).where(Tag.device.in_(known), Tag.tag.in_(remove)))
    for device in known:
        for word in add:
            session.merge(Tag(device=device, tag=word))
