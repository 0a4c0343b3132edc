"""UUID version 7 (RFC 9562): event ids that sort by time. Random ones for the daemon, derived ones for `replay`."""

import hashlib
import secrets
import uuid

_VERSION = 7
_VARIANT = 0b10


def uuid7(ts: float) -> str:
    """Return a random id for an event that began at `ts` (Unix seconds)."""
    return _compose(ts, secrets.randbits(74))


def derived_uuid7(ts: float, *parts: str) -> str:
    """Return the id that `ts` and `parts` always give: `replay` runs twice and prints the same."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return _compose(ts, int.from_bytes(digest[:10], "big") & ((1 << 74) - 1))


def _compose(ts: float, random_74: int) -> str:
    milliseconds = max(0, int(ts * 1000)) & ((1 << 48) - 1)
    high, low = random_74 >> 62, random_74 & ((1 << 62) - 1)
    return str(uuid.UUID(int=milliseconds << 80 | _VERSION << 76 | high << 64 | _VARIANT << 62 | low))
