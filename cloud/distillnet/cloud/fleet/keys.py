"""TUF signing keys: Ed25519 files, or references to keys that never leave a PKCS#11 token or a key service.

`DIR/keys/targets`, `snapshot` and `timestamp` sign while the service runs; `DIR/keys/offline/root-*` are needed again
only to rotate keys, and belong on another medium. Each is `NAME.pem` (PKCS#8, mode 0600), or `NAME.json`: a URI as
securesystemslib has them (`hsm:…`, `awskms:…`, `gcpkms:…`, `azurekms:…`) with the public key that belongs to it.
"""

import getpass
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlparse

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Signer, SSlibKey

from distillnet.cloud.fleet.errors import FleetError
from distillnet.cloud.fleet.files import write_private
from distillnet.cloud.fleet.repository import ONLINE_ROLES

PIN: Final = "DISTILLNET_PIN"
_PIN_CREDENTIAL: Final = "signing-pin"
_SCHEMES: Final = ("hsm", "awskms", "azurekms", "gcpkms", "hv", "file2")
"""What securesystemslib can sign with."""


def open_online(directory: Path) -> dict[str, Signer]:
    """Load the online roles' signers, made here the first time.

    Raises:
        FleetError: a key cannot be read.

    """
    return {role: _open(directory / role) for role in ONLINE_ROLES}


def open_roots(directories: Sequence[Path]) -> list[Signer]:
    """Load the root keys that lie in directories (or are the files named).

    Raises:
        FleetError: there is none, or one cannot be read.

    """
    paths = [
        path
        for place in directories
        for path in (
            [*sorted(place.glob("root*.pem")), *sorted(place.glob("root*.json"))] if place.is_dir() else [place]
        )
    ]
    if not paths or not all(path.exists() for path in paths):
        raise FleetError(f"no root key in {', '.join(map(str, directories))}: bring the medium they are kept on")
    return [_reference(path) if path.suffix == ".json" else _file(path) for path in paths]


def make_roots(directory: Path, count: int) -> list[Signer]:
    """Make root keys `offline/root-1.pem`, …; those that are there already are loaded."""
    return [_open(directory / "offline" / f"root-{number}") for number in range(1, count + 1)]


def replace_online(directory: Path, role: str, elsewhere: Mapping[str, Any] | None = None) -> Signer:
    """Put a new key in an online role's place, or a reference; the old one is kept as `<role>.old.…`."""
    for suffix in (".pem", ".json"):
        path = directory / f"{role}{suffix}"
        if path.exists():
            write_private(directory / f"{role}.old{suffix}", path.read_bytes())
    return _put(directory / role, elsewhere)


def replace_roots(directory: Path, count: int, elsewhere: Sequence[Mapping[str, Any]] = ()) -> list[Signer]:
    """Make new root keys in `offline/`, under names not used yet: `count` files, or these references."""
    offline = directory / "offline"
    used = {path.stem for path in offline.glob("root-*.*")}
    free = (f"root-{number}" for number in itertools.count(1) if f"root-{number}" not in used)
    if elsewhere:
        return [_put(offline / next(free), reference) for reference in elsewhere]
    return [_put(offline / name, None) for name in itertools.islice(free, count)]


def refer(uri: str, public_key: Path | None = None) -> dict[str, Any]:
    """Return a reference to a key elsewhere. A token tells the public key; of another service's it is given as PEM.

    Raises:
        FleetError: there is no such key, or what is needed to reach it is missing.

    """
    scheme = uri.partition(":")[0]
    if scheme not in _SCHEMES:
        raise FleetError(f"{uri!r} is no key: expected a URI of {', '.join(_SCHEMES)}")
    try:
        if public_key is not None:
            key = SSlibKey.from_crypto(load_pem_public_key(public_key.read_bytes()))
        elif scheme == HSMSigner.SCHEME:
            key = _token_key(uri)
        else:
            raise FleetError(f"{uri}: give its public key, as the key service exports it, with --public-key FILE.pem")
        reference = {"uri": uri, "keyid": key.keyid, "key": key.to_dict()}
        key.verify_signature(_signer(reference).sign(b"distillnet"), b"distillnet")
    except FleetError:
        raise
    except UnsupportedLibraryError as exc:
        raise FleetError(f"{uri}: {exc}; pip install 'distillnet[hsm]' for a token") from exc
    except (OSError, ValueError, UnsupportedAlgorithm) as exc:
        raise FleetError(f"{uri}: {exc}") from exc
    except Exception as exc:  # PKCS#11 libraries and key services have errors of their own
        raise FleetError(f"{uri}: cannot sign: {type(exc).__name__} {exc}".rstrip()) from exc
    return reference


def _token_key(uri: str) -> SSlibKey:
    """Read the public key from the token that `hsm:[ID][?label=LABEL]` names."""
    parsed = urlparse(uri)
    label = dict(parse_qsl(parsed.query)).get("label")
    _, key = HSMSigner.import_(int(parsed.path) if parsed.path else None, label, _pin_for(uri))
    return key


def _put(path: Path, reference: Mapping[str, Any] | None) -> Signer:
    """Store a new key or reference under `path` without its suffix, in place of either."""
    if reference is None:
        path.with_suffix(".json").unlink(missing_ok=True)
        write_private(path.with_suffix(".pem"), CryptoSigner.generate_ed25519().private_bytes)
    else:
        write_private(path.with_suffix(".json"), json.dumps(reference, indent=1).encode())
        path.with_suffix(".pem").unlink(missing_ok=True)
    return _open(path)


def _open(path: Path) -> Signer:
    """Open what is stored under `path` without its suffix; a new file where there is nothing."""
    if path.with_suffix(".json").exists():
        return _reference(path.with_suffix(".json"))
    if not path.with_suffix(".pem").exists():
        write_private(path.with_suffix(".pem"), CryptoSigner.generate_ed25519().private_bytes)
    return _file(path.with_suffix(".pem"))


def _file(path: Path) -> Signer:
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError) as exc:
        raise FleetError(f"{path}: the signing key cannot be read: {exc}") from exc


def _reference(path: Path) -> Signer:
    try:
        return _signer(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise FleetError(f"{path}: the reference to a signing key cannot be read: {exc}") from exc
    except UnsupportedLibraryError as exc:
        raise FleetError(f"{path}: {exc}; pip install 'distillnet[hsm]' for a token") from exc


def _signer(reference: Mapping[str, Any]) -> Signer:
    key = SSlibKey.from_dict(str(reference["keyid"]), dict(reference["key"]))
    return Signer.from_priv_key_uri(str(reference["uri"]), key, _pin_for(str(reference["uri"])))


def _pin_for(uri: str) -> Any:
    def ask(_secret: str) -> str:
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / _PIN_CREDENTIAL
        if PIN in os.environ:
            return os.environ[PIN]
        if credential.is_file():
            return credential.read_text().strip()
        if sys.stdin.isatty():
            return getpass.getpass(f"PIN for {uri}: ")
        raise FleetError(f"{uri} wants a PIN: set {PIN}, or load the systemd credential {_PIN_CREDENTIAL!r}")

    return ask
