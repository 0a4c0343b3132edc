"""LiteRT behind the engine's interface: the fallback for models with operators the native engine does not know."""

from importlib.metadata import version
from typing import Any

import numpy as np

from distillnet.engine.backend import TOLERANCE_STEPS, ModelError, Tensor, check_tensor
from distillnet.engine.preprocess import Frame, Preparation


class LiteRTModel:
    """One interpreter. `reference=True` runs LiteRT's reference kernels, the definition of correct."""

    def __init__(
        self, data: bytes, *, threads: int = 1, reason: str = "", reference: bool = False, delegate: str = ""
    ) -> None:
        """Load from bytes; `delegate` is the library of an accelerator that takes what it can.

        Raises:
            ModelError: LiteRT is not installed or refuses the file.

        """
        interpreter = _interpreter_module()
        options: dict[str, Any] = {"model_content": data, "num_threads": threads}
        if reference:
            options["experimental_op_resolver_type"] = interpreter.OpResolverType.BUILTIN_REF
        try:
            if delegate:
                options["experimental_delegates"] = [interpreter.load_delegate(delegate)]
            self._interpreter = interpreter.Interpreter(**options)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            raise ModelError(f"LiteRT refuses the file: {exc}") from exc
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self._threads = threads
        self._reason = reason
        self._kernels = f"delegate {delegate}" if delegate else "reference" if reference else "xnnpack"
        self._tolerance_steps = TOLERANCE_STEPS if delegate else 0

    @property
    def info(self) -> dict[str, Any]:
        """See `distillnet.engine.Model.info`."""
        return {
            "engine": "litert",
            "kernels": self._kernels,
            "threads": self._threads,
            "arena_bytes": 0,
            "weights_bytes": 0,
            "input": _describe(self._input),
            "output": _describe(self._output),
            "reason": self._reason,
            "tolerance_steps": self._tolerance_steps,
        }

    def run_tensor(self, x: Tensor) -> Tensor:
        """See `distillnet.engine.Model.run_tensor`."""
        check_tensor(x, tuple(int(n) for n in self._input["shape"]), np.dtype(self._input["dtype"]))
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        output: Tensor = self._interpreter.get_tensor(self._output["index"])
        return output

    def look(self, frame: Frame, preparation: Preparation) -> tuple[list[list[float]], float, float]:
        """See `distillnet.engine.Model.look`."""
        return preparation.run_zones(frame, self.run_tensor)

    def profile(self) -> list[dict[str, Any]]:
        """LiteRT's Python interface does not tell."""
        return []


def litert_version() -> str:
    """Name and version of the LiteRT in use.

    Raises:
        ModelError: none is installed.

    """
    module = _interpreter_module().__name__.split(".")[0].replace("_", "-")
    return f"{module} {version(module)}"


def _interpreter_module() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter
        except ImportError as exc:
            raise ModelError(
                "LiteRT is not installed: pip install ai-edge-litert (or tflite-runtime on armv7l)"
            ) from exc
    return interpreter


def _describe(detail: dict[str, Any]) -> dict[str, Any]:
    scale, zero_point = detail["quantization"]
    return {
        "shape": tuple(int(n) for n in detail["shape"]),
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }
