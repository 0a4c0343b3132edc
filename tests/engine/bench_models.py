"""The networks that the engine's benchmarks run, found or made: students, EfficientNet-Lite0, MobileNetV2, public ones.

For those made here, the files that some peers want are made too: int8 ONNX by ONNX Runtime's own quantiser, and ncnn's
by pnnx. ncnn's int8 wants tools that no package brings, so ncnn runs in floats.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MADE = ROOT / "build" / "bench-models"


def all_models() -> list[Path]:
    """The demo's student in this tree, if any; those made here; DISTILLNET_DATA/models."""
    data = Path(os.environ.get("DISTILLNET_DATA", ROOT.parent / "shared" / "data"))
    demo = ROOT / ".demo" / "first" / "student.tflite"
    made = [_made(name) for name in _NETWORKS]
    return [*([demo] if demo.is_file() else []), *made, *sorted((data / "models").glob("*int8.tflite"))]


def peer_file(model: Path, peer: str) -> Path | None:
    """Return the file of a made model for onnxruntime or ncnn; None where there is none, or no package to make it."""
    if model.resolve().parent != MADE:
        return None
    path = model.with_suffix({"onnxruntime": ".onnx", "ncnn": ".ncnn.param"}[peer])
    if not path.is_file():
        try:
            {"onnxruntime": _export_onnx, "ncnn": _export_ncnn}[peer](*_NETWORKS[model.stem](), path)
        except (ImportError, OSError, subprocess.CalledProcessError) as exc:
            sys.stderr.write(f"no {path.name}: {exc}\n")
            return None
    return path


def _made(name: str) -> Path:
    from distillnet.cloud.export import to_int8
    from distillnet.proto.files import write_whole

    path = MADE / f"{name}.tflite"
    if not path.is_file():
        write_whole(path, to_int8(*_NETWORKS[name]()))
    return path


def _mobilenet(stem: int, channels: tuple[int, ...], side: int) -> tuple[Any, Any]:
    """MobileNetV2 (Sandler et al. 2018), so many channels out of its seven groups of blocks, its weights by chance."""
    import torch

    from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape

    torch.manual_seed(0)
    blocks, into = [], stem
    for out, (repeats, first, expansion) in zip(channels, _GROUPS, strict=True):
        for repeat in range(repeats):
            stride = first if repeat == 0 else 1
            residual = stride == 1 and into == out
            blocks.append(BlockShape(into, into * expansion, out, 3, stride, expansion > 1, residual))
            into = out
    network, inputs = Classifier(CoreNet(CoreShape(stem, tuple(blocks), 1280)), 1280, 12), torch.randn(4, 3, side, side)
    return _settled(network, inputs)


def _ears() -> tuple[Any, Any]:
    """A student that hears, its weights by chance: depthwise-separable as keyword spotters are."""
    import torch

    from distillnet.cloud.audio.students import DsCnn, StudentShape

    torch.manual_seed(0)
    return _settled(DsCnn(StudentShape(), 11), torch.randn(4, 1, 32, 40))


def _settled(network: Any, inputs: Any) -> tuple[Any, Any]:
    """Give activations the size that training would give them."""
    import torch

    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0  # one pass
    with torch.no_grad():
        network.train()(inputs)
    return network.eval(), inputs


def _efficientnet_lite0() -> tuple[Any, Any]:
    """The teacher, with its weights; to be calibrated on noise: speed does not depend on it."""
    import torch

    from distillnet.cloud.application import TeacherSection
    from distillnet.cloud.teacher import load

    torch.manual_seed(0)
    teacher = load(TeacherSection(), ROOT)
    assert teacher.module is not None
    return teacher.module.eval(), torch.randn(4, 3, 224, 224)


_GROUPS = ((1, 1, 1), (2, 2, 6), (3, 2, 6), (4, 2, 6), (3, 1, 6), (3, 2, 6), (1, 1, 6))
"""Of MobileNetV2's blocks: repeats, stride, expansion."""
_NETWORKS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "mobilenet_v2_0.35_128_int8": partial(_mobilenet, 16, (8, 8, 16, 24, 32, 56, 112), 128),
    "mobilenet_v2_1.0_224_random_int8": partial(_mobilenet, 32, (16, 24, 32, 64, 96, 160, 320), 224),
    "ears_int8": _ears,
    "efficientnet_lite0_224_int8": _efficientnet_lite0,
}


def _export_onnx(network: Any, inputs: Any, path: Path) -> None:
    import torch
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = [{"x": x[None].numpy()} for x in inputs]

        def get_next(self) -> dict[str, Any] | None:
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory() as folder:
        exported, whole = Path(folder) / "exported.onnx", Path(folder) / "whole.onnx"
        torch.onnx.export(network, (inputs[:1],), str(exported), input_names=["x"], output_names=["y"], dynamo=False)
        quantization.quant_pre_process(str(exported), str(whole), skip_symbolic_shape=True)
        # U8S8 is the form that its kernels for x86 are fastest in.
        quantization.quantize_static(
            str(whole), str(path), Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
        )


def _export_ncnn(network: Any, inputs: Any, path: Path) -> None:
    import torch

    pnnx = Path(sys.executable).with_name("pnnx")
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "network.pt"
        torch.jit.trace(network, inputs[:1]).save(str(traced))
        shape = ",".join(str(n) for n in inputs[:1].shape)
        subprocess.run([pnnx, traced, f"inputshape=[{shape}]"], check=True, capture_output=True, cwd=folder)
        (Path(folder) / "network.ncnn.bin").replace(path.with_suffix(".bin"))
        (Path(folder) / "network.ncnn.param").replace(path)
