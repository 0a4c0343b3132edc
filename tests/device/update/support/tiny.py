"""Real int8 students of a few kilobytes, built with LiteRT's own schema: RESHAPE, FULLY_CONNECTED."""

import io
from functools import lru_cache

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from distillnet.engine.litert import LiteRTModel
from distillnet.proto.archive import pack
from distillnet.proto.card import AudioInput, Card, CardEvent, ImageInput, TeacherInfo

APPLICATION = "pets"


def student(
    version: int = 1,
    *,
    events: tuple[str, ...] = ("cat", "dog"),
    side: int = 4,
    seed: int = 0,
    filler: int = 0,
    application: str = APPLICATION,
    golden_shift: int = 0,
    weights: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    **card: object,
) -> bytes:
    """A student; `filler` random bytes make it larger, `golden_shift` makes its golden vectors wrong."""
    rng = np.random.default_rng(seed)
    outputs, inputs = len(events) + 1, side * side * 3
    matrix = rng.integers(-127, 128, (outputs, inputs), dtype=np.int8) if weights is None else weights
    offsets = np.zeros(outputs, np.int32) if bias is None else bias.astype(np.int32)
    model = flatbuffer(matrix, offsets, side, rng.bytes(filler))
    return packed(model, golden(model, side, seed, golden_shift), version, events, side, application, seed, **card)


def hearing(
    version: int = 1,
    *,
    events: tuple[str, ...] = ("low", "high"),
    seed: int = 0,
    golden_shift: int = 0,
    hears: str = "other",
    stride: int = 4,
) -> bytes:
    """A student for sounds, of the application "tones": eight hops of eight bands, and it hears one thing always."""
    shape = (8, 8, 1)
    matrix = np.zeros((len(events) + 1, 64), np.int8)
    bias = np.array([4 if name == hears else -4 for name in (*events, "other")], np.int32) * 64 * 128
    model = flatbuffer(matrix, bias, shape=shape)
    facts = Card(
        application="tones",
        version=version,
        events=[CardEvent(name=name, index=i, threshold=0.5, exit_threshold=0.4) for i, name in enumerate(events)],
        other=len(events),
        input=AudioInput(frames=8, mel_bands=8, stride_frames=stride),
        teacher=TeacherInfo(name="none", source="test"),
        seed=seed,
    )
    return pack(model, facts, golden(model, shift=golden_shift, shape=shape))


def packed(model, golden_bytes, version, events, side, application=APPLICATION, seed=0, **card) -> bytes:
    facts = Card(
        application=application,
        version=version,
        events=[CardEvent(name=name, index=i, threshold=0.5, exit_threshold=0.4) for i, name in enumerate(events)],
        other=len(events),
        input=ImageInput(height=side, width=side),
        teacher=TeacherInfo(name="none", source="test"),
        seed=seed,
        **card,
    )
    return pack(model, facts, golden_bytes)


def golden(model: bytes, side: int = 4, seed: int = 0, shift: int = 0, shape: tuple[int, ...] = ()) -> bytes:
    inputs = np.random.default_rng(seed + 1).integers(-128, 128, (2, *(shape or (side, side, 3))), dtype=np.int8)
    runner = LiteRTModel(model, reference=True)
    outputs = np.concatenate([runner.run_tensor(x[np.newaxis]) for x in inputs])
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs, outputs=outputs + np.int8(shift))
    return buffer.getvalue()


@lru_cache(maxsize=64)
def _cached(version: int, seed: int, filler: int) -> bytes:
    return student(version, seed=seed, filler=filler)


def numbered(version: int, *, filler: int = 0) -> bytes:
    """A good student whose weights differ with its version. Built once a process."""
    return _cached(version, version, filler)


def flatbuffer(
    weights: np.ndarray, bias: np.ndarray, side: int = 4, filler: bytes = b"", shape: tuple[int, ...] = ()
) -> bytes:
    """`weights`: int8 (outputs, side·side·3), or as many inputs as `shape` has."""
    outputs, inputs = weights.shape
    buffers = [b"", weights.tobytes(), bias.tobytes(), np.array([1, inputs], np.int32).tobytes(), filler]
    tensors = [
        _tensor("input", [1, *(shape or (side, side, 3))], schema.TensorType.INT8, 0, 1 / 64),
        _tensor("shape", [2], schema.TensorType.INT32, 3),
        _tensor("flat", [1, inputs], schema.TensorType.INT8, 0, 1 / 64),
        _tensor("weights", [outputs, inputs], schema.TensorType.INT8, 1, 1 / 128),
        _tensor("bias", [outputs], schema.TensorType.INT32, 2, 1 / 64 / 128),
        _tensor("logits", [1, outputs], schema.TensorType.INT8, 0, 1 / 8),
    ]
    reshape = schema.OperatorT()
    reshape.opcodeIndex, reshape.inputs, reshape.outputs = 0, [0, 1], [2]
    connect = schema.OperatorT()
    connect.opcodeIndex, connect.inputs, connect.outputs = 1, [2, 3, 4], [5]
    connect.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    connect.builtinOptions = schema.FullyConnectedOptionsT()
    return finish(tensors, [reshape, connect], buffers)


def finish(tensors, operators, buffers) -> bytes:
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = "main", tensors, operators
    graph.inputs, graph.outputs = [0], [len(tensors) - 1]
    model = schema.ModelT()
    model.version, model.description, model.subgraphs = 3, "tiny", [graph]
    model.operatorCodes = [
        _code(schema.BuiltinOperator.RESHAPE, 1),
        _code(schema.BuiltinOperator.FULLY_CONNECTED, 4),
    ]
    model.buffers = [_buffer(data) for data in buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name, shape, kind, buffer, scale=None):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return tensor


def _code(operator, version):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = version
    return code


def _buffer(data: bytes):
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8) if data else None
    return buffer
