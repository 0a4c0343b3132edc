"""Rollouts: a canary, then waves, each watched for a while; stopped by what devices report.

The whole state is in the database. `advance` is one step of one rollout in one transaction: it may be repeated, done
by any instance, and interrupted at any point. Devices that are away do not hold a wave up; their directive waits.
"""

import hashlib
import itertools
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import devices, models, verdict
from distillnet.cloud.fleet.database import Assignment, Device, Installed, Model, Rollout, RolloutDevice, Tag
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.proto.v1 import admin_pb2

ACTIVE = ("scheduled", "running", "paused")
_OUTCOMES = {"committed": "committed", "refused": "failed", "rolled-back": "failed"}


@dataclass(frozen=True)
class Plan:
    """How carefully; the fields are those of `RolloutPlan` in admin.proto, with its defaults in place."""

    canary: int = 1
    canary_devices: tuple[str, ...] = ()
    waves_percent: tuple[int, ...] = (100,)
    soak_s: float = 60.0
    max_failure_share: float = 0.0
    concurrency: int = 0
    pause_on_failure: bool = False
    max_latency_ratio: float = 0.0
    max_event_ratio: float = 0.0

    @classmethod
    def read(cls, plan: admin_pb2.RolloutPlan) -> "Plan":
        """Check a requested plan.

        Raises:
            RefusedError: which figure makes no sense.

        """
        waves = tuple(plan.waves_percent) or (100,)
        if list(waves) != sorted(set(waves)) or waves[-1] != 100 or waves[0] < 1:
            raise RefusedError(
                Code.INVALID_ARGUMENT, f"waves must rise and end at 100, e.g. 10,50,100; got {list(waves)}"
            )
        if not 0 <= plan.max_failure_share <= 1:
            raise RefusedError(Code.INVALID_ARGUMENT, f"max_failure_share must be 0–1; got {plan.max_failure_share:g}")
        for name in ("soak_s", "max_latency_ratio", "max_event_ratio"):
            if not 0 <= getattr(plan, name) < 1e8:
                raise RefusedError(Code.INVALID_ARGUMENT, f"{name} must not be negative")
        return cls(
            canary=plan.canary or 1,
            canary_devices=tuple(plan.canary_devices),
            waves_percent=waves,
            soak_s=plan.soak_s,
            max_failure_share=plan.max_failure_share,
            concurrency=plan.concurrency,
            pause_on_failure=plan.pause_on_failure,
            max_latency_ratio=plan.max_latency_ratio,
            max_event_ratio=plan.max_event_ratio,
        )

    @classmethod
    def load(cls, stored: dict[str, object]) -> "Plan":
        """Read a plan from the database."""
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return cls(**lists)  # type: ignore[arg-type]

    @property
    def waves(self) -> int:
        """How many waves, the canary included."""
        return 1 + len(self.waves_percent)


def refuse_while_active(session: Session, application: str) -> None:
    """Raise `RefusedError` while a rollout of an application is under way."""
    active = session.scalars(select(Rollout).where(Rollout.application == application, Rollout.state.in_(ACTIVE)))
    for rollout in active:
        raise RefusedError(
            Code.FAILED_PRECONDITION,
            f"rollout {rollout.id} of {application!r} is {rollout.state}: abort it first, or publish with --hold",
        )


@dataclass(frozen=True)
class Prepared:
    """A rollout that may be started: what, how, and to whom."""

    model: Model
    plan: Plan
    waves: list[list[str]]


def prepare(session: Session, request: admin_pb2.StartRolloutRequest) -> Prepared:
    """Fix who is in which wave.

    Raises:
        RefusedError: no such version or device, another rollout is under way, the plan makes no sense, or devices run a
            newer version and are not to be allowed back.

    """
    plan = Plan.read(request.plan)
    if request.downgrade and not request.version:
        raise RefusedError(Code.INVALID_ARGUMENT, "a downgrade must name the version to go back to")
    published = models.published(session, request.application) if not request.version else []
    if not request.version and not published:
        raise RefusedError(Code.NOT_FOUND, f"application {request.application!r} has no published student")
    model = published[0] if published else models.get(session, request.application, request.version)
    refuse_while_active(session, request.application)
    targets = _targets(session, model.application, list(request.tags))
    fitting = [device for device, board in targets if models.fits(model, board)]
    if not fitting:
        raise RefusedError(Code.NOT_FOUND, "no device has this application, these tags and a fitting board")
    newer = [] if request.downgrade else _with_newer(session, model, fitting)
    if newer:
        who = ", ".join([*newer[:3], *(["…"] if len(newer) > 3 else [])])
        raise RefusedError(
            Code.FAILED_PRECONDITION,
            f"{len(newer)} of {len(fitting)} devices run a version newer than {model.version} and would refuse it "
            f"({who}): allow them back with --downgrade, or choose others by tag",
        )
    return Prepared(model, plan, _waves(fitting, plan, f"{model.application}/{model.version}"))


