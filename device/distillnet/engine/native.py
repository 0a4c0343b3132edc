"""The C engine behind the engine's interface."""

from typing import Any

from distillnet.engine import _engine
from distillnet.engine.backend import Tensor


class UnsupportedError(Exception):
    """The model holds something the native engine does not know; the message names it."""


class NativeModel:
    """One loaded model."""

    def __init__(self, data: bytes, *, threads: int = 1, max_arena_bytes: int = 64 << 20) -> None:
        """Load from bytes.

        Raises:
            UnsupportedError: not for this engine, though perhaps valid.

        """
        raise UnsupportedError(f"engine {_engine.version()}: no operator is supported yet")

    @property
    def info(self) -> dict[str, Any]:
        """See `distillnet.engine.Model.info`."""
        return {}

    def run_tensor(self, x: Tensor) -> Tensor:
        """See `distillnet.engine.Model.run_tensor`."""
        return x

    def profile(self) -> list[dict[str, Any]]:
        """See `distillnet.engine.Model.profile`."""
        return []
