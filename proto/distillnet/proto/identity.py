"""Who is who between a board and the cloud: certificate identities and enrolment tokens.

A certificate carries exactly one URI, `distillnet://<role>/<name>`; nothing else in it or in a message says who calls.
A token is `dn1_` and base64url(32 bytes SHA-256 of the CA certificate's DER ‖ 24 random bytes). A board connects to
the enrolment port, takes from the server's chain (leaf, then CA) the certificate with that digest, and trusts only it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

Role = Literal["device", "viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_SCHEME = "distillnet://"
_TOKEN_PREFIX = "dn1_"
_DIGEST_BYTES = 32
_SECRET_BYTES = 24


class IdentityError(ValueError):
    """A token or a certificate identity is malformed; the message says how."""


@dataclass(frozen=True)
class Identity:
    """A caller: what it may do follows from `role`, what is its own from `name`."""

    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The URI in the certificate's subject alternative name."""
        return f"{_SCHEME}{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a certificate's URI.

        Raises:
            IdentityError: not `distillnet://<role>/<name>` with a known role and a valid name.

        """
        role, slash, name = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not slash or role not in ROLES or not NAME_PATTERN.fullmatch(name):
            raise IdentityError(f"{uri!r} is no identity: expected {_SCHEME}<{'|'.join(ROLES)}>/<name>")
        return cls(role=role, name=name)


@dataclass(frozen=True)
class EnrollmentToken:
    """What a new board is given once: which CA to trust, and a secret that proves it may enrol."""

    ca_sha256: bytes
    secret: bytes

    def encode(self) -> str:
        """Return the text a person copies; 79 characters, no spaces."""
        return _TOKEN_PREFIX + base64.urlsafe_b64encode(self.ca_sha256 + self.secret).decode().rstrip("=")

    @property
    def secret_hash(self) -> str:
        """What the cloud stores instead of the token: hex SHA-256 of the secret."""
        return hashlib.sha256(self.secret).hexdigest()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a token.

        Raises:
            IdentityError: not a token, or one cut short.

        """
        text = text.strip()
        body = text.removeprefix(_TOKEN_PREFIX)
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except ValueError as exc:
            raise IdentityError("the enrolment token is not readable: copy all of it") from exc
        if not text.startswith(_TOKEN_PREFIX) or len(raw) != _DIGEST_BYTES + _SECRET_BYTES:
            raise IdentityError(
                f"an enrolment token is {_TOKEN_PREFIX!r} and {_DIGEST_BYTES + _SECRET_BYTES} bytes of base64url; "
                f"got {len(raw)} bytes: copy all of it"
            )
        return cls(ca_sha256=raw[:_DIGEST_BYTES], secret=raw[_DIGEST_BYTES:])