def start(session: Session, request: admin_pb2.StartRolloutRequest, by: str, now: float) -> Rollout:
    """Make the rollout; a downgrade has been signed before. Raises as `prepare` does."""
    prepared = prepare(session, request)
    model, plan = prepared.model, prepared.plan
    rollout = Rollout(
        application=model.application,
        version=model.version,
        state="scheduled" if request.start_ts > now else "running",
        plan=plan.__dict__ | {name: list(getattr(plan, name)) for name in ("canary_devices", "waves_percent")},
        everyone=not request.tags,
        start_ts=max(request.start_ts, now),
        created_ts=now,
        changed_ts=now,
        created_by=by,
    )
    session.add(rollout)
    session.flush()
    session.add_all(
        RolloutDevice(rollout=rollout.id, device=device, wave=index)
        for index, wave in enumerate(prepared.waves)
        for device in wave
    )
    session.flush()
    return rollout


def steer(session: Session, request: admin_pb2.SteerRolloutRequest, by: str, now: float) -> Rollout:
    """Pause, resume, abort or take back. Whoever resumes has looked: telemetry is judged no more, failures anew.

    Raises:
        RefusedError: no such rollout, or it is not in a state for that.

    """
    rollout = session.get(Rollout, request.id, with_for_update=True)
    if rollout is None:
        raise RefusedError(Code.NOT_FOUND, f"there is no rollout {request.id}")
    kind = admin_pb2.SteerRolloutRequest
    allowed = {
        kind.ACTION_PAUSE: ("scheduled", "running"),
        kind.ACTION_RESUME: ("paused",),
        kind.ACTION_ABORT: ACTIVE,
        kind.ACTION_ROLL_BACK: (*ACTIVE, "aborted"),
    }.get(request.action)
    if allowed is None:
        raise RefusedError(Code.INVALID_ARGUMENT, "action must be pause, resume, abort or roll back")
    if rollout.state not in allowed:
        raise RefusedError(Code.FAILED_PRECONDITION, f"rollout {rollout.id} is {rollout.state}")
    reason = request.reason or f"by {by}"
    if request.action == kind.ACTION_RESUME:
        _collect(session, rollout, now)
        rollout.forgiven = _count(session, rollout, "failed")
        rollout.plan = rollout.plan | {"max_latency_ratio": 0.0, "max_event_ratio": 0.0}
        _change(rollout, "scheduled" if rollout.start_ts > now else "running", reason, now)
    elif request.action == kind.ACTION_PAUSE:
        _change(rollout, "paused", reason, now)
    elif request.action == kind.ACTION_ABORT:
        _change(rollout, "aborted", reason, now)
    else:
        take_back(session, rollout, reason, now)
    return rollout


def active(session: Session) -> list[int]:
    """Rollouts that may have a step to take."""
    return list(session.scalars(select(Rollout.id).where(Rollout.state.in_(("scheduled", "running", "paused")))))


def advance(session: Session, rollout_id: int, alive_since: float, now: float) -> bool:
    """Take the next step of a rollout, if there is one; returns whether devices were given directives."""
    rollout = session.get(Rollout, rollout_id, with_for_update=True)
    if rollout is None or rollout.state not in ACTIVE:
        return False
    if rollout.state == "scheduled":
        if rollout.start_ts > now:
            return False
        _change(rollout, "running", "", now)
    _collect(session, rollout, now)
    if rollout.state == "paused":
        return False
    plan = Plan.load(rollout.plan)
    why = _failing(session, rollout, plan) or verdict.against(
        session,
        rollout,
        max_latency_ratio=plan.max_latency_ratio,
        max_event_ratio=plan.max_event_ratio,
        now=now,
    )
    if why is not None:
        return stop(session, rollout, plan, why, now)
    if _tell(session, rollout, plan, now):
        return True
    if _settled(session, rollout, alive_since, now) and now - (rollout.settled_ts or now) >= plan.soak_s:
        _next_wave(session, rollout, plan, now)
        return _tell(session, rollout, plan, now)
    return False


def stop(session: Session, rollout: Rollout, plan: Plan, why: str, now: float) -> bool:
    """End a rollout that fails: wait for a person, or take it back; returns whether devices were given directives."""
    if plan.pause_on_failure:
        _change(rollout, "paused", why, now)
        return False
    take_back(session, rollout, why, now)
    return True


