"""Accelerators behind the engine's interface: delegates of LiteRT, and execution providers of ONNX Runtime.

A spec is what the device file's `engine.backend` may say besides "auto", "native" and "litert":

    edgetpu | gpu | delegate:LIBRARY.so                                 LiteRT with that delegate, on the student itself
    onnxruntime:FILE.onnx | cuda:FILE.onnx | tensorrt:FILE.onnx         ONNX Runtime, on the same network as ONNX

A library that is missing is a `ModelError` that says so; nothing falls back in silence. Accelerators round otherwise
than the engine: golden vectors may differ by `TOLERANCE_STEPS`. No accelerator was ever measured by the project.
"""

import ctypes
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distillnet.engine.backend import TOLERANCE_STEPS, Model, ModelError, Tensor, check_tensor
from distillnet.engine.litert import LiteRTModel
from distillnet.engine.preprocess import Frame, Preparation

DELEGATES = {"edgetpu": "libedgetpu.so.1", "gpu": "libtensorflowlite_gpu_delegate.so"}
PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def check(spec: str) -> str:
    """Return a well-formed spec as it is; whether its library is there is another question.

    Raises:
        ValueError: it is none; says what there is.

    """
    name, colon, rest = spec.partition(":")
    if (name in DELEGATES and not colon) or (name in {"delegate", *PROVIDERS} and rest):
        return spec
    known = ", ".join(
        ["auto, native, litert", *DELEGATES, "delegate:LIBRARY.so", *(f"{p}:FILE.onnx" for p in PROVIDERS)]
    )
    raise ValueError(f"{spec!r} is no engine; there are {known}")


def why_not(spec: str) -> str | None:
    """Say what is missing on this machine for a spec, or None."""
    name, _, rest = spec.partition(":")
    if name in PROVIDERS:
        try:
            offered = _onnxruntime().get_available_providers()
        except ModelError as exc:
            return str(exc)
        if PROVIDERS[name] not in offered:
            return f"this ONNX Runtime has no {PROVIDERS[name]}, only {', '.join(offered)}: install the vendor's build"
        return None
    library = DELEGATES.get(name, rest)
    try:
        ctypes.CDLL(library)
    except OSError as exc:
        return f"the delegate {library} cannot be loaded: {exc}; install the accelerator's runtime"
    return None


def available() -> list[str]:
    """Return the named accelerators whose library is on this machine."""
    return [name for name in (*DELEGATES, *PROVIDERS) if why_not(name) is None]


def load(data: bytes, spec: str, *, threads: int, describe: Callable[[], Model]) -> Model:
    """Load a model for an accelerator.

    Args:
        data: the `.tflite`.
        spec: see above.
        threads: for what the accelerator leaves to the processor.
        describe: loads the same model in an engine that knows the quantisation of input and output, for ONNX Runtime.

    Raises:
        ModelError: a library or file is missing, or refuses the model.

    """
    if reason := why_not(spec):
        raise ModelError(f"engine {spec}: {reason}")
    name, _, rest = spec.partition(":")
    if name in PROVIDERS:
        return OnnxModel(Path(rest), name, threads=threads, info=describe().info)
    return LiteRTModel(data, threads=threads, reason="asked for", delegate=DELEGATES.get(name, rest))


class OnnxModel:
    """ONNX Runtime on a file that holds the student's network: int8 as in the student, or float on real numbers."""

    def __init__(self, path: Path, name: str, *, threads: int, info: dict[str, Any]) -> None:
        """Load `path` for the provider called `name`; see `load`."""
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[PROVIDERS[name]])
        except Exception as exc:  # onnxruntime has no common base of its errors
            raise ModelError(f"{path}: ONNX Runtime refuses it: {exc}") from exc
        wanted = self._session.get_inputs()[0]
        shape = tuple(1 if not isinstance(n, int) else n for n in wanted.shape)
        self._input, self._output = info["input"], info["output"]
        _, height, width, channels = self._input["shape"]
        self._channels_first = shape == (1, channels, height, width) != tuple(self._input["shape"])
        if not self._channels_first and shape != tuple(self._input["shape"]):
            raise ModelError(f"{path}: takes {shape}; the student takes {self._input['shape']}")
        if wanted.type not in ("tensor(int8)", "tensor(float)"):
            raise ModelError(f"{path}: takes {wanted.type}; a student's network takes int8, or float for real numbers")
        self._name, self._is_float = wanted.name, wanted.type == "tensor(float)"
        self._info = {
            **info, "engine": "onnxruntime", "kernels": self._session.get_providers()[0], "threads": threads,
            "arena_bytes": 0, "weights_bytes": 0, "reason": "asked for", "tolerance_steps": TOLERANCE_STEPS,
        }  # fmt: skip

    @property
    def info(self) -> dict[str, Any]:
        """See `distillnet.engine.Model.info`."""
        return self._info

    def run_tensor(self, x: Tensor) -> Tensor:
        """See `distillnet.engine.Model.run_tensor`."""
        check_tensor(x, tuple(self._input["shape"]), np.dtype(np.int8))
        fed = x.transpose(0, 3, 1, 2) if self._channels_first else x
        if self._is_float:
            fed = (fed.astype(np.float32) - self._input["zero_point"]) * np.float32(self._input["scale"])
        y = self._session.run(None, {self._name: np.ascontiguousarray(fed)})[0]
        if y.dtype != np.int8:
            y = np.clip(np.rint(y / self._output["scale"]) + self._output["zero_point"], -128, 127)
        return y.reshape(self._output["shape"]).astype(np.int8)  # type: ignore[no-any-return]

    def look(self, frame: Frame, preparation: Preparation) -> tuple[list[list[float]], float, float]:
        """See `distillnet.engine.Model.look`."""
        return preparation.run_zones(frame, self.run_tensor)

    def profile(self) -> list[dict[str, Any]]:
        """ONNX Runtime tells in files only."""
        return []


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise ModelError("ONNX Runtime is not installed: pip install onnxruntime, or the vendor's build") from exc
