"""The cloud: distillation, signed repository, fleet services. torch loads only when `distill` is asked for."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillnet.cloud.pipeline import distill

__all__ = ["distill"]


def __getattr__(name: str) -> Any:
    if name == "distill":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve everything else when busy
        from distillnet.cloud.pipeline import distill

        return distill
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
