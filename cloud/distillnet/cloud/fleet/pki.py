"""The fleet's own certificate authority: who is who on every connection.

EC P-256 throughout (every TLS stack on a board speaks it). A certificate names its holder by one URI only, see
`distillnet.proto.identity`. Called by the server at start and by enrolment and renewal.
"""

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from distillnet.cloud.fleet.errors import Code, FleetError, RefusedError
from distillnet.cloud.fleet.files import write_private
from distillnet.proto.identity import Identity

_CA_DAYS = 3650
_BACKDATED = datetime.timedelta(hours=1)  # boards whose clock is a little behind
_EVER = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""Since when the CA and the server are valid: boards without a clock battery wake in 1970. Boards' own certificates
begin when they were made, which tells such a board how late it is at least."""


@dataclass(frozen=True)
class Issued:
    """A certificate just made. `serial` is hex; `not_after_ts` Unix seconds."""

    certificate_pem: bytes
    serial: str
    not_after_ts: float


@dataclass(frozen=True)
class Bundle:
    """A key and its certificate, PEM."""

    key_pem: bytes
    certificate_pem: bytes


class Authority:
    """Signs the certificates of the server, of boards and of people."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, directory: Path, now: float) -> "Authority":
        """Load the authority in `directory`, or make a new one there.

        Raises:
            FleetError: the files are there but not readable, or have expired.

        """
        key_path, certificate_path = directory / "ca-key.pem", directory / "ca.pem"
        if not key_path.exists() and not certificate_path.exists():
            key, certificate = _make_authority(_time(now))
            write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
            write_private(key_path, key_pem(key))
        try:
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except (OSError, ValueError, TypeError) as exc:
            raise FleetError(f"{directory}: the certificate authority cannot be read: {exc}") from exc
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise FleetError(f"{key_path}: expected an EC key")
        if certificate.not_valid_after_utc <= _time(now):
            raise FleetError(f"{certificate_path}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
        return cls(loaded, certificate)

    @property
    def pem(self) -> bytes:
        """The CA certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the CA certificate's DER: what an enrolment token pins."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).digest()

    def issue(self, csr_pem: bytes, identity: Identity, now: float, days: float) -> Issued:
        """Sign a request's public key for `identity`; nothing else of the request is used.

        Raises:
            RefusedError: the request is malformed, not signed by its key, or its key is not EC P-256 or better.

        """
        public_key = requested_key(csr_pem)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        # Brokers see the common name only: no person or script can have a device's.
        common_name = identity.name if identity.role == "device" else f"{identity.role}:{identity.name}"
        return self._sign(public_key, common_name, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)

    def issue_bundle(self, identity: Identity, now: float, days: float) -> tuple[Bundle, Issued]:
        """Make a key and a certificate for `identity`."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.issue(request_for(key), identity, now, days)
        return Bundle(key_pem(key), issued.certificate_pem), issued

    def server_bundle(self, directory: Path, names: list[str], now: float, days: float) -> Bundle:
        """Return the server's key and chain (leaf, CA); made anew for new names, or for the last third of its life."""
        key_path, chain_path = directory / "server-key.pem", directory / "server.pem"
        if not _serves(chain_path, self._certificate, names, _time(now), days):
            key = ec.generate_private_key(ec.SECP256R1())
            general = [_general_name(name) for name in names]
            issued = self._sign(key.public_key(), names[0], general, ExtendedKeyUsageOID.SERVER_AUTH, now, days)
            write_private(key_path, key_pem(key))
            write_private(chain_path, issued.certificate_pem + self.pem)
        return Bundle(key_path.read_bytes(), chain_path.read_bytes())

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: float,
        days: float,
    ) -> Issued:
        start = _time(now)
        end = min(start + datetime.timedelta(days=days), self._certificate.not_valid_after_utc)
        serial = x509.random_serial_number()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(_EVER if usage == ExtendedKeyUsageOID.SERVER_AUTH else start - _BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Issued(pem, f"{serial:x}", end.timestamp())


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key a certificate request asks for.

    Raises:
        RefusedError: the request is malformed, not signed by its key, or its key is not EC P-256 or better.

    """
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        public_key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise RefusedError(Code.INVALID_ARGUMENT, f"the certificate request is not readable: {exc}") from exc
    if not valid or not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.key_size < 256:
        raise RefusedError(
            Code.INVALID_ARGUMENT, "the certificate request must be signed by its own EC key, P-256 or larger"
        )
    return public_key


def key_hash(csr_pem: bytes) -> str:
    """Hex SHA-256 of the public key a certificate request asks for; errors as `requested_key`."""
    der = requested_key(csr_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate request (PEM) for a key."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def holder(certificate_pem: bytes) -> tuple[str, str]:
    """Return (serial in hex, identity URI) of a client certificate that TLS has already verified.

    Raises:
        RefusedError: it names nobody, or more than one.

    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1:
        raise RefusedError(Code.UNAUTHENTICATED, "the client certificate must carry exactly one distillnet:// identity")
    return f"{certificate.serial_number:x}", uris[0]


def _make_authority(now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Distill-Net fleet CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EVER)
        .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _serves(
    chain_path: Path, authority: x509.Certificate, names: list[str], now: datetime.datetime, days: float
) -> bool:
    if not chain_path.exists():
        return False
    leaf, *rest = x509.load_pem_x509_certificates(chain_path.read_bytes())
    held = set(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    lasts = leaf.not_valid_after_utc - now > datetime.timedelta(days=days / 3)
    return lasts and rest == [authority] and {_general_name(name) for name in names} <= held


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
