"""The C engine behind the engine's interface."""

import os
from typing import Any

import numpy as np

from distillnet.engine import _engine
from distillnet.engine.backend import ModelError, Tensor, check_tensor
from distillnet.engine.preprocess import Frame, Preparation

KERNELS_VARIABLE = "DISTILLNET_KERNELS"


class UnsupportedError(Exception):
    """The model holds something the native engine does not know; the message names it."""


class NativeModel:
    """One loaded model. Threads that share it queue for it; load one per thread to run at the same time."""

    def __init__(
        self, data: bytes, *, threads: int = 1, max_arena_bytes: int = 64 << 20, kernels: str | None = None
    ) -> None:
        """Load from bytes.

        Args:
            data: a `.tflite`; what is appended to the flatbuffer is ignored.
            threads: 1–64, the calling one included.
            max_arena_bytes: refuse models whose activations, or whose packed weights, want more.
            kernels: instruction set to use; None = `$DISTILLNET_KERNELS`, or the best this CPU has.

        Raises:
            UnsupportedError: not for this engine, though perhaps valid.
            ModelError: malformed, or larger than allowed.
            MemoryError: there is none left.

        """
        if kernels is None:
            kernels = os.environ.get(KERNELS_VARIABLE)
        if kernels and kernels not in _engine.kernel_names():
            raise ModelError(
                f"no kernels called {kernels!r} on this machine; it has {', '.join(_engine.kernel_names())}"
            )
        try:
            self._model = _engine.Model(data, threads, max_arena_bytes, kernels)
        except _engine.UnsupportedError as exc:
            raise UnsupportedError(str(exc)) from None
        except _engine.LoadError as exc:
            raise ModelError(str(exc)) from None
        self._info = self._model.info()
        self._input_shape, self._output_shape = self._info["input"]["shape"], self._info["output"]["shape"]
        self._input_dtype = np.dtype(self._info["input"]["dtype"])
        self._output_dtype = np.dtype(self._info["output"]["dtype"])
        self._outputs = int(np.prod(self._output_shape))

    @property
    def info(self) -> dict[str, Any]:
        """See `distillnet.engine.Model.info`."""
        return dict(self._info)

    def run_tensor(self, x: Tensor) -> Tensor:
        """See `distillnet.engine.Model.run_tensor`."""
        check_tensor(x, self._input_shape, self._input_dtype)
        output: Tensor = np.empty(self._output_shape, self._output_dtype)
        self._model.run(np.ascontiguousarray(x), output)
        return output

    def look(self, frame: Frame, preparation: Preparation) -> tuple[list[list[float]], float, float]:
        """See `distillnet.engine.Model.look`."""
        try:
            return self._model.look(frame, preparation.view, self._outputs)
        except ValueError as exc:
            raise ModelError(str(exc)) from None

    def profile(self) -> list[dict[str, Any]]:
        """See `distillnet.engine.Model.profile`."""
        return self._model.profile()
