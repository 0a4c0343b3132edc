"""What the service counts, as Prometheus text."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.calls import Calls
from distillnet.cloud.fleet.database import Assignment, Device, Model, Rollout
from distillnet.cloud.fleet.hub import Hub
from distillnet.cloud.fleet.intake import Intake

Labels = tuple[tuple[str, str], ...]
Family = tuple[str, str, dict[Labels, float]]


def of_process(hub: Hub, calls: Calls, intake: Intake | None) -> dict[str, Family]:
    """Figures of this process only."""
    families: dict[str, Family] = {
        "distillnet_streams": ("gauge", "Device streams that end in this process", {(): float(len(hub))}),
        "distillnet_calls_total": (
            "counter",
            "Finished calls",
            {(("method", method), ("status", status)): float(n) for (method, status), n in calls.counts.items()},
        ),
    }
    if intake is not None:
        outcomes = {"stored": intake.counts.stored, "refused": intake.counts.refused}
        by_outcome: dict[Labels, float] = {(("outcome", name),): float(n) for name, n in outcomes.items()}
        families["distillnet_messages_total"] = ("counter", "MQTT messages taken in", by_outcome)
        failures = float(intake.counts.failures)
        families["distillnet_store_failures_total"] = ("counter", "Batches that had to be tried again", {(): failures})
    return families


def of_fleet(session: Session, alive_since: float) -> dict[str, Family]:
    """Figures of the whole fleet, the same from every instance."""
    connected = (Device.instance.is_not(None)) & (Device.last_seen_ts >= alive_since)
    known = session.scalar(select(func.count()).select_from(Device).where(Device.revoked_ts.is_(None))) or 0
    here = session.scalar(select(func.count()).select_from(Device).where(connected)) or 0
    wishes = session.execute(
        select(Assignment.application, Assignment.state, func.count()).group_by(
            Assignment.application, Assignment.state
        )
    )
    states = session.execute(select(Rollout.state, func.count()).group_by(Rollout.state))
    models = session.execute(select(Model.application, func.max(Model.version)).group_by(Model.application))
    return {
        "distillnet_devices": ("gauge", "Devices enrolled and not revoked", {(): float(known)}),
        "distillnet_devices_connected": ("gauge", "Devices with a live stream", {(): float(here)}),
        "distillnet_wishes": (
            "gauge",
            "What devices shall run, by how far it is",
            {(("application", name), ("state", state)): float(n) for name, state, n in wishes},
        ),
        "distillnet_rollouts": (
            "gauge",
            "Rollouts by state",
            {(("state", state),): float(n) for state, n in states},
        ),
        "distillnet_latest_version": (
            "gauge",
            "Newest published version",
            {(("application", name),): float(version) for name, version in models},
        ),
    }


def render(families: dict[str, Family]) -> str:
    """Prometheus text exposition format 0.0.4."""
    lines = []
    for name, (kind, description, values) in families.items():
        lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
        for labels, value in sorted(values.items()):
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            lines.append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
