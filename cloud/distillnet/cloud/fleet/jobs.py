"""Jobs as facts: who wants what distilled, and how far it is. Plain functions of a session.

`queued` → `running` → `done` | `failed` | `cancelled`. A cancelled job that runs is `cancelling` until its process has
ended. A running job is seen by its instance every second; one that is not any more goes back to the queue.
"""

from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import Job
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.proto.v1 import admin_pb2

FINAL = ("done", "failed", "cancelled")
LOG_BYTES = 256 << 10
_STALE_S = 60.0
_SHOWN = 200


def submit(session: Session, application: str, spec: str, options: dict[str, Any], by: str, now: float) -> Job:
    """Put a job in the queue."""
    job = Job(application=application, spec=spec, options=options, state="queued", created_ts=now, created_by=by)
    session.add(job)
    session.flush()
    return job


def requeue(session: Session, instance: str) -> None:
    """Put back what an instance was running when it ended."""
    running = update(Job).where(Job.instance == instance, Job.state == "running")
    session.execute(running.values(state="queued", restarts=Job.restarts + 1))
    cancelling = update(Job).where(Job.instance == instance, Job.state == "cancelling")
    session.execute(cancelling.values(state="cancelled"))


def claim(session: Session, instance: str, now: float) -> Job | None:
    """Take the oldest job that waits, or whose instance is gone."""
    gone = (Job.state == "running") & (Job.seen_ts < now - _STALE_S)
    query = select(Job).where(or_(Job.state == "queued", gone)).order_by(Job.id).limit(1)
    job = session.scalars(query.with_for_update(skip_locked=True)).first()
    if job is not None:
        job.restarts += job.state == "running"
        job.state, job.instance, job.seen_ts = "running", instance, now
        job.started_ts = job.started_ts or now
    return job


def see(session: Session, job_id: int, instance: str, log: str, now: float) -> bool:
    """Write down how far a job is; returns whether it shall go on."""
    job = session.get_one(Job, job_id)
    if job.instance != instance or job.state not in ("running", "cancelling"):
        return False
    job.log, job.seen_ts = log, now
    return job.state == "running"


def finish(session: Session, job_id: int, instance: str, reason: str | None, files: list[str], now: float) -> str:
    """Write down how a job ended: `reason` it failed for, None when it did not; returns its state."""
    job = session.get_one(Job, job_id)
    if job.instance == instance and job.state not in FINAL:
        job.state = "done" if reason is None else "cancelled" if job.state == "cancelling" else "failed"
        job.reason, job.files, job.done_ts = reason or "", files, now
    return job.state


def cancel(session: Session, job_id: int, by: str, now: float) -> Job:
    """End a job, whatever it is doing.

    Raises:
        RefusedError: there is none, or it has ended.

    """
    job = get(session, job_id)
    if job.state in FINAL:
        raise RefusedError(Code.FAILED_PRECONDITION, f"job {job_id} is {job.state} already")
    job.reason = f"cancelled by {by}"
    job.state = "cancelling" if job.state == "running" else "cancelled"
    job.done_ts = now if job.state == "cancelled" else None
    return job


def get(session: Session, job_id: int) -> Job:
    """Return one job.

    Raises:
        RefusedError: there is none.

    """
    job = session.get(Job, job_id)
    if job is None:
        raise RefusedError(Code.NOT_FOUND, f"there is no job {job_id}")
    return job


def listed(session: Session, job_id: int) -> list[Job]:
    """One job, or with 0 the newest, newest first."""
    if job_id:
        return [get(session, job_id)]
    return list(session.scalars(select(Job).order_by(Job.id.desc()).limit(_SHOWN)))


def message(job: Job) -> admin_pb2.Job:
    """A job as the contract shows it."""
    lines = job.log.rstrip().splitlines()
    return admin_pb2.Job(
        id=job.id,
        application=job.application,
        state=job.state,
        reason=job.reason,
        step=lines[-1] if lines else "",
        created_ts=job.created_ts,
        started_ts=job.started_ts or 0.0,
        done_ts=job.done_ts or 0.0,
        created_by=job.created_by,
        restarts=job.restarts,
        files=job.files,
    )
