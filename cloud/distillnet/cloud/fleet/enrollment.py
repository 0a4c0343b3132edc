"""Enrolment (its own port, server TLS only) and renewal of device certificates."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from distillnet.cloud.fleet import access, devices, pki
from distillnet.cloud.fleet.authorise import caller
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.pki import Authority, Issued
from distillnet.cloud.fleet.repository import Repository
from distillnet.proto.identity import Identity
from distillnet.proto.v1 import enrollment_pb2, enrollment_pb2_grpc

log = logging.getLogger(__name__)

_MAX_PEERS = 10_000


class FailureLimit:
    """Counts failures per address within a minute; bounded, oldest address forgotten first."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, peer: str) -> None:
        """Raise `RefusedError` when `peer` has failed too often."""
        now = time.monotonic()
        recent = [moment for moment in self._failures.get(peer, []) if now - moment < 60.0]
        if len(recent) >= self._per_minute:
            why = "too many failed attempts from this address: wait a minute"
            raise RefusedError(Code.RESOURCE_EXHAUSTED, why, retry_after_s=60.0)

    def failed(self, peer: str) -> None:
        """Count one."""
        kept = self._failures.pop(peer, [])[-self._per_minute :]
        self._failures[peer] = [*kept, time.monotonic()]
        if len(self._failures) > _MAX_PEERS:
            self._failures.popitem(last=False)


@dataclass(frozen=True)
class Enrolment:
    """What enrolment and renewal work with."""

    database: Database
    authority: Authority
    repository: Repository
    fleet_address: str
    device_days: float
    clock: Callable[[], float]


class EnrollmentService(enrollment_pb2_grpc.EnrollmentServicer):
    """Turns a token and a certificate request into an identity."""

    def __init__(self, enrolment: Enrolment, limit: FailureLimit) -> None:
        self._with = enrolment
        self._limit = limit

    async def Enroll(self, request: enrollment_pb2.EnrollRequest, context: Any) -> enrollment_pb2.EnrollResponse:
        """Spend the token and sign the request, both or neither."""
        peer = context.peer().rpartition(":")[0]
        self._limit.check(peer)
        try:
            device, issued = await self._with.database.write(lambda session: self._enrol(session, request))
        except RefusedError as exc:
            self._limit.failed(peer)
            log.warning("enrolment of %r from %s refused: %s", request.device[:80], peer, exc)
            raise
        log.info("device %s enrolled from %s", device, peer)
        root = await asyncio.to_thread(self._with.repository.root)
        return enrollment_pb2.EnrollResponse(
            device=device,
            certificate_pem=issued.certificate_pem,
            ca_pem=self._with.authority.pem,
            tuf_root=root,
            fleet_address=self._with.fleet_address,
        )

    def _enrol(self, session: Session, request: enrollment_pb2.EnrollRequest) -> tuple[str, Issued]:
        now = self._with.clock()
        if request.device:
            access.check_name(request.device, "device")
        key_hash = pki.key_hash(request.csr_pem)
        spent = access.use_token(session, request.token, self._with.authority.sha256, request.device, key_hash, now)
        device, identity = spent.device, Identity("device", spent.device)
        issued = self._with.authority.issue(request.csr_pem, identity, now, self._with.device_days)
        devices.enrol(session, spent, now)
        access.revoke_certificates(session, identity, device, now)
        access.add_certificate(session, identity, issued)
        devices.set_capabilities(session, device, request.capabilities, now)
        return device, issued


class RenewalService(enrollment_pb2_grpc.RenewalServicer):
    """Renews the certificate of the calling device."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._with = enrolment

    async def Renew(self, request: enrollment_pb2.RenewRequest, context: Any) -> enrollment_pb2.RenewResponse:
        """Sign a new request for the same identity; the old certificate lives on until it expires."""
        identity, now = caller(), self._with.clock()
        issued = self._with.authority.issue(request.csr_pem, identity, now, self._with.device_days)
        await self._with.database.write(lambda session: access.add_certificate(session, identity, issued))
        log.info("device %s renewed its certificate", identity.name)
        return enrollment_pb2.RenewResponse(certificate_pem=issued.certificate_pem, ca_pem=self._with.authority.pem)
