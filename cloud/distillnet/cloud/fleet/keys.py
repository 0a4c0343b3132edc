"""TUF signing keys as files: Ed25519, PKCS#8 PEM, mode 0600.

`DIR/keys/targets.pem`, `snapshot.pem` and `timestamp.pem` sign while the service runs; `DIR/keys/offline/root.pem` is
needed again only to rotate keys, and belongs on another medium.
"""

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


def make_root(directory: Path) -> CryptoSigner:
    """Load, or make, the offline root key.

    Raises:
        FleetError: it cannot be read.

    """
    return _open(directory / "offline" / "root.pem")


def _open(path: Path) -> CryptoSigner:
    if not path.exists():
        write_private(path, CryptoSigner.generate_ed25519().private_bytes)
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError) as exc:
        raise FleetError(f"{path}: the signing key cannot be read: {exc}") from exc
