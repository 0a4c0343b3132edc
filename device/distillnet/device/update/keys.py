"""Where a board's private key is: beside its certificate, in a systemd credential, or on a PKCS#11 token such as a TPM.

file                                 made at enrolment, in the identity file (0600), another one at every renewal
credential:NAME                      PEM that systemd puts into $CREDENTIALS_DIRECTORY, sealed to the TPM if wanted
pkcs11:token=T;object=O?module-path=/usr/lib/…/libtpm2_pkcs11.so.1&pin-source=NAME
RFC 7512; made on the token where it is not there yet, and never leaves it.
`pin-source` is a file, or the name of a systemd credential
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, unquote

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from distillnet.device.update.errors import UpdateError

IN_FILE: Final = "file"
_CREDENTIAL: Final = "credential:"
_PKCS11: Final = "pkcs11:"
_CAPABILITIES: Final = (0x104, 0x105, 0x106, 0x107, 0x108, 0x109, 0x10A, 0x10C)
"""CKA_ENCRYPT, DECRYPT, WRAP, UNWRAP, SIGN, SIGN_RECOVER, VERIFY, DERIVE."""


class KeyPlaceError(UpdateError):
    """The board's key cannot be reached where it is said to be."""


def check_place(place: str) -> None:
    """Raise `KeyPlaceError` unless `place` is one of the three kinds."""
    if place.startswith(_PKCS11):
        TokenPlace.parse(place)
    elif place != IN_FILE and not (place.startswith(_CREDENTIAL) and place != _CREDENTIAL):
        raise KeyPlaceError(f"{place!r} is no place for a key: expected file, credential:NAME or pkcs11:…")


def load_key(place: str, *, make: bool = False) -> ec.EllipticCurvePrivateKey:
    """Return the key in a credential or on a token; `make` one on a token that has none.

    Raises:
        KeyPlaceError: it is not there, or of another kind; says what to do.

    """
    if place.startswith(_PKCS11):
        return TokenKey.open(TokenPlace.parse(place), make=make)
    path = _credential(place.removeprefix(_CREDENTIAL))
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as exc:
        raise KeyPlaceError(f"{path}: is no private key in PEM: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyPlaceError(
            f"{path}: expected an EC key: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        )
    return key


def channel_credentials(place: str, key_pem: bytes, certificate_pem: bytes, ca_pem: bytes) -> grpc.ChannelCredentials:
    """Return credentials that prove possession of the key: by its PEM, or by signing on the token."""
    if not place.startswith(_PKCS11):
        return grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)
    from grpc import experimental

    wanted = experimental.PrivateKeySignatureAlgorithm.ECDSA_SECP256R1_SHA256
    key = TokenKey.open(TokenPlace.parse(place))

    def sign(data: bytes, algorithm: Any, _done: Callable[[Any], None]) -> bytes:
        if algorithm != wanted:
            raise KeyPlaceError(f"the fleet wants a signature of another kind: {algorithm}")
        return key.sign(bytes(data), ec.ECDSA(SHA256()))

    return experimental.ssl_channel_credentials_with_custom_signer(
        private_key_sign_fn=sign, root_certificates=ca_pem, certificate_chain=certificate_pem
    )


