"""TUF signing keys as files: Ed25519, PKCS#8 PEM, mode 0600.

`DIR/keys/targets.pem`, `snapshot.pem` and `timestamp.pem` sign while the service runs; `DIR/keys/offline/root-*.pem`
are needed again only to rotate keys, and belong on another medium.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from distillnet.cloud.fleet.errors import FleetError
from distillnet.cloud.fleet.files import write_private
from distillnet.cloud.fleet.repository import ONLINE_ROLES


def open_online(directory: Path) -> dict[str, Signer]:
    """Load the online roles' signers, made here the first time.

    Raises:
        FleetError: a key cannot be read.

    """
    return {role: _open(directory / f"{role}.pem") for role in ONLINE_ROLES}


def open_roots(directories: Sequence[Path]) -> list[CryptoSigner]:
    """Load the root keys that lie in directories (or are the files named).

    Raises:
        FleetError: there is none, or one cannot be read.

    """
    paths = [path for place in directories for path in (sorted(place.glob("root*.pem")) if place.is_dir() else [place])]
    if not paths or not all(path.exists() for path in paths):
        raise FleetError(f"no root key in {', '.join(map(str, directories))}: bring the medium they are kept on")
    return [_open(path) for path in paths]


def make_roots(directory: Path, count: int) -> list[CryptoSigner]:
    """Make root keys `offline/root-1.pem`, …; those that are there already are loaded."""
    return [_open(directory / "offline" / f"root-{number}.pem") for number in range(1, count + 1)]


def replace_online(directory: Path, role: str) -> CryptoSigner:
    """Put a new key in an online role's place; the old one is kept as `<role>.old.pem`."""
    path = directory / f"{role}.pem"
    if path.exists():
        write_private(directory / f"{role}.old.pem", path.read_bytes())
    write_private(path, CryptoSigner.generate_ed25519().private_bytes)
    return _open(path)


def replace_roots(directory: Path, count: int) -> list[CryptoSigner]:
    """Make new root keys in `offline/`, under names not used yet."""
    offline = directory / "offline"
    used = {path.stem for path in offline.glob("root-*.pem")}
    free = (number for number in itertools.count(1) if f"root-{number}" not in used)
    return [_open(offline / f"root-{number}.pem") for number in itertools.islice(free, count)]


def _open(path: Path) -> CryptoSigner:
    if not path.exists():
        write_private(path, CryptoSigner.generate_ed25519().private_bytes)
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError) as exc:
        raise FleetError(f"{path}: the signing key cannot be read: {exc}") from exc
