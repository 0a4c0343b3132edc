"""The engines beside which `bench` times the native one; each is optional, and runs in the best form it takes.

LiteRT and OpenVINO read the `.tflite` itself. ONNX Runtime and ncnn want the same network in a file of their own.
"""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distillnet.engine.backend import ModelError, Tensor
from distillnet.engine.litert import LiteRTModel

PEERS = ("litert", "onnxruntime", "openvino", "ncnn")
Run = Callable[[], object]


def prepare(name: str, data: bytes, x: Tensor, *, threads: int, files: dict[str, Path | None]) -> tuple[Run, str]:
    """Load a model into a peer.

    Args:
        name: of `PEERS`.
        data: the `.tflite`.
        x: the input to run on.
        threads: for the peer.
        files: the same network for the peers that do not read `.tflite`.

    Returns:
        what runs one inference, and the form it runs in.

    Raises:
        ModelError: an unknown peer, one that is not installed, or one that cannot have this network.

    """
    if name == "litert":
        litert = LiteRTModel(data, threads=threads, reason="peer")
        return lambda: litert.run_tensor(x), "int8, XNNPACK"
    if name == "openvino":
        return _openvino(data, x, threads)
    if name not in PEERS:
        raise ModelError(f"no peer called {name!r}; there are {', '.join(PEERS)}")
    path = files.get(name)
    if path is None:
        option = "--onnx" if name == "onnxruntime" else "--ncnn"
        raise ModelError(f"the peer {name} wants the same network in a file of its own: {option} FILE")
    return (_onnxruntime if name == "onnxruntime" else _ncnn)(path, x, threads)


def _openvino(data: bytes, x: Tensor, threads: int) -> tuple[Run, str]:
    openvino = _import("openvino")
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:  # its front end reads files only
        file.write(data)
        file.flush()
        core = openvino.Core()
        try:
            model = core.compile_model(core.read_model(file.name), "CPU", options)
        except RuntimeError as exc:
            raise ModelError(f"openvino refuses this model: {str(exc).strip().splitlines()[-1]}") from exc
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(x)))
    return request.infer, "int8, from the .tflite"


def _onnxruntime(path: Path, x: Tensor, threads: int) -> tuple[Run, str]:
    onnxruntime = _import("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    shape = tuple(1 if not isinstance(n, int) else n for n in wanted.shape)
    if sorted(shape) != sorted(x.shape):
        raise ModelError(f"{path}: takes input {shape}, the .tflite {x.shape}")
    fed = x if shape == x.shape else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    fed = fed.astype({"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}[wanted.type])
    quantised = b"QLinearConv" in path.read_bytes() or b"QuantizeLinear" in path.read_bytes()
    return lambda: session.run(None, {wanted.name: fed}), "int8" if quantised else "float32"


def _ncnn(path: Path, x: Tensor, threads: int) -> tuple[Run, str]:
    ncnn = _import("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if net.load_param(str(path)) != 0 or net.load_model(str(path.with_suffix(".bin"))) != 0:
        raise ModelError(f"ncnn cannot read {path} and the .bin beside it")
    fed = ncnn.Mat(np.ascontiguousarray(x[0].transpose(2, 0, 1), np.float32)).clone()
    source, target = net.input_names()[0], net.output_names()[0]

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input(source, fed)
        return extractor.extract(target)

    if run()[0] != 0:
        raise ModelError(f"ncnn cannot run {path} on an input of {x.shape}")
    # ncnn2int8 marks the convolutions that it has quantised by their parameter 8.
    quantised = any(" 8=" in line for line in path.read_text().splitlines() if line.startswith("Convolution"))
    return run, "int8" if quantised else "float, 16 bits where it has them"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise ModelError(f"{name} is not installed: pip install {name}") from exc
