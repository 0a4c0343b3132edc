"""From a torch network to an int8 `.tflite`, and the gate that compares it with what was trained.

int8 activations, per-channel int8 weights, int8 input and output, by litert-torch and ai-edge-quantizer. Constants are
put inside the flatbuffer, where every reader expects them.
"""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud.metrics import Figure, bootstrap
from distillnet.engine import Model
from distillnet.engine.litert import LiteRTModel
from distillnet.proto.strict import ConfigError

Floats = NDArray[np.float32]
GOLDEN_VECTORS = 4


def to_int8(network: nn.Module, calibration: Tensor) -> bytes:
    """Convert a network to an int8 `.tflite`.

    Args:
        network: one input (N, C, H, W), one output (N, outputs); C may be 1.
        calibration: real inputs, float32 (N, C, H, W), as the network gets them in use.

    Returns:
        The flatbuffer: int8 (1, H, W, C) in, int8 (1, outputs) out.

    Raises:
        ConfigError: a converter refuses the network.

    """
    batches = [np.ascontiguousarray(x[np.newaxis].permute(0, 2, 3, 1).numpy()) for x in calibration]
    # The handlers of warnings and loggers of two noisy packages are theirs; stdout belongs to `--json`.
    with silence(), tempfile.TemporaryDirectory(prefix="distillnet-") as folder:
        import litert_torch
        from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        try:
            channels_last = litert_torch.to_channel_last_io(network.eval(), args=[0])
            whole = Path(folder) / "float.tflite"
            litert_torch.convert(channels_last, (torch.from_numpy(batches[0]),)).export(str(whole))
            converter = quantizer.Quantizer(str(whole), recipe.static_wi8_ai8())
            name = LiteRTModel(whole.read_bytes())._interpreter.get_signature_list()["serving_default"]["inputs"][0]
            # The least and the greatest of all inputs: the converter's own `calibrate` takes moving averages over them,
            # which cuts off whatever few inputs reach. A log-mel input lost 4 in 10 of its range to that.
            recipes = recipe_manager.RecipeManager()
            recipes.load_quantization_recipe(recipe.static_wi8_ai8())
            observer = calibrator.Calibrator(whole.read_bytes(), qsv_update_func=qsv_utils.min_max_update)
            observer.calibrate({"serving_default": [{name: batch} for batch in batches]}, recipes)
            ranges = observer.get_model_qsvs()
            quantised = bytes(converter.quantize(ranges).quantized_model)
        except (RuntimeError, ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"the network cannot be converted to int8: {exc}") from exc
    return _with_constants_inside(quantised)


def input_tensor(model: Model, inputs: Floats) -> NDArray[np.int8]:
    """Quantise normalised inputs (N, H, W, C) as the model wants them, int8."""
    quantisation = model.info["input"]
    steps = np.round(inputs / quantisation["scale"]) + quantisation["zero_point"]
    return np.asarray(np.clip(steps, -128, 127), np.int8)


def run_int8(model: Model, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Run an int8 model on inputs (N, H, W, C); returns int8 (N, outputs)."""
    return np.concatenate([model.run_tensor(x[np.newaxis]).reshape(1, -1) for x in inputs])


def dequantise(model: Model, outputs: NDArray[np.int8]) -> Floats:
    """Turn int8 logits (N, outputs) into real ones, float32."""
    quantisation = model.info["output"]
    return np.asarray((outputs.astype(np.float32) - quantisation["zero_point"]) * quantisation["scale"], np.float32)


def golden_vectors(model: bytes, inputs: Floats) -> bytes:
    """Return golden.npz: a few real inputs and the outputs of LiteRT's reference kernels, the definition of correct.

    Args:
        model: the bare flatbuffer.
        inputs: normalised, float32 (N, H, W, C); the first few are used.

    """
    reference = LiteRTModel(model, reference=True)
    quantised = input_tensor(reference, inputs[:GOLDEN_VECTORS])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=quantised, outputs=run_int8(reference, quantised))
    return buffer.getvalue()


@dataclass(frozen=True)
class Gate:
    """How far the int8 model in the engine is from the float network in torch, on real data.

    Figures are shares of right decisions; `loss` is by how much int8's is less, picture by picture.
    """

    engine: str
    agreement: float
    mean_difference: float
    float_figure: float
    int8_figure: float
    loss: Figure

    def to_json(self) -> dict[str, float | int]:
        """Return both figures, and the loss with its interval."""
        return {"float": self.float_figure, "int8": self.int8_figure} | self.loss.to_json()


def compare(int8_logits: Floats, float_logits: Floats, truth: NDArray[np.int64], engine: str) -> Gate:
    """Compare decisions and logits of both, (N, K+1), against the truth (N,)."""
    if len(truth) == 0:
        return Gate(engine, 1.0, 0.0, 0.0, 0.0, Figure(0.0, -1.0, 1.0, 0))
    was_right, is_right = float_logits.argmax(1) == truth, int8_logits.argmax(1) == truth
    lost = was_right.astype(np.float64) - is_right
    return Gate(
        engine=engine,
        agreement=float((int8_logits.argmax(1) == float_logits.argmax(1)).mean()),
        mean_difference=float(np.abs(int8_logits - float_logits).mean()),
        float_figure=float(was_right.mean()),
        int8_figure=float(is_right.mean()),
        loss=bootstrap(lambda drawn: float(lost[drawn].mean()), len(lost)),
    )


def _with_constants_inside(model: bytes) -> bytes:
    """Move constants that lie behind the flatbuffer into it, for many readers do not look behind; save bytes.

    The converter names a tensor after its whole history, and writes the zero point of every channel, which is 0, as
    eight bytes of its own: a quarter of a small file.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Inside(schema.BufferT):  # type: ignore[misc]
        """A buffer whose bytes are aligned as the schema asks (`force_align: 16`)."""

        def Pack(self, builder: Any) -> Any:  # noqa: N802 - flatbuffers' name
            place = None
            if self.data is not None and len(self.data):
                data = bytes(self.data)
                builder.StartVector(1, len(data), 16)
                builder.head = builder.head - len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data
                place = builder.EndVector()
            schema.BufferStart(builder)
            if place is not None:
                schema.BufferAddData(builder, place)
            return schema.BufferEnd(builder)

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]
        """A builder that writes equal vectors once."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._written: dict[tuple[str, bytes], Any] = {}

        def CreateNumpyVector(self, x: NDArray[np.generic]) -> Any:  # noqa: N802 - flatbuffers' name
            key = (x.dtype.str, x.tobytes())
            if key not in self._written:
                self._written[key] = super().CreateNumpyVector(x)
            return self._written[key]

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    inside = []
    for buffer in tree.buffers:
        moved = Inside()
        moved.data = model[buffer.offset : buffer.offset + buffer.size] if buffer.offset > 1 else buffer.data
        inside.append(moved)
    tree.buffers = inside
    for graph in tree.subgraphs:
        for index in set(range(len(graph.tensors))) - {*graph.inputs, *graph.outputs}:
            graph.tensors[index].name = f"t{index}"
    builder = Sharing(len(model) + 1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep converters and LiteRT off stdout and stderr, C++ included; their errors are raised, not printed."""
    kept = [os.dup(1), os.dup(2)]
    disabled = logging.root.manager.disable
    with Path(os.devnull).open("wb") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
            logging.disable(disabled)


def sample(indices: Sequence[int] | NDArray[np.int64], most: int, seed: int = 0) -> NDArray[np.int64]:
    """Return at most `most` of the indices, evenly at random, in order."""
    chosen = np.asarray(indices, np.int64)
    if len(chosen) <= most:
        return chosen
    return np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
