"""Who may enter: one-time tokens, issued certificates, revocation. Plain functions of a database session."""

import secrets
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import Certificate, Device, Token
from distillnet.cloud.fleet.errors import Code, RefusedError
from distillnet.cloud.fleet.pki import Issued
from distillnet.proto.identity import NAME_PATTERN, EnrollmentToken, Identity, IdentityError


def check_name(name: str, what: str) -> None:
    """Raise `RefusedError` unless `name` can be a device, person or application."""
    if not NAME_PATTERN.fullmatch(name):
        raise RefusedError(
            Code.INVALID_ARGUMENT,
            f"{what} {name[:80]!r} must be 1–63 of a–z, 0–9, '-' and '_', starting with a–z or 0–9",
        )


def add_token(
    session: Session, token: EnrollmentToken, device: str, applications: list[str], now: float, ttl_s: float
) -> float:
    """Store a token's hash; returns when it expires."""
    if device:
        check_name(device, "device")
    for application in applications:
        check_name(application, "application")
    expires_ts = now + ttl_s
    session.add(
        Token(
            secret_hash=token.secret_hash,
            device=device,
            applications=applications,
            created_ts=now,
            expires_ts=expires_ts,
        )
    )
    return expires_ts


@dataclass(frozen=True)
class Spent:
    """A token's worth: the device it has enrolled, and whether that name may be in use already."""

    device: str
    applications: list[str]
    replaces: bool


def use_token(session: Session, text: str, ca_sha256: bytes, device: str, key_hash: str, now: float) -> Spent:
    """Spend a token for `device` ("" = let us choose); it opens nothing a second time.

    Only to the very key it was spent for it answers again: a board may lose power between our answer and its disk.

    Raises:
        RefusedError: malformed, of another fleet, unknown, expired, spent, or for another device.

    """
    try:
        token = EnrollmentToken.decode(text)
    except IdentityError as exc:
        raise RefusedError(Code.UNAUTHENTICATED, str(exc)) from exc
    if token.ca_sha256 != ca_sha256:
        raise RefusedError(Code.UNAUTHENTICATED, "the enrolment token is of another fleet")
    found = session.get(Token, token.secret_hash, with_for_update=True)
    if found is None:
        raise RefusedError(
            Code.UNAUTHENTICATED, "the enrolment token is unknown: make one with distillnet token create"
        )
    again = found.used_ts is not None
    if again and (found.used_key != key_hash or device not in ("", found.used_by)):
        raise RefusedError(Code.UNAUTHENTICATED, "the enrolment token has been used: it works once")
    if found.expires_ts <= now:
        raise RefusedError(Code.UNAUTHENTICATED, "the enrolment token has expired: make a new one")
    if found.device and device not in ("", found.device):
        raise RefusedError(
            Code.PERMISSION_DENIED, f"the enrolment token is for device {found.device!r}, not {device!r}"
        )
    if not again:
        found.used_by = device or found.device or f"device-{secrets.token_hex(5)}"
        found.used_ts, found.used_key = now, key_hash
    return Spent(found.used_by, list(found.applications), again or bool(found.device))


def add_certificate(session: Session, identity: Identity, issued: Issued) -> None:
    """Remember a certificate: only remembered ones are let in."""
    session.add(
        Certificate(serial=issued.serial, role=identity.role, name=identity.name, not_after_ts=issued.not_after_ts)
    )


def revoke_certificates(session: Session, identity: Identity | None, name: str, now: float) -> int:
    """Revoke every certificate of a device (`identity` given), or of a person by `name`; returns how many."""
    change = update(Certificate).where(Certificate.name == name, Certificate.revoked_ts.is_(None))
    if identity is not None:
        change = change.where(Certificate.role == identity.role)
    else:
        change = change.where(Certificate.role != "device")
    return int(session.execute(change.values(revoked_ts=now)).rowcount)  # type: ignore[attr-defined]


def check_certificate(session: Session, serial: str, identity: Identity, now: float) -> None:
    """Let a certificate in.

    Raises:
        RefusedError: unknown, revoked, expired, not this identity's, or its device is revoked.

    """
    found = session.execute(
        select(Certificate.role, Certificate.name, Certificate.not_after_ts, Certificate.revoked_ts, Device.revoked_ts)
        .outerjoin(Device, (Device.id == Certificate.name) & (Certificate.role == "device"))
        .where(Certificate.serial == serial)
    ).one_or_none()
    if found is None:
        raise RefusedError(Code.UNAUTHENTICATED, "the client certificate is not known here: enrol again")
    role, name, not_after_ts, revoked_ts, device_revoked_ts = found
    if (role, name) != (identity.role, identity.name):
        raise RefusedError(Code.UNAUTHENTICATED, "the client certificate was issued to somebody else")
    if revoked_ts is not None or device_revoked_ts is not None:
        raise RefusedError(Code.PERMISSION_DENIED, f"{identity.role} {identity.name!r} has been revoked")
    if not_after_ts <= now:
        raise RefusedError(Code.UNAUTHENTICATED, "the client certificate has expired: enrol again")
