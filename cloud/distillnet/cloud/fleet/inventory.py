"""The fleet as people see it: every device with what it is, runs, and last reported."""

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from distillnet.cloud.fleet.database import Assignment, Device, Installed, Report, Tag
from distillnet.proto.v1 import admin_pb2, enrollment_pb2, fleet_pb2


def devices(session: Session, alive_since: float) -> list[admin_pb2.Device]:
    """Return all devices; one is connected when its stream is open and it was heard since `alive_since`."""
    installed: dict[str, list[fleet_pb2.InstalledModel]] = {}
    for row in session.scalars(select(Installed).order_by(Installed.application)):
        model = fleet_pb2.InstalledModel(application=row.application, version=row.version, digest=row.digest)
        installed.setdefault(row.device, []).append(model)
    applications: dict[str, list[str]] = {}
    for device, application in session.execute(
        select(Assignment.device, Assignment.application).order_by(Assignment.application)
    ):
        applications.setdefault(device, []).append(application)
    tags: dict[str, list[str]] = {}
    for device, word in session.execute(select(Tag.device, Tag.tag).order_by(Tag.tag)):
        tags.setdefault(device, []).append(word)
    reports = {row.device: row for row in session.scalars(_last_reports())}
    return [
        admin_pb2.Device(
            device=row.id,
            connected=row.instance is not None and row.last_seen_ts >= alive_since,
            revoked=row.revoked_ts is not None,
            last_seen_ts=row.last_seen_ts,
            capabilities=enrollment_pb2.Capabilities(**row.capabilities),
            models=installed.get(row.id, []),
            last_report=_report(reports.get(row.id)),
            applications=applications.get(row.id, []),
            tags=tags.get(row.id, []),
        )
        for row in session.scalars(select(Device).order_by(Device.id))
    ]


def _last_reports() -> Select[Report]:
    """One index look-up per device, however long their histories are."""
    of_device = aliased(Report)
    latest = select(func.max(of_device.id)).where(of_device.device == Device.id).correlate(Device).scalar_subquery()
    return select(Report).join(Device, Report.id == latest)


def _report(row: Report | None) -> fleet_pb2.UpdateReport | None:
    if row is None:
        return None
    return fleet_pb2.UpdateReport(
        directive_id=row.directive,
        phase="UPDATE_PHASE_" + row.phase.upper().replace("-", "_"),
        application=row.application,
        version=row.version,
        digest=row.digest,
        progress=row.progress,
        reason=row.reason,
        durations_ms=row.durations_ms,
        shadow=None if row.shadow is None else fleet_pb2.ShadowRun(**row.shadow),
    )
