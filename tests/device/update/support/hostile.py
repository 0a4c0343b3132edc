"""Students that are signed and hostile: what a stolen signing key could send to a board."""

import io
import struct
import zipfile
import zlib

import flatbuffers
import numpy as np
import tiny
from ai_edge_litert import schema_py_generated as schema

EVENTS = ("cat", "dog")
SIDE = 4


def _good(version: int) -> tuple[bytes, bytes]:
    data = tiny.numbered(version)
    end = data.index(b"PK\x03\x04")
    return data, data[:end]


def _with_archive(version: int, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO(_good(version)[1])
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def _members(version: int) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_good(version)[0])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_bomb(version: int) -> bytes:
    """golden.npz compressed a thousandfold."""
    members = _members(version) | {"golden.npz": bytes(64 << 20)}
    return _with_archive(version, list(members.items()), zipfile.ZIP_DEFLATED)


def inner_bomb(version: int) -> bytes:
    """A small golden.npz that unpacks to 48 MiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("inputs.npy", "w") as file:
        for _ in range(12):
            file.write(bytes(4 << 20))
    return _with_archive(version, list((_members(version) | {"golden.npz": buffer.getvalue()}).items()))


def lying_npy(version: int) -> bytes:
    """An array header that claims a terabyte over ten bytes of data."""
    head = b"{'descr': '|i1', 'fortran_order': False, 'shape': (1099511627776, 4, 4, 3), }"
    head += b" " * (64 - (len(head) + 11) % 64) + b"\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(10)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inputs.npy", body)
        archive.writestr("outputs.npy", body)
    return _with_archive(version, list((_members(version) | {"golden.npz": buffer.getvalue()}).items()))


def pickled_golden(version: int) -> bytes:
    """Object arrays, which numpy would unpickle if it were allowed to."""
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.array([{"run": "me"}], dtype=object), outputs=np.zeros(1))
    return _with_archive(version, list((_members(version) | {"golden.npz": buffer.getvalue()}).items()))


def twice(version: int) -> bytes:
    """A member twice: two readers may see two cards."""
    members = list(_members(version).items())
    return _with_archive(version, [*members, members[0]])


def traversal(version: int) -> bytes:
    """A member that wants to be written elsewhere."""
    return _with_archive(version, [*_members(version).items(), ("../../../etc/cron.d/x", b"* * * * * root x")])


def lying_sizes(version: int) -> bytes:
    """A directory entry whose size is not the member's."""
    data = bytearray(_good(version)[0])
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFF, 0xFFFFFF)
    return bytes(data)


def bad_crc(version: int) -> bytes:
    """A member whose checksum is wrong."""
    data = bytearray(_good(version)[0])
    at = data.rindex(b"PK\x01\x02")
    data[at + 16 : at + 20] = struct.pack("<I", zlib.crc32(b"no"))
    return bytes(data)


def no_archive(version: int) -> bytes:
    """Only the flatbuffer."""
    return _good(version)[1]


def wild_offsets(version: int) -> bytes:
    """Every 32-bit word after the identifier far out of range."""
    data, model = _good(version)
    damaged = bytearray(model)
    damaged[0:4] = struct.pack("<I", 0x7FFFFFF0)
    return bytes(damaged) + data[len(model) :]


def scrambled(version: int) -> bytes:
    """A flatbuffer with noise in its tables."""
    data, model = _good(version)
    damaged = bytearray(model)
    rng = np.random.default_rng(version)
    for at in rng.integers(8, len(damaged) - 4, 64):
        damaged[at : at + 4] = rng.bytes(4)
    return bytes(damaged) + data[len(model) :]


def arena_bomb(version: int) -> bytes:
    """4×4 pixels padded to 40000×40000: 4.8 GB of activations in a kilobyte of model."""
    huge = 40_000
    pads = np.array([[0, 0], [0, huge - SIDE], [0, huge - SIDE], [0, 0]], np.int32)
    axes = np.array([1, 2], np.int32)
    kind = schema.TensorType
    tensors = [
        tiny._tensor("input", [1, SIDE, SIDE, 3], kind.INT8, 0, 1 / 64),
        tiny._tensor("pads", [4, 2], kind.INT32, 1),
        tiny._tensor("padded", [1, huge, huge, 3], kind.INT8, 0, 1 / 64),
        tiny._tensor("axes", [2], kind.INT32, 2),
        tiny._tensor("logits", [1, 3], kind.INT8, 0, 1 / 64),
    ]
    pad, mean = schema.OperatorT(), schema.OperatorT()
    pad.opcodeIndex, pad.inputs, pad.outputs = 0, [0, 1], [2]
    mean.opcodeIndex, mean.inputs, mean.outputs = 1, [2, 3], [4]
    mean.builtinOptionsType, mean.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = "main", tensors, [pad, mean]
    graph.inputs, graph.outputs = [0], [4]
    model = schema.ModelT()
    model.version, model.description, model.subgraphs = 3, "bomb", [graph]
    model.operatorCodes = [tiny._code(schema.BuiltinOperator.PAD, 2), tiny._code(schema.BuiltinOperator.MEAN, 2)]
    model.buffers = [tiny._buffer(b""), tiny._buffer(pads.tobytes()), tiny._buffer(axes.tobytes())]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    golden = io.BytesIO()
    np.savez(golden, inputs=np.zeros((1, SIDE, SIDE, 3), np.int8), outputs=np.zeros((1, 3), np.int8))
    return tiny.packed(bytes(builder.Output()), golden.getvalue(), version, EVENTS, SIDE)


HOSTILE = {
    "zip bomb in the archive": (zip_bomb, "compressed|larger than"),
    "zip bomb inside golden.npz": (inner_bomb, "unpacks to more than"),
    "array header claiming a terabyte": (lying_npy, "golden.npz|more memory"),
    "pickled objects in golden.npz": (pickled_golden, "golden.npz"),
    "archive member twice": (twice, "twice"),
    "archive member with ../": (traversal, "unknown archive member"),
    "archive sizes that lie": (lying_sizes, "larger than|archive"),
    "archive checksum that lies": (bad_crc, "archive"),
    "no archive": (no_archive, "archive"),
    "offsets out of range": (wild_offsets, "self-test"),
    "noise in the tables": (scrambled, "self-test"),
    "arena bomb of 4.8 GB": (arena_bomb, "self-test"),
}
