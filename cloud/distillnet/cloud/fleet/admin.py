"""`Admin`: what people and scripts do with a fleet."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import obstore
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import access, devices, feedback_service, inventory, jobs, models, rollouts, telemetry
from distillnet.cloud.fleet.authorise import caller
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.hub import Hub
from distillnet.cloud.fleet.pki import Authority
from distillnet.cloud.fleet.publish import Publisher
from distillnet.cloud.fleet.web import sessions
from distillnet.cloud.fleet.workbench import stored_at
from distillnet.cloud.jobs import spec
from distillnet.proto.archive import MAX_STUDENT_BYTES
from distillnet.proto.identity import ROLES, EnrollmentToken, Identity
from distillnet.proto.strict import ConfigError
from distillnet.proto.v1 import admin_pb2, admin_pb2_grpc

log = logging.getLogger(__name__)

_DEFAULT_TTL_S = 3600.0
_MAX_TTL_S = 30 * 86400.0
_ACCESS_DAYS = 365.0
_WATCH_S = 0.5
_MOST_WORKERS = 256
_PIECE_BYTES = 256 << 10


@dataclass(frozen=True)
class Administration:
    """What the service works with."""

    database: Database
    authority: Authority
    publisher: Publisher
    store: Any
    hub: Hub
    clock: Callable[[], float]
    web_address: Callable[[], str | None]


class AdminService(admin_pb2_grpc.AdminServicer):
    """Serves people and scripts; who may call what is decided in `authorise`."""

    def __init__(self, administration: Administration) -> None:
        self._with = administration
        self._uploads = asyncio.Semaphore(2)

    async def Publish(
        self, request_iterator: AsyncIterator[admin_pb2.PublishRequest], context: Any
    ) -> admin_pb2.PublishResponse:
        """Take a student in pieces, then check, number, sign and assign it."""
        async with self._uploads:
            header, data = await _upload(request_iterator)
            published = await asyncio.to_thread(
                self._with.publisher.publish, data, header.application, list(header.boards), hold=header.hold
            )
        self._with.hub.wake()
        model = published.model
        log.info(
            "%s published %s version %d (%s) for %d devices",
            caller().name,
            model.application,
            model.version,
            model.digest,
            len(published.devices),
        )
        return admin_pb2.PublishResponse(
            application=model.application,
            version=model.version,
            digest=model.digest,
            size_bytes=model.size_bytes,
            devices_told=len(published.devices),
        )

    async def CreateToken(self, request: admin_pb2.CreateTokenRequest, context: Any) -> admin_pb2.CreateTokenResponse:
        """Make a one-time enrolment token."""
        ttl_s = request.ttl_s or _DEFAULT_TTL_S
        if not 0 < ttl_s <= _MAX_TTL_S:
            raise RefusedError(Code.INVALID_ARGUMENT, f"a token lives up to {_MAX_TTL_S:g} s; got {ttl_s:g}")
        token = EnrollmentToken(self._with.authority.sha256, secrets.token_bytes(24))
        now = self._with.clock()
        expires_ts = await self._with.database.write(
            lambda session: access.add_token(session, token, request.device, list(request.applications), now, ttl_s)
        )
        log.info("%s made a token for %s", caller().name, request.device or "any device")
        return admin_pb2.CreateTokenResponse(token=token.encode(), expires_ts=expires_ts)

    async def ListDevices(self, request: admin_pb2.ListDevicesRequest, context: Any) -> admin_pb2.ListDevicesResponse:
        """Every device with what it runs."""
        alive_since = self._with.clock() - 3 * self._with.hub.heartbeat_s - 5.0
        rows = await self._with.database.read(lambda session: inventory.devices(session, alive_since))
        return admin_pb2.ListDevicesResponse(devices=rows)

    async def ListModels(self, request: admin_pb2.ListModelsRequest, context: Any) -> admin_pb2.ListModelsResponse:
        """Every published student with its card."""
        rows = await self._with.database.read(lambda session: models.published(session, request.application))
        return admin_pb2.ListModelsResponse(
            models=[
                admin_pb2.Model(
                    application=row.application,
                    version=row.version,
                    digest=row.digest,
                    size_bytes=row.size_bytes,
                    published_ts=row.published_ts,
                    card_json=row.card_json.encode(),
                    held=row.held,
                )
                for row in rows
            ]
        )

    async def RevokeDevice(
        self, request: admin_pb2.RevokeDeviceRequest, context: Any
    ) -> admin_pb2.RevokeDeviceResponse:
        """Shut a device out, its open stream included."""
        now = self._with.clock()
        await self._with.database.write(lambda session: devices.revoke(session, request.device, now))
        self._with.hub.wake()
        log.warning("%s revoked device %s", caller().name, request.device)
        return admin_pb2.RevokeDeviceResponse()

    async def RollbackDevices(
        self, request: admin_pb2.RollbackDevicesRequest, context: Any
    ) -> admin_pb2.RollbackDevicesResponse:
        """Ask devices to go back to their previous student."""
        now, reason = self._with.clock(), request.reason or f"asked by {caller().name}"
        told = await self._with.database.write(
            lambda session: devices.roll_back(session, request.application, request.devices, reason, now)
        )
        self._with.hub.wake()
        log.warning("%s rolls back %s on %d devices", caller().name, request.application, len(told))
        return admin_pb2.RollbackDevicesResponse(devices_told=len(told))

    async def TagDevices(self, request: admin_pb2.TagDevicesRequest, context: Any) -> admin_pb2.TagDevicesResponse:
        """Put tags on devices and take others off."""
        names, add, remove = list(request.devices), list(request.add), list(request.remove)
        await self._with.database.write(lambda session: devices.tag(session, names, add, remove))
        return admin_pb2.TagDevicesResponse(devices=len(set(names)))

    async def StartRollout(self, request: admin_pb2.StartRolloutRequest, context: Any) -> admin_pb2.Rollout:
        """Begin to bring a version to many devices; `conductor` does the rest."""
        by, now = caller().name, self._with.clock()
        if request.downgrade:
            prepared = await self._with.database.read(lambda session: rollouts.prepare(session, request))
            to = prepared.model.application, prepared.model.version
            await asyncio.to_thread(self._with.publisher.allow_downgrade, *to)
            log.warning("%s lets boards go back to %s version %d; newer ones are held", by, *to)
        started = await self._with.database.write(
            lambda session: rollouts.message(session, rollouts.start(session, request, by, now))
        )
        log.warning("%s started rollout %d of %s version %d", by, started.id, started.application, started.version)
        return started

    async def ListRollouts(
        self, request: admin_pb2.ListRolloutsRequest, context: Any
    ) -> admin_pb2.ListRolloutsResponse:
        """Rollouts and how far they are, newest first."""
        rows = await self._with.database.read(
            lambda session: [rollouts.message(session, row) for row in rollouts.describe(session, request.id)]
        )
        return admin_pb2.ListRolloutsResponse(rollouts=rows)

    async def SteerRollout(self, request: admin_pb2.SteerRolloutRequest, context: Any) -> admin_pb2.Rollout:
        """Pause, resume, abort, take back."""
        by, now = caller().name, self._with.clock()
        steered = await self._with.database.write(
            lambda session: rollouts.message(session, rollouts.steer(session, request, by, now))
        )
        self._with.hub.wake()
        log.warning("%s: rollout %d is now %s: %s", by, steered.id, steered.state, steered.reason)
        return steered

    async def ListEvents(self, request: admin_pb2.ListEventsRequest, context: Any) -> admin_pb2.ListEventsResponse:
        """What devices saw, newest first."""
        rows = await self._with.database.read(lambda session: telemetry.events(session, request))
        return admin_pb2.ListEventsResponse(events=rows)

    async def ListTelemetry(
        self, request: admin_pb2.ListTelemetryRequest, context: Any
    ) -> admin_pb2.ListTelemetryResponse:
        """How devices fare, newest first."""
        rows = await self._with.database.read(lambda session: telemetry.samples(session, request))
        return admin_pb2.ListTelemetryResponse(samples=rows)

    async def OpenDashboard(
        self, request: admin_pb2.OpenDashboardRequest, context: Any
    ) -> admin_pb2.OpenDashboardResponse:
        """Make a link that signs the caller in to the dashboard."""
        address, identity, now = self._with.web_address(), caller(), self._with.clock()
        if address is None:
            raise RefusedError(Code.FAILED_PRECONDITION, "the dashboard is off: start the service with --web-port")
        code = await self._with.database.write(lambda session: sessions.make_code(session, identity, now))
        url = f"https://{address}/login?code={code}"
        return admin_pb2.OpenDashboardResponse(url=url, expires_ts=now + sessions.CODE_S)

    async def GrantAccess(self, request: admin_pb2.GrantAccessRequest, context: Any) -> admin_pb2.GrantAccessResponse:
        """Sign a certificate for a person or a script."""
        access.check_name(request.name, "name")
        role = next((role for role in ROLES if role == request.role and role != "device"), None)
        if role is None:
            raise RefusedError(Code.INVALID_ARGUMENT, f"role must be viewer, operator or admin; got {request.role!r}")
        identity, now = Identity(role, request.name), self._with.clock()
        days = min(request.ttl_s / 86400.0 or _ACCESS_DAYS, _ACCESS_DAYS)
        issued = self._with.authority.issue(request.csr_pem, identity, now, days)
        await self._with.database.write(lambda session: access.add_certificate(session, identity, issued))
        log.warning("%s granted access as %s to %s", caller().name, role, request.name)
        return admin_pb2.GrantAccessResponse(certificate_pem=issued.certificate_pem, ca_pem=self._with.authority.pem)

    async def RevokeAccess(
        self, request: admin_pb2.RevokeAccessRequest, context: Any
    ) -> admin_pb2.RevokeAccessResponse:
        """Revoke every certificate of a person or a script."""
        if request.name == caller().name:
            raise RefusedError(Code.FAILED_PRECONDITION, "nobody revokes the access used for the call")
        now = self._with.clock()
        count = await self._with.database.write(lambda session: _revoke_access(session, request.name, now))
        if not count:
            raise RefusedError(Code.NOT_FOUND, f"{request.name!r} has no access to revoke")
        log.warning("%s revoked the access of %s", caller().name, request.name)
        return admin_pb2.RevokeAccessResponse()

    async def SubmitDistillation(self, request: admin_pb2.SubmitDistillationRequest, context: Any) -> admin_pb2.Job:
        """Put a distillation in the queue."""
        try:
            application = spec.check(request.application_toml).application.name
        except ConfigError as exc:
            raise RefusedError(Code.INVALID_ARGUMENT, str(exc)) from exc
        options = {
            "minutes": request.minutes or None,
            "seed": request.seed if request.HasField("seed") else None,
            "workers": request.workers or 1,
        }
        if request.minutes < 0:
            raise RefusedError(Code.INVALID_ARGUMENT, f"minutes must be more than 0; got {request.minutes:g}")
        if request.workers > _MOST_WORKERS:
            raise RefusedError(Code.INVALID_ARGUMENT, f"workers must be 1–{_MOST_WORKERS}; got {request.workers}")
        by, now = caller().name, self._with.clock()
        job = await self._with.database.write(
            lambda session: jobs.message(jobs.submit(session, application, request.application_toml, options, by, now))
        )
        log.info("%s submitted job %d: %s", by, job.id, application)
        return job

    async def ListJobs(self, request: admin_pb2.ListJobsRequest, context: Any) -> admin_pb2.ListJobsResponse:
        """Jobs and how far they are, newest first."""
        rows = await self._with.database.read(
            lambda session: [jobs.message(job) for job in jobs.listed(session, request.id)]
        )
        return admin_pb2.ListJobsResponse(jobs=rows)

    async def WatchJob(self, request: admin_pb2.WatchJobRequest, context: Any) -> AsyncIterator[admin_pb2.JobUpdate]:
        """Stream a job's log and state until it ends, from whichever instance runs it."""
        seen, before = "", None
        while True:
            job, text = await self._with.database.read(lambda session: _job_and_log(session, request.id))
            if job != before:
                yield admin_pb2.JobUpdate(job=job, log=_news(seen, text))
                seen, before = text, job
            if job.state in jobs.FINAL:
                return
            await asyncio.sleep(_WATCH_S)

    async def CancelJob(self, request: admin_pb2.CancelJobRequest, context: Any) -> admin_pb2.Job:
        """End a job."""
        by, now = caller().name, self._with.clock()
        job = await self._with.database.write(lambda session: jobs.message(jobs.cancel(session, request.id, by, now)))
        log.warning("%s cancelled job %d", by, job.id)
        return job

    async def FetchJobFile(
        self, request: admin_pb2.FetchJobFileRequest, context: Any
    ) -> AsyncIterator[admin_pb2.JobFileChunk]:
        """Stream what a job made."""
        files = await self._with.database.read(lambda session: jobs.get(session, request.id).files)
        if request.name not in files:
            made = ", ".join(files) or "nothing yet"
            raise RefusedError(Code.NOT_FOUND, f"job {request.id} made {made}; not {request.name[:100]!r}")
        found = await obstore.get_async(self._with.store, stored_at(request.id, request.name))
        async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
            data = bytes(piece)
            for start in range(0, len(data), _PIECE_BYTES):
                yield admin_pb2.JobFileChunk(data=data[start : start + _PIECE_BYTES])

    async def CollectFeedback(
        self, request: admin_pb2.CollectFeedbackRequest, context: Any
    ) -> AsyncIterator[admin_pb2.CollectedFeedback]:
        """Stream what boards gave back for an application."""
        access.check_name(request.application, "application")
        async for item in feedback_service.collect(self._with.database, self._with.store, request):
            yield item
        log.warning("%s collected the examples of %s", caller().name, request.application)