def take_back(session: Session, rollout: Rollout, why: str, now: float) -> None:
    """Stop a rollout, and send every device it has told away from its version."""
    _collect(session, rollout, now)
    rows = session.scalars(
        select(RolloutDevice).where(RolloutDevice.rollout == rollout.id, RolloutDevice.state.in_(("told", "committed")))
    ).all()
    if rows:
        reason = f"rollout {rollout.id} was stopped: {why}"
        names = [row.device for row in rows]
        devices.roll_back(session, rollout.application, names, reason, now, rollout.version, strict=False)
    for row in rows:
        row.state, row.done_ts = "taken-back", now
    _change(rollout, "rolled-back", why, now)


def unreleased(session: Session) -> list[tuple[int, str, int]]:
    """Finished rollouts to everyone whose version is still held: (rollout, application, version)."""
    query = select(Rollout.id, Rollout.application, Rollout.version).where(
        Rollout.state == "done", Rollout.everyone, Rollout.released.is_(False)
    )
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def mark_released(session: Session, rollout_id: int, now: float) -> None:
    """Note that a finished rollout's version is open to all, and give it to who came in the meantime."""
    rollout = session.get_one(Rollout, rollout_id)
    model = models.get(session, rollout.application, rollout.version)
    inside = select(RolloutDevice.device).where(RolloutDevice.rollout == rollout_id)
    late = select(Assignment.device).where(
        Assignment.application == rollout.application,
        Assignment.device.not_in(inside),
        (Assignment.version.is_(None)) | (Assignment.version < rollout.version),
    )
    devices.assign(session, model, list(session.scalars(late)), now)
    rollout.released = True


def describe(session: Session, rollout_id: int) -> list[Rollout]:
    """One rollout, or with 0 all of them, newest first."""
    query = select(Rollout).order_by(Rollout.id.desc())
    rows = list(session.scalars(query.where(Rollout.id == rollout_id) if rollout_id else query.limit(200)))
    if rollout_id and not rows:
        raise RefusedError(Code.NOT_FOUND, f"there is no rollout {rollout_id}")
    return rows


def message(session: Session, rollout: Rollout) -> admin_pb2.Rollout:
    """A rollout as the contract shows it."""
    plan = Plan.load(rollout.plan)
    waves = [admin_pb2.Rollout.Wave() for _ in range(plan.waves)]
    counts = session.execute(
        select(RolloutDevice.wave, RolloutDevice.state, func.count())
        .where(RolloutDevice.rollout == rollout.id)
        .group_by(RolloutDevice.wave, RolloutDevice.state)
    )
    for wave, state, count in counts:
        setattr(waves[wave], state.replace("-", "_"), count)
        waves[wave].size += count
    return admin_pb2.Rollout(
        id=rollout.id,
        application=rollout.application,
        version=rollout.version,
        state=rollout.state,
        reason=rollout.reason,
        wave=rollout.wave,
        created_ts=rollout.created_ts,
        changed_ts=rollout.changed_ts,
        created_by=rollout.created_by,
        plan=admin_pb2.RolloutPlan(**plan.__dict__),
        waves=waves,
    )


def _targets(session: Session, application: str, tags: list[str]) -> list[tuple[str, str]]:
    query = (
        select(Device.id, Device.capabilities)
        .join(Assignment, Assignment.device == Device.id)
        .where(Assignment.application == application, Device.revoked_ts.is_(None))
    )
    if tags:
        query = query.where(Device.id.in_(select(Tag.device).where(Tag.tag.in_(tags))))
    return [(device, capabilities.get("board", "")) for device, capabilities in session.execute(query)]


def _with_newer(session: Session, model: Model, fitting: list[str]) -> list[str]:
    """Return those of the devices that say they run a newer version."""
    query = select(Installed.device).where(
        Installed.application == model.application, Installed.version > model.version
    )
    return sorted(set(session.scalars(query)) & set(fitting))


def _waves(fitting: list[str], plan: Plan, salt: str) -> list[list[str]]:
    """Canary first, then rising shares of the rest, in an order that is random but the same every time."""
    strangers = set(plan.canary_devices) - set(fitting)
    if strangers:
        raise RefusedError(Code.NOT_FOUND, f"no target of this rollout: {', '.join(sorted(strangers))}")
    order = sorted(fitting, key=lambda device: hashlib.sha256(f"{salt}/{device}".encode()).digest())
    canary = list(plan.canary_devices) or order[: plan.canary]
    rest = [device for device in order if device not in set(canary)]
    edges = [0, *(round(len(rest) * percent / 100) for percent in plan.waves_percent)]
    return [canary, *(rest[a:b] for a, b in itertools.pairwise(edges))]


