"""One interface over two engines, and the choice between them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from distillnet.engine.preprocess import Frame, Preparation

log = logging.getLogger(__name__)

Backend = str
"""auto | native | litert, or an accelerator: see `distillnet.engine.accelerators`."""
TOLERANCE_STEPS = 4
"""By how many steps of an int8 output an accelerator may differ from a golden vector: they round otherwise."""
Zone = tuple[float, float, float, float]
Tensor = NDArray[Any]


class ModelError(Exception):
    """A model cannot be loaded or run; the message says where in the file and why."""


class Model(Protocol):
    """A loaded model. One thread at a time; load one per thread."""

    @property
    def info(self) -> dict[str, Any]:
        """`engine` ("native" | "litert" | "onnxruntime"), `kernels`, `threads`, `arena_bytes`, `weights_bytes`, and for
        `input` and `output`: `shape`, `dtype`, `scale`, `zero_point`; `reason` says why it is not the native engine,
        `tolerance_steps` (0 where missing) how far outputs may be from golden vectors.
        """

    def run_tensor(self, x: Tensor) -> Tensor:
        """Run on a tensor of exactly the input's shape and dtype; returns a new array of the output's.

        Raises:
            ModelError: wrong shape or dtype.

        """

    def look(self, frame: "Frame", preparation: "Preparation") -> tuple[list[list[float]], float, float]:
        """Run on all zones of a frame in one call.

        Args:
            frame: `contiguous`, of the size `preparation` is for.
            preparation: zones, how they become tensors, and outputs scores.

        Returns:
            K+1 scores of each zone, and what preparing and running took, milliseconds of all zones together.

        Raises:
            ModelError: a zone outside the frame, or too large.

        """

    def profile(self) -> list[dict[str, Any]]:
        """Per-layer figures of the last run: `index`, `op`, `ms`, `macs`; empty where the engine cannot tell."""


def check_engine(engine: Backend) -> Backend:
    """Return the name of an engine as it is; raises ValueError, with the names there are, when it is none."""
    if engine in ("auto", "native", "litert"):
        return engine
    from distillnet.engine import accelerators

    return accelerators.check(engine)


def load(
    source: str | Path | bytes, engine: Backend = "auto", *, threads: int = 1, max_arena_bytes: int = 64 << 20
) -> Model:
    """Load a `.tflite` from a path or from bytes; anything appended to the flatbuffer is ignored.

    Raises:
        ModelError: unreadable, malformed, larger than allowed, (with `engine="native"`) not supported natively, or an
            accelerator that is not there.

    """
    data = _read(source)
    if engine not in ("auto", "native", "litert"):
        from distillnet.engine import accelerators  # and with it the optional libraries

        return accelerators.load(
            data, engine, threads=threads, describe=lambda: load(data, max_arena_bytes=max_arena_bytes)
        )
    if engine != "litert":
        from distillnet.engine import native  # the extension is optional only for `engine="litert"`

        try:
            return native.NativeModel(data, threads=threads, max_arena_bytes=max_arena_bytes)
        except native.UnsupportedError as exc:
            if engine == "native":
                raise ModelError(str(exc)) from exc
            log.warning("not run by the native engine, falling back to LiteRT: %s", exc)
            reason = str(exc)
    else:
        reason = "asked for"
    from distillnet.engine.litert import LiteRTModel

    return LiteRTModel(data, threads=threads, reason=reason)


def _read(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as exc:
        raise ModelError(f"{source}: cannot be read: {exc.strerror}") from exc


def check_tensor(x: Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise `ModelError` unless `x` is exactly what the model wants."""
    if x.shape != shape or x.dtype != dtype:
        raise ModelError(f"input must be {dtype} {shape}; got {x.dtype} {x.shape}")