def _job_and_log(session: Session, job_id: int) -> tuple[admin_pb2.Job, str]:
    job = jobs.get(session, job_id)
    return jobs.message(job), job.log


def _news(seen: str, text: str) -> str:
    """What came after; a log that was cut at its beginning is shown whole."""
    return text.removeprefix(seen)


def _revoke_access(session: Session, name: str, now: float) -> int:
    sessions.forget(session, name)
    return access.revoke_certificates(session, None, name, now)


async def _upload(requests: AsyncIterator[admin_pb2.PublishRequest]) -> tuple[admin_pb2.PublishHeader, bytes]:
    header: admin_pb2.PublishHeader | None = None
    data = bytearray()
    async for request in requests:
        if header is None:
            header = _header(request)
        elif request.WhichOneof("part") == "data" and len(data) + len(request.data) <= header.size_bytes:
            data += request.data
        else:
            raise RefusedError(Code.INVALID_ARGUMENT, f"expected {header.size_bytes} bytes of data after one header")
    if header is None or len(data) != header.size_bytes:
        wanted = header.size_bytes if header else "a header"
        raise RefusedError(Code.INVALID_ARGUMENT, f"the upload ended early: expected {wanted}, got {len(data)} bytes")
    got = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if got != header.digest:
        raise RefusedError(Code.DATA_LOSS, f"the upload was damaged: expected {header.digest}, got {got}")
    return header, bytes(data)


def _header(request: admin_pb2.PublishRequest) -> admin_pb2.PublishHeader:
    if request.WhichOneof("part") != "header":
        raise RefusedError(Code.INVALID_ARGUMENT, "the first part of an upload is its header")
    header = request.header
    access.check_name(header.application, "application")
    if not 0 < header.size_bytes <= MAX_STUDENT_BYTES:
        raise RefusedError(
            Code.INVALID_ARGUMENT, f"a student has 1–{MAX_STUDENT_BYTES} bytes; announced {header.size_bytes}"
        )
    return header
