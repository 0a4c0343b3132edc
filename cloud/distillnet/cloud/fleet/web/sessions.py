"""Who is signed in. No passwords: a link made over mTLS signs its maker in once; a cookie keeps it for a while.

Plain functions of a database session, so that any instance knows what another one let in.
"""

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Session

from distillnet.cloud.fleet.database import WebSession
from distillnet.proto.identity import Identity, Role

CODE_S = 300.0
COOKIE_S = 12 * 3600.0


@dataclass(frozen=True)
class SignedIn:
    """A visitor. `form_token` goes with every change, so that no other page can make one."""

    identity: Identity
    form_token: str


def make_code(session: Session, identity: Identity, now: float) -> str:
    """Return a one-time code for a sign-in link."""
    session.execute(delete(WebSession).where(WebSession.expires_ts < now))
    return _add(session, "code", identity, now + CODE_S)


def sign_in(session: Session, code: str, now: float) -> str | None:
    """Spend a code; returns the cookie, or None when it is unknown, spent or old."""
    row = session.get(WebSession, _hash(code), with_for_update=True)
    if row is None or row.kind != "code" or row.expires_ts <= now:
        return None
    session.delete(row)
    return _add(session, "cookie", _identity(row), now + COOKIE_S)


def find(session: Session, cookie: str, now: float) -> SignedIn | None:
    """Who a cookie belongs to."""
    row = session.get(WebSession, _hash(cookie))
    if row is None or row.kind != "cookie" or row.expires_ts <= now:
        return None
    return SignedIn(_identity(row), _hash(cookie + "/form"))


def sign_out(session: Session, cookie: str) -> None:
    """Forget a cookie."""
    session.execute(delete(WebSession).where(WebSession.token_hash == _hash(cookie)))


def forget(session: Session, name: str) -> None:
    """Sign a person out everywhere."""
    session.execute(delete(WebSession).where(WebSession.name == name))


def _add(session: Session, kind: str, identity: Identity, expires_ts: float) -> str:
    token = secrets.token_urlsafe(32)
    row = WebSession(token_hash=_hash(token), kind=kind, role=identity.role, name=identity.name, expires_ts=expires_ts)
    session.add(row)
    return token


def _identity(row: WebSession) -> Identity:
    role: Role = "admin" if row.role == "admin" else "operator" if row.role == "operator" else "viewer"
    return Identity(role, row.name)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
