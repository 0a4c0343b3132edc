"""Runs the jobs of the queue, each in a process of its own (`jobs.runner`), and tells the database how far they are.

Any number of instances take from one queue. The service itself never loads torch or Ray.
"""

import asyncio
import contextlib
import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore

from distillnet.cloud.fleet import jobs
from distillnet.cloud.fleet.config import JobsSection
from distillnet.cloud.fleet.database import Database, Job
from distillnet.cloud.jobs import runner

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_GRACE_S = 10.0


def stored_at(job: int, name: str) -> str:
    """Where a job's file lies in the object store."""
    return f"jobs/{job}/{name}"


class Workbench:
    """The jobs that run here."""

    def __init__(
        self,
        config: JobsSection,
        database: Database,
        store: Any,
        directory: Path,
        instance: str,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._database = database
        self._store = store
        self._directory = directory
        self._instance = instance
        self._clock = clock

    async def run(self) -> None:
        """Take jobs for ever; when cancelled, what runs goes back to the queue."""
        await self._database.write(lambda session: jobs.requeue(session, self._instance))
        working: set[asyncio.Task[None]] = set()
        try:
            while True:
                if len(working) < self._config.at_once and (job := await self._claim()) is not None:
                    working.add(asyncio.create_task(self._work(job), name=f"job-{job.id}"))
                    continue
                await asyncio.sleep(_LOOK_S)
                working = {task for task in working if not task.done()}
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await self._database.write(lambda session: jobs.requeue(session, self._instance))

    async def _claim(self) -> Job | None:
        try:
            return await self._database.write(lambda session: jobs.claim(session, self._instance, self._clock()))
        except Exception:  # the database may be away for a while; the next round tries again
            log.exception("no job could be taken")
            return None

    async def _work(self, job: Job) -> None:
        place = self._directory / str(job.id)
        log.info("job %d: distilling %s in %s", job.id, job.application, place)
        try:
            reason = await self._distil(job, place)
            files = await self._keep(job.id, place / runner.OUT) if reason is None else []
        except Exception as exc:
            log.exception("job %d", job.id)
            reason, files = f"{type(exc).__name__}: {exc}", []
        finish = functools.partial(
            jobs.finish, job_id=job.id, instance=self._instance, reason=reason, files=files, now=self._clock()
        )
        while True:
            try:
                state = await self._database.write(finish)
                break
            except Exception:
                log.exception("job %d: its end could not be written down", job.id)
                await asyncio.sleep(_LOOK_S)
        log.info("job %d: %s %s", job.id, state, reason or "")

    async def _distil(self, job: Job, place: Path) -> str | None:
        """Run until the end; returns why it failed, or None."""
        place.mkdir(parents=True, exist_ok=True)
        (place / runner.APPLICATION).write_text(job.spec)
        settings = (
            {"workers": 1} | job.options | self._config.model_dump(include={"executor", "address", "threads", "gpus"})
        )
        (place / runner.SETTINGS).write_text(json.dumps(settings))
        with (place / runner.LOG).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "distillnet.cloud.jobs.runner", str(place)),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        try:
            while process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _LOOK_S)
                if not await self._see(job.id, place):
                    await _end(process)
        finally:
            await _end(process)
        if process.returncode == 0:
            return None
        lines = _tail(place).rstrip().splitlines()
        return lines[-1][:1000] if lines else f"the job's process ended with {process.returncode}"

    async def _see(self, job: int, place: Path) -> bool:
        see = functools.partial(jobs.see, job_id=job, instance=self._instance, log=_tail(place), now=self._clock())
        try:
            return await self._database.write(see)
        except Exception:  # the work goes on while the database is away
            log.exception("job %d: how far it is could not be written down", job)
            return True

    async def _keep(self, job: int, out: Path) -> list[str]:
        names = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
        for name in names:
            await obstore.put_async(self._store, stored_at(job, name), out / name)
        return names


async def _end(process: asyncio.subprocess.Process) -> None:
    """The end of its input tells the runner to cancel; one that does not listen is killed."""
    if process.returncode is None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _GRACE_S)
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()


def _tail(place: Path) -> str:
    data = (place / runner.LOG).read_bytes()[-jobs.LOG_BYTES :]
    return data.decode("utf-8", "replace").replace("\x00", "")
