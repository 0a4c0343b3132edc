"""Reads what came over the wire, and lets in only values that every database and JSON can hold.

Called for every message of every call, after its caller was admitted.
"""

import math
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from distillnet.cloud.fleet.errors import Code, RefusedError

_LARGEST = 2**63 - 1


def reader(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserialiser that refuses what cannot be read or kept."""

    def read(data: bytes) -> Any:
        try:
            message = deserialise(data)
        except DecodeError as exc:
            raise RefusedError(Code.INVALID_ARGUMENT, f"the message cannot be read: {exc}") from exc
        _check(message)
        return message

    return read


def _check(message: Any) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                _check_value(field, key)
                _check_value(field, entry)
        elif field.is_repeated:
            for entry in value:
                _check_value(field, entry)
        else:
            _check_value(field, value)


def _check_value(field: FieldDescriptor, value: Any) -> None:
    if isinstance(value, str):
        wrong = "has a zero byte" if "\0" in value else ""
    elif isinstance(value, float):
        wrong = "" if math.isfinite(value) else f"is {value}"
    elif isinstance(value, int):
        wrong = f"is larger than {_LARGEST}" if value > _LARGEST else ""
    elif isinstance(value, bytes):
        return
    else:
        _check(value)
        return
    if wrong:
        raise RefusedError(Code.INVALID_ARGUMENT, f"{field.full_name} {wrong}")