@dataclass(frozen=True)
class TokenPlace:
    """What a pkcs11: URI says."""

    token: str
    label: str
    module: str
    pin_source: str

    @classmethod
    def parse(cls, uri: str) -> "TokenPlace":
        """Read `pkcs11:token=…;object=…?module-path=…[&pin-source=…]`."""
        path, _, query = uri.removeprefix(_PKCS11).partition("?")
        attributes = dict(part.partition("=")[::2] for part in path.split(";") if part)
        options = dict(parse_qsl(query))
        unknown = (set(attributes) - {"token", "object"}) | (set(options) - {"module-path", "pin-source"})
        token, label = unquote(attributes.get("token", "")), unquote(attributes.get("object", ""))
        module = options.get("module-path", "")
        if unknown or not token or not label or not module:
            what = f"unknown {', '.join(sorted(unknown))}" if unknown else "token, object and module-path are needed"
            raise KeyPlaceError(f"{uri!r}: {what}; expected pkcs11:token=T;object=O?module-path=/…/module.so")
        return cls(token, label, module, options.get("pin-source", ""))

    def pin(self) -> str | None:
        """Read the PIN."""
        if not self.pin_source:
            return None
        source = self.pin_source.removeprefix("file:")
        path = Path(source) if source.startswith("/") else _credential(source)
        try:
            return path.read_text().strip()
        except OSError as exc:
            raise KeyPlaceError(f"{path}: the PIN cannot be read: {exc.strerror}") from exc

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[Any]:
        """Open a session; whatever goes wrong inside is a `KeyPlaceError`."""
        try:
            import pkcs11
        except ImportError as exc:
            raise KeyPlaceError("keys on tokens need python-pkcs11: pip install 'distillnet[hsm]'") from exc
        try:
            found = pkcs11.lib(self.module).get_token(token_label=self.token)
            with found.open(user_pin=self.pin(), rw=write) as session:
                yield session
        except KeyPlaceError:
            raise
        except Exception as exc:  # modules raise what they like
            raise KeyPlaceError(f"token {self.token!r}: {type(exc).__name__} {exc}".rstrip()) from exc


class TokenKey(ec.EllipticCurvePrivateKey):
    """An EC P-256 key on a token, as `cryptography` and gRPC use one: it signs, and can be taken nowhere."""

    def __init__(self, place: TokenPlace, public: ec.EllipticCurvePublicKey) -> None:
        """Use `open`."""
        self._place, self._public = place, public

    @classmethod
    def open(cls, place: TokenPlace, *, make: bool = False) -> "TokenKey":
        """Find the key, or make it.

        Raises:
            KeyPlaceError: there is no such token, or no such key on it.

        """
        with place.session(write=make) as session:
            import pkcs11
            from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

            if make and not list(session.get_objects(_named(place, pkcs11.ObjectClass.PRIVATE_KEY))):
                curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
                parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
                # What it may do is left to the token: a TPM refuses to be told.
                left = dict.fromkeys(map(pkcs11.Attribute, _CAPABILITIES), pkcs11.constants.DEFAULT)
                parameters.generate_keypair(
                    label=place.label, id=place.label.encode(), store=True, public_template=left, private_template=left
                )
            found = session.get_key(pkcs11.ObjectClass.PUBLIC_KEY, label=place.label)
            public = serialization.load_der_public_key(encode_ec_public_key(found))
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise KeyPlaceError(f"token {place.token!r}: {place.label!r} is no EC P-256 key")
        return cls(place, public)

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return its public half."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign with SHA-256 on the token; returns DER."""
        if not isinstance(signature_algorithm.algorithm, SHA256):
            raise KeyPlaceError("keys on tokens sign with SHA-256 only")
        with self._place.session() as session:
            import pkcs11

            key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=self._place.label)
            raw = bytes(key.sign(hashlib.sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def exchange(self, *_: Any) -> NoReturn:
        """Refuse."""
        raise KeyPlaceError("a key on a token only signs")

    def private_numbers(self) -> NoReturn:
        """Refuse."""
        raise KeyPlaceError("a key on a token cannot be read")

    def private_bytes(self, *_: Any) -> NoReturn:
        """Refuse."""
        raise KeyPlaceError("a key on a token cannot be read")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        return self


def _named(place: TokenPlace, kind: Any) -> dict[Any, Any]:
    import pkcs11

    return {pkcs11.Attribute.CLASS: kind, pkcs11.Attribute.LABEL: place.label}


def _credential(name: str) -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise KeyPlaceError(f"there is no systemd credential {name!r} here: $CREDENTIALS_DIRECTORY is not set")
    return Path(directory) / name
