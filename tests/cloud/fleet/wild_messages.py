"""Messages that nobody means: well formed with any values, and bytes that hardly are messages."""

import contextlib
import math
import random

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from distillnet.cloud.fleet.pki import request_for

_TEXTS = (
    "", "pets", "porch", "a" * 63, "a" * 64, "é" * 40, "\0", "x\0y", "../../etc/passwd", "%s%n", "'; drop table device",
    "pets/1/student.tflite", "metadata/1.root.json", "metadata/timestamp.json", "targets/pets/1/" + "0" * 64, "dn1_",
    "sha256:" + "f" * 64, "\u202e\U0001f431", "9" * 400, "A" * 20_000,
)  # fmt: skip
_INTEGERS = (0, 1, 2, 3, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_DOUBLES = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 1e9, 4e9, -1e18)


def wild(random_: random.Random, message: type[Message], depth: int = 0) -> Message:
    """A well-formed message of any values."""
    made = message()
    for field_ in made.DESCRIPTOR.fields:
        if random_.random() < 0.35:
            continue
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            _fill(random_, made, field_, depth)
    return made


def _fill(random_: random.Random, made: Message, field_: FieldDescriptor, depth: int) -> None:
    several = field_.is_repeated
    if field_.message_type is not None:
        if field_.message_type.GetOptions().map_entry:
            getattr(made, field_.name).update({text: random_.choice(_DOUBLES) for text in random_.sample(_TEXTS, 4)})
        elif depth < 4:
            for _ in range(random_.choice((1, 1, 2, 40)) if several else 1):
                part = wild(random_, field_.message_type._concrete_class, depth + 1)
                if several:
                    getattr(made, field_.name).append(part)
                else:
                    getattr(made, field_.name).CopyFrom(part)
        return
    values = [_value(random_, field_) for _ in range(random_.choice((1, 2, 50)) if several else 1)]
    if several:
        getattr(made, field_.name).extend(values)
    else:
        setattr(made, field_.name, values[0])


def _value(random_: random.Random, field_: FieldDescriptor) -> object:
    kind = field_.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field_.type == FieldDescriptor.TYPE_BYTES:
            return random_.choice((b"", b"\0", random_.randbytes(200), _CSR, b"-----BEGIN CERTIFICATE REQUEST-----"))
        return random_.choice(_TEXTS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random_.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return random_.choice(_DOUBLES)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random_.choice((0, 1, 7, 10, 11, 99, 2**31 - 1, -1))
    narrow = kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_INT32)
    return random_.choice(_INTEGERS) & (0xFFFFFFFF if narrow else 0xFFFFFFFFFFFFFFFF)


_CSR = request_for(ec.generate_private_key(ec.SECP256R1()))


def mangled(random_: random.Random, message: type[Message]) -> bytes:
    """Bytes that may or may not be such a message: bits flipped, cut, repeated, or never meant."""
    data = bytearray(wild(random_, message).SerializeToString()[:60_000])
    trick = random_.randrange(5)
    if trick == 0 or not data:
        return random_.randbytes(random_.choice((1, 2, 10, 300)))
    if trick == 1:
        for _ in range(random_.choice((1, 3, 20))):
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    elif trick == 2:
        del data[random_.randrange(len(data)) :]
    elif trick == 3:
        at = random_.randrange(len(data))
        data[at:at] = b"\xff" * 11  # a varint that is too long
    else:
        data[:0] = b"\x0b" * random_.choice((10, 120))  # groups in groups
    return bytes(data)
