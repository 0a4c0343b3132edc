"""The cloud: distillation, signed repository, fleet services. torch loads only when `distill` is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillnet.cloud.pipeline import distill

__all__ = ["distill"]


def __getattr__(name: str) -> Any:
    if name == "distill":
        from distillnet.cloud import host

        host.prepare()
        from distillnet.cloud.pipeline import distill

        return distill
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
