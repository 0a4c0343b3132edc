"""Who this board is to the fleet: a key made here that never leaves, and the certificate the cloud gave for it.

All of it is one file, `state_dir/identity/identity.json` (0600), so that enrolment and renewal are one rename each;
a key that is elsewhere (`keys.py`) is named in it.
"""

import base64
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from distillnet.device.update import keys
from distillnet.device.update.errors import UpdateError
from distillnet.device.update.files import Files

FILE = "identity/identity.json"
PENDING = "identity/pending.key"
_RENEW_SHARE = 1 / 3


class IdentityFileError(UpdateError):
    """The identity is there but cannot be used; says what to do."""


@dataclass(frozen=True)
class DeviceIdentity:
    """What a board needs to speak to its fleet. All PEM, except `tuf_root`: signed root metadata, JSON bytes.

    `key_place` says where the key is (`keys.py`); `key_pem` is empty where it cannot be read.
    """

    device: str
    key_pem: bytes
    certificate_pem: bytes
    ca_pem: bytes
    tuf_root: bytes
    fleet_address: str
    key_place: str = keys.IN_FILE

    @property
    def valid_until(self) -> datetime.datetime:
        """When the certificate ends, UTC."""
        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc

    def renewal_due(self, now: float) -> bool:
        """Whether less than a third of the certificate's life is left; False where the clock is before its start."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return now > start and end - now < (end - start) * _RENEW_SHARE


def load_identity(state_dir: Path) -> DeviceIdentity | None:
    """Return the board's identity; None if it has not enrolled.

    Raises:
        IdentityFileError: it cannot be read; says what to do.

    """
    path = state_dir / FILE
    try:
        document = json.loads(path.read_bytes())
        place = str(document.get("key_place", keys.IN_FILE))
        identity = DeviceIdentity(
            device=str(document["device"]),
            key_pem=document["key_pem"].encode() if place == keys.IN_FILE else readable_pem(place),
            certificate_pem=document["certificate_pem"].encode(),
            ca_pem=document["ca_pem"].encode(),
            tuf_root=base64.b64decode(document["tuf_root"], validate=True),
            fleet_address=str(document["fleet_address"]),
            key_place=place,
        )
        x509.load_pem_x509_certificate(identity.certificate_pem)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise IdentityFileError(f"{path}: is not readable ({exc}); enrol this board again") from exc
    return identity


def save_identity(state_dir: Path, identity: DeviceIdentity, files: Files | None = None) -> Path:
    """Store the identity, whole or not at all, readable by its owner only."""
    files = files or Files()
    path = state_dir / FILE
    document = {
        "device": identity.device,
        **({"key_pem": identity.key_pem.decode()} if identity.key_place == keys.IN_FILE else {}),
        "key_place": identity.key_place,
        "certificate_pem": identity.certificate_pem.decode(),
        "ca_pem": identity.ca_pem.decode(),
        "tuf_root": base64.b64encode(identity.tuf_root).decode(),
        "fleet_address": identity.fleet_address,
    }
    files.make_directory(path.parent, 0o700)
    files.replace(path, json.dumps(document, indent=1).encode(), 0o600)
    files.remove(state_dir / PENDING)
    return path


def pending_key(state_dir: Path, files: Files | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the key to enrol with: a new EC P-256 key, or the one of an enrolment that was interrupted."""
    files = files or Files()
    path = state_dir / PENDING
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except (FileNotFoundError, ValueError):
        pass
    fresh = new_key()
    files.make_directory(path.parent, 0o700)
    files.replace(path, key_pem(fresh), 0o600)
    return fresh


def readable_pem(place: str) -> bytes:
    """Return the PEM of a key that is elsewhere; nothing where it cannot be read."""
    return key_pem(keys.load_key(place)) if place.startswith("credential:") else b""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make an EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Return a signed certificate request, PEM. The cloud takes only the public key from it."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name or "unnamed")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def check_pair(key: ec.EllipticCurvePrivateKey, certificate_pem: bytes) -> None:
    """Raise `UpdateError` unless the certificate is for this key."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as exc:
        raise UpdateError(f"the cloud sent no certificate: {exc}") from exc
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise UpdateError("the cloud sent a certificate for another key")
