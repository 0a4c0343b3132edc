"""Just enough ONNX to write one dense layer on int8, by the format's field numbers; no package needed."""

import struct

import numpy as np

INT8, FLOAT, INT64 = 3, 1, 7  # TensorProto.DataType


def dense(weights: np.ndarray, into: tuple[int, ...], scales: tuple[float, float, float]) -> bytes:
    """An ONNX file, int8 `into` → int8 (1, outputs); weights int8 (outputs, inputs); `scales` of in, weights, out."""
    count = weights.size // len(weights)
    values = {
        "sx": np.array(scales[0], np.float32),
        "sy": np.array(scales[2], np.float32),
        "zero": np.array(0, np.int8),
        "flat": np.array([1, count], np.int64),
        "w": np.ascontiguousarray(weights.T.astype(np.float32) * scales[1]),
    }
    nodes = [
        _node("DequantizeLinear", ["x", "sx", "zero"], "real"),
        _node("Reshape", ["real", "flat"], "row"),
        _node("MatMul", ["row", "w"], "logits"),
        _node("QuantizeLinear", ["logits", "sy", "zero"], "y"),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"dense")
    graph += b"".join(_field(5, _tensor(name, value)) for name, value in values.items())
    graph += _field(11, _value("x", into)) + _field(12, _value("y", (1, len(weights))))
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    return b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode()) + _field(4, kind.encode())


def _tensor(name: str, value: np.ndarray) -> bytes:
    kind = {"float32": FLOAT, "int8": INT8, "int64": INT64}[value.dtype.name]
    dims = b"".join(_number(1, size) for size in value.shape)
    return dims + _number(2, kind) + _field(8, name.encode()) + _field(9, value.tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _number(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, INT8) + _field(2, dims)))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += struct.pack("B", value & 127 | 128)
        value >>= 7
    return encoded + struct.pack("B", value)
