"""What all sound sources read: chunks of a tenth of a second, mono float32."""

from dataclasses import dataclass
from typing import Protocol

from distillnet.engine.log_mel import Samples

CHUNK_S = 0.1
RING_S = 10.0
"""How long the reader of a live source may be away before samples are lost (and counted)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of sound as read."""

    samples: Samples
    rate_hz: int
    position_s: float
    """Of the first sample, on the source's own clock."""
    decode_ms: float
    lost: int = 0
    """Samples lost just before it."""


class SoundReader(Protocol):
    """An open sound source."""

    def read(self) -> Piece | None:
        """Return the next chunk, blocking until it is there; None = the end, or the stream broke."""

    def close(self) -> None:
        """Release the file or device."""