def _collect(session: Session, rollout: Rollout, now: float) -> None:
    """Copy what became of the directives; one that is no longer ours was superseded by another wish."""
    query = (
        select(RolloutDevice, Assignment)
        .outerjoin(
            Assignment,
            (Assignment.device == RolloutDevice.device) & (Assignment.application == rollout.application),
        )
        .where(RolloutDevice.rollout == rollout.id, RolloutDevice.state.in_(("told", "committed")))
    )
    for row, wish in session.execute(query):
        if wish is None or wish.directive != row.directive:
            row.state, row.done_ts = "superseded", now
        elif wish.state in _OUTCOMES and row.state != _OUTCOMES[wish.state]:
            row.state, row.reason, row.done_ts = _OUTCOMES[wish.state], wish.reason, now
    session.flush()


def _failing(session: Session, rollout: Rollout, plan: Plan) -> str | None:
    """Say why the rollout must stop, or None. Judged over all waves told so far."""
    failed = _count(session, rollout, "failed") - rollout.forgiven
    told = _count(session, rollout) - _count(session, rollout, "waiting")
    if failed <= plan.max_failure_share * max(told, 1):
        return None
    first = session.scalars(
        select(RolloutDevice)
        .where(RolloutDevice.rollout == rollout.id, RolloutDevice.state == "failed")
        .order_by(RolloutDevice.done_ts.desc())
    ).first()
    last = f"; last {first.device}: {first.reason or 'no reason given'}" if first else ""
    return f"{failed} of {told} devices failed, allowed {plan.max_failure_share:.0%}{last}"


def _tell(session: Session, rollout: Rollout, plan: Plan, now: float) -> bool:
    """Give directives to waiting devices of this wave, as many as may be under way at once."""
    room = plan.concurrency - _count(session, rollout, "told") if plan.concurrency else None
    if room is not None and room <= 0:
        return False
    query = (
        select(RolloutDevice)
        .where(RolloutDevice.rollout == rollout.id, RolloutDevice.wave == rollout.wave)
        .where(RolloutDevice.state == "waiting")
        .order_by(RolloutDevice.device)
        .limit(room)
    )
    waiting = {row.device: row for row in session.scalars(query)}
    if not waiting:
        return False
    if rollout.wave_started_ts is None:
        rollout.wave_started_ts = now
    rollout.settled_ts = None
    model = models.get(session, rollout.application, rollout.version)
    told = set(devices.assign(session, model, waiting, now))
    session.flush()
    wishes = select(Assignment).where(Assignment.application == rollout.application, Assignment.device.in_(waiting))
    for wish in session.scalars(wishes):
        if wish.device in told:
            row = waiting.pop(wish.device)
            row.state, row.directive, row.told_ts = "told", wish.directive, now
    for row in waiting.values():
        row.state, row.done_ts, row.reason = "superseded", now, "revoked, or has the application no more"
    return True


def _settled(session: Session, rollout: Rollout, alive_since: float, now: float) -> bool:
    """Whether nobody of this wave who is connected is still under way; at least one must have committed."""
    under_way = session.scalar(
        select(func.count())
        .select_from(RolloutDevice)
        .join(Device, Device.id == RolloutDevice.device)
        .where(RolloutDevice.rollout == rollout.id, RolloutDevice.wave == rollout.wave)
        .where(RolloutDevice.state == "told", Device.instance.is_not(None), Device.last_seen_ts >= alive_since)
    )
    counts = session.execute(
        select(RolloutDevice.state, func.count())
        .where(RolloutDevice.rollout == rollout.id, RolloutDevice.wave == rollout.wave)
        .group_by(RolloutDevice.state)
    )
    states = dict(counts.tuples().all())
    everyone_away = states.get("told", 0) > 0 and not states.get("committed", 0)
    if under_way or states.get("waiting", 0) or everyone_away:
        rollout.settled_ts = None
        return False
    if rollout.settled_ts is None:
        rollout.settled_ts = now
    return True


def _next_wave(session: Session, rollout: Rollout, plan: Plan, now: float) -> None:
    rollout.settled_ts = rollout.wave_started_ts = None
    if rollout.wave + 1 < plan.waves:
        rollout.wave += 1
        rollout.changed_ts = now
        return
    _change(rollout, "done", "", now)


def _count(session: Session, rollout: Rollout, state: str | None = None) -> int:
    query = select(func.count()).select_from(RolloutDevice).where(RolloutDevice.rollout == rollout.id)
    if state is not None:
        query = query.where(RolloutDevice.state == state)
    return session.scalar(query) or 0


def _change(rollout: Rollout, state: str, reason: str, now: float) -> None:
    rollout.state, rollout.reason, rollout.changed_ts = state, reason, now
