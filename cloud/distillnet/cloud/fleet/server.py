"""Wires the fleet service together and runs it until told to stop. Nothing imports this but the command."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from obstore.exceptions import BaseError
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import access, devices, feedback_service, keys, pki, schema, telemetry
from distillnet.cloud.fleet.admin import Administration, AdminService
from distillnet.cloud.fleet.artifacts import ArtifactsService
from distillnet.cloud.fleet.authorise import Authorise, Translate
from distillnet.cloud.fleet.calls import Calls
from distillnet.cloud.fleet.conductor import Conductor
from distillnet.cloud.fleet.config import ServeConfig
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.enrollment import EnrollmentService, Enrolment, FailureLimit, RenewalService
from distillnet.cloud.fleet.errors import FleetError, RefusedError
from distillnet.cloud.fleet.feedback_service import FeedbackService
from distillnet.cloud.fleet.files import write_private
from distillnet.cloud.fleet.hub import Hub
from distillnet.cloud.fleet.intake import Intake
from distillnet.cloud.fleet.pki import Authority, Bundle
from distillnet.cloud.fleet.place import held, open_store
from distillnet.cloud.fleet.publish import LOCK, Publisher
from distillnet.cloud.fleet.repository import Repository
from distillnet.cloud.fleet.streams import FleetService
from distillnet.cloud.fleet.turns import Turns
from distillnet.cloud.fleet.web.app import Dashboard, Sources
from distillnet.cloud.fleet.workbench import Workbench
from distillnet.proto.identity import Identity
from distillnet.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifacts_pb2_grpc,
    enrollment_pb2_grpc,
    feedback_pb2_grpc,
    fleet_pb2_grpc,
)

log = logging.getLogger(__name__)

_ADMIN = Identity("admin", "admin")
_ADMIN_DAYS = 825.0
_GRACE_S = 1.5
_UPKEEP_S = 600.0
_MESSAGE_BYTES = 1 << 20
_ENROL_MESSAGE_BYTES = 64 << 10
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]
_SERVICES = ("Fleet", "Artifacts", "Admin", "Renewal", "Feedback")


@dataclass(frozen=True)
class Ready:
    """Where a started service is found."""

    port: int
    enroll_port: int
    data: Path
    admin: Path
    web_port: int | None = None


def run(config: ServeConfig, data: Path, announce: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called once when everything answers.

    Raises:
        FleetError: the data directory, the database or a port cannot be used.

    """
    with held(data):
        service = _open(config, data)
        try:
            asyncio.run(_serve(service, announce))
        finally:
            service.database.close()


@dataclass(frozen=True)
class _Service:
    config: ServeConfig
    data: Path
    database: Database
    store: Any
    authority: Authority
    certificate: Bundle
    repository: Repository
    publisher: Publisher
    instance: str


def _open(config: ServeConfig, data: Path) -> _Service:
    """Open everything on disk, making at the first start what is not there."""
    now = time.time()
    try:
        authority = Authority.open(data / "pki", now)
        certificate = authority.server_bundle(data / "pki", _names(config), now, config.trust.server_days)
        signers = keys.open_online(data / "keys")
        store = open_store(config.storage.objects, data)
        instance = _instance(data / "instance")
    except OSError as exc:
        raise FleetError(f"{exc.filename or data}: cannot be used: {exc.strerror}") from exc
    repository = Repository(store, signers, config.trust)
    database = Database(config.storage.database or f"sqlite:///{(data / 'fleet.db').absolute()}")
    with database.exclusive("schema"):
        schema.migrate(database.engine)
    publisher = Publisher(database, repository)
    try:
        repository.exists()
    except BaseError as exc:
        where = config.storage.objects or data / "objects"
        raise FleetError(f"the object store {where} cannot be used: {str(exc).splitlines()[0]}") from exc
    with database.exclusive(LOCK):
        if not repository.exists():
            repository.create(keys.make_roots(data / "keys", 1), 1, now)
    repository.check_signers()
    publisher.recover()
    publisher.refresh()
    database.write_now(lambda session: devices.gone(session, instance, None))
    return _Service(config, data, database, store, authority, certificate, repository, publisher, instance)


