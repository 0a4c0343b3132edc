"""A real int8 student of a few hundred bytes, built with LiteRT's own schema: RESHAPE, FULLY_CONNECTED."""

import io

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from distillnet.engine.litert import LiteRTModel
from distillnet.proto.archive import pack
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

SIDE = 4


def tiny_student(application: str = "pets", seed: int = 0, events: tuple[str, ...] = ("cat", "dog"), **card) -> bytes:
    """Bytes of a student whose golden vectors are what LiteRT's reference kernels give."""
    rng = np.random.default_rng(seed)
    model = _model(rng.integers(-127, 128, (len(events) + 1, SIDE * SIDE * 3), dtype=np.int8))
    runner = LiteRTModel(model, reference=True)
    inputs = rng.integers(-128, 128, (3, SIDE, SIDE, 3), dtype=np.int8)
    outputs = np.concatenate([runner.run_tensor(x[np.newaxis]) for x in inputs])
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, outputs=outputs)
    facts = Card(
        application=application,
        events=[CardEvent(name=name, index=i, threshold=0.5, exit_threshold=0.4) for i, name in enumerate(events)],
        other=len(events),
        input=ImageInput(height=SIDE, width=SIDE),
        teacher=TeacherInfo(name="none", source="test"),
        seed=seed,
        **card,
    )
    return pack(model, facts, golden.getvalue())


def _model(weights: np.ndarray) -> bytes:
    """`weights`: int8 (outputs, inputs)."""
    outputs, inputs = weights.shape
    buffers = [b"", weights.tobytes(), np.zeros(outputs, np.int32).tobytes(), np.array([1, inputs], np.int32).tobytes()]
    tensors = [
        _tensor("input", [1, SIDE, SIDE, 3], schema.TensorType.INT8, 0, 1 / 64),
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
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = "main", tensors, [reshape, connect]
    graph.inputs, graph.outputs = [0], [5]
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


def _tensor(name: str, shape: list[int], kind: int, buffer: int, scale: float | None = None) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return tensor


def _code(operator: int, version: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = version
    return code


def _buffer(data: bytes) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = list(data) if data else None
    return buffer