async def _serve(service: _Service, announce: Callable[[Ready], None]) -> None:
    fleet = service.config.fleet
    hub = Hub(service.database, service.instance, heartbeat_s=fleet.heartbeat_s, poll_s=fleet.poll_s, clock=time.time)
    checks = health.aio.HealthServicer()
    intake = Intake(service.config.mqtt, service.database, service.instance) if service.config.mqtt.host else None
    calls = Calls()
    web_ports: list[int] = []
    server, port = _fleet_server(service, hub, checks, calls, web_ports)
    enrol_server, enroll_port = _enrol_server(service, checks, port)
    admin = _admin_bundle(service, port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    await enrol_server.start()
    conductor = Conductor(service.database, service.publisher, hub, time.time)
    workbench = _workbench(service)
    work = {"hub": hub.run(), "conductor": conductor.run(), "jobs": workbench.run(), "upkeep": _upkeep(service)}
    tasks = [asyncio.create_task(job, name=name) for name, job in work.items()]
    for name in _SERVICES:
        await checks.set(f"distillnet.v1.{name}", health_pb2.HealthCheckResponse.SERVING)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    if intake is not None:
        intake.start()
    dashboard = Dashboard(Sources(service.database, hub, calls, intake, time.time))
    if service.config.listen.web_port is not None:
        web_ports.append(await _open_dashboard(service, dashboard))
    announce(Ready(port, enroll_port, service.data, admin, web_ports[0] if web_ports else None))
    await stop.wait()
    log.info("stopping: %d streams are told to come back", len(hub))
    await checks.enter_graceful_shutdown()
    hub.drain()
    await asyncio.gather(server.stop(_GRACE_S), enrol_server.stop(_GRACE_S), dashboard.stop())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await hub.flush()
    if intake is not None:
        await asyncio.to_thread(intake.stop)


def _workbench(service: _Service) -> Workbench:
    config = service.config.jobs
    directory = config.directory or service.data.absolute() / "jobs"
    return Workbench(config, service.database, service.store, directory, service.instance, time.time)


def _fleet_server(service: _Service, hub: Hub, checks: Any, calls: Calls, web_ports: list[int]) -> tuple[Any, int]:
    listen = service.config.listen
    options = [*_OPTIONS, ("grpc.max_receive_message_length", _MESSAGE_BYTES)]
    server = grpc.aio.server(interceptors=[Authorise(service.database, calls, time.time)], options=options)
    fleet_pb2_grpc.add_FleetServicer_to_server(FleetService(service.database, hub, time.time), server)
    artifacts = ArtifactsService(service.database, service.store, Turns(service.config.fleet.downloads))
    artifacts_pb2_grpc.add_ArtifactsServicer_to_server(artifacts, server)
    enrollment_pb2_grpc.add_RenewalServicer_to_server(RenewalService(_enrolment(service, 0)), server)
    feedback_pb2_grpc.add_FeedbackServicer_to_server(
        FeedbackService(service.config.feedback, service.database, service.store, time.time), server
    )

    def web_address() -> str | None:
        return f"{_reachable(service.config)}:{web_ports[0]}" if web_ports else None

    administration = Administration(
        service.database, service.authority, service.publisher, service.store, hub, time.time, web_address
    )
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(administration), server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = [f"{admin_pb2.DESCRIPTOR.package}.{name}" for name in _SERVICES]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    credentials = grpc.ssl_server_credentials(
        [(service.certificate.key_pem, service.certificate.certificate_pem)],
        root_certificates=service.authority.pem,
        require_client_auth=True,
    )
    return server, _bind(server, listen.host, listen.port, credentials, "port")


def _enrol_server(service: _Service, checks: Any, fleet_port: int) -> tuple[Any, int]:
    listen, fleet = service.config.listen, service.config.fleet
    options = [*_OPTIONS, ("grpc.max_receive_message_length", _ENROL_MESSAGE_BYTES)]
    server = grpc.aio.server(interceptors=[Translate()], options=options)
    enrollment_pb2_grpc.add_EnrollmentServicer_to_server(
        EnrollmentService(_enrolment(service, fleet_port), FailureLimit(fleet.enroll_failures_per_minute)), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    credentials = grpc.ssl_server_credentials([(service.certificate.key_pem, service.certificate.certificate_pem)])
    return server, _bind(server, listen.host, listen.enroll_port, credentials, "enroll_port")


async def _open_dashboard(service: _Service, dashboard: Dashboard) -> int:
    listen, secrets_at = service.config.listen, service.data / "pki"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(secrets_at / "server.pem", secrets_at / "server-key.pem")
    try:
        return await dashboard.start(listen.host, listen.web_port or 0, tls)
    except OSError as exc:
        raise FleetError(f"web_port {listen.host}:{listen.web_port} cannot be opened: {exc.strerror}") from exc


def _enrolment(service: _Service, fleet_port: int) -> Enrolment:
    address = service.config.listen.public_address or f"{_reachable(service.config)}:{fleet_port}"
    return Enrolment(
        service.database,
        service.authority,
        service.repository,
        address,
        service.config.trust.device_days,
        time.time,
    )


def _bind(server: Any, host: str, port: int, credentials: Any, what: str) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = int(server.add_secure_port(address, credentials))
    except RuntimeError:
        bound = 0
    if not bound:
        raise FleetError(f"{what} {address} cannot be opened: it is in use, or not an address of this machine")
    return bound


def _admin_bundle(service: _Service, port: int) -> Path:
    """Write what the command line needs to speak to this service as its admin."""
    directory = service.data / "admin"
    if not (directory / "key.pem").exists() or not _is_good(service, directory / "cert.pem"):
        bundle, issued = service.authority.issue_bundle(_ADMIN, time.time(), _ADMIN_DAYS)
        service.database.write_now(lambda session: access.add_certificate(session, _ADMIN, issued))
        write_private(directory / "cert.pem", bundle.certificate_pem)
        write_private(directory / "key.pem", bundle.key_pem)
    write_private(directory / "ca.pem", service.authority.pem)
    address = {"address": f"{_reachable(service.config)}:{port}", "name": _ADMIN.name}
    write_private(directory / "server.json", json.dumps(address).encode())
    return directory


def _is_good(service: _Service, certificate: Path) -> bool:
    """Whether our own bundle opens this service, and will for a while."""
    serial, uri = pki.holder(certificate.read_bytes())
    later = time.time() + _ADMIN_DAYS * 86400.0 / 3
    try:
        service.database.read_now(lambda session: access.check_certificate(session, serial, Identity.parse(uri), later))
    except RefusedError:
        return False
    return True


async def _upkeep(service: _Service) -> None:
    """Sign ageing metadata anew and let old reports go, for ever."""
    while True:
        await asyncio.sleep(_UPKEEP_S)
        try:
            signed = await asyncio.to_thread(service.publisher.refresh)
            if signed:
                log.info("signed anew: %s", ", ".join(signed))
            await service.database.write(functools.partial(_forget, config=service.config, now=time.time()))
            await asyncio.to_thread(
                feedback_service.forget_old, service.database, service.store, service.config.feedback, time.time()
            )
        except Exception:  # the next round tries again; half a lifetime is left for that
            log.exception("upkeep failed")


def _forget(session: Session, config: ServeConfig, now: float) -> None:
    devices.forget_reports(session, now - config.storage.report_days * 86400.0)
    kept = config.mqtt
    telemetry.retain(
        session, now, raw_days=kept.telemetry_days, hourly_days=kept.hourly_days, event_days=kept.event_days
    )


def _names(config: ServeConfig) -> list[str]:
    wanted = [*config.listen.names, config.listen.host, "localhost", "127.0.0.1", "::1"]
    if config.listen.public_address:
        wanted.insert(0, config.listen.public_address.rpartition(":")[0].strip("[]"))
    if _is_wildcard(config.listen.host):
        wanted.append(socket.gethostname())
    return [name for name in dict.fromkeys(wanted) if not _is_wildcard(name)]


def _reachable(config: ServeConfig) -> str:
    host = config.listen.host
    return (config.listen.names[0] if config.listen.names else "127.0.0.1") if _is_wildcard(host) else host


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _instance(path: Path) -> str:
    """Return this instance's lasting name: who is connected where survives a crash."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    write_private(path, name.encode())
    return name
