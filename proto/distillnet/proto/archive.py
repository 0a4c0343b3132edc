"""`student.tflite`: a standard TFLite flatbuffer with a zip appended that holds its card, labels and golden vectors.

LiteRT, Netron and vendor compilers read the first part and ignore the rest; `zipfile` reads the rest. Nothing in it is
executable. Reading treats every byte as hostile: sizes, names, counts and compression ratios are bounded.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from distillnet.proto.card import Card

MAX_STUDENT_BYTES = 64 << 20
_MAX_MEMBER_BYTES = {"card.json": 1 << 20, "labels.txt": 1 << 16, "golden.npz": 8 << 20}
_TFLITE_IDENTIFIER = b"TFL3"


class StudentError(Exception):
    """A file is no valid student: the message says what is wrong with it."""


@dataclass(frozen=True)
class StudentFile:
    """A student taken apart. `model` is the bare flatbuffer; `golden` the bytes of golden.npz."""

    model: bytes
    card: Card
    golden: bytes


def pack(model: bytes, card: Card, golden: bytes) -> bytes:
    """Append the card, labels and golden vectors to a flatbuffer. Deterministic: equal parts give equal bytes."""
    members = {
        "card.json": card.model_dump_json(indent=1).encode(),
        "labels.txt": "".join(f"{label}\n" for label in card.labels).encode(),
        "golden.npz": golden,
    }
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def unpack(data: bytes) -> StudentFile:
    """Take a student apart.

    Raises:
        StudentError: not a TFLite flatbuffer, no or a bad archive, a bad card, a member too large, twice, or unknown.

    """
    if len(data) > MAX_STUDENT_BYTES:
        raise StudentError(f"is {len(data)} bytes; a student has at most {MAX_STUDENT_BYTES}")
    if data[4:8] != _TFLITE_IDENTIFIER:
        raise StudentError("is no TFLite file: bytes 4–7 are not 'TFL3'")
    members, end = _members(data)
    missing = sorted(set(_MAX_MEMBER_BYTES) - set(members))
    if missing:
        raise StudentError(f"lacks {', '.join(missing)} in its archive")
    try:
        card = Card.model_validate_json(members["card.json"])
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StudentError(f"card.json: {place}: {first['msg']}") from exc
    return StudentFile(model=data[:end], card=card, golden=members["golden.npz"])


def read(path: Path) -> StudentFile:
    """Read and take apart a student file.

    Raises:
        StudentError: unreadable, or no valid student; the message starts with the path.

    """
    try:
        if path.stat().st_size > MAX_STUDENT_BYTES:
            raise StudentError(f"{path}: is larger than the {MAX_STUDENT_BYTES} bytes a student may have")
        data = path.read_bytes()
    except OSError as exc:
        raise StudentError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        return unpack(data)
    except StudentError as exc:
        raise StudentError(f"{path}: {exc}") from exc


def with_version(data: bytes, version: int) -> bytes:
    """Return the same student with the version its publication assigns."""
    student = unpack(data)
    return pack(student.model, student.card.model_copy(update={"version": version}), student.golden)


def digest(data: bytes) -> str:
    """`sha256:<hex>` of a student file, the name it goes by everywhere."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _members(data: bytes) -> tuple[dict[str, bytes], int]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) != len(names):
                raise StudentError(f"has an archive member twice: {names[:8]}")
            unknown = [name for name in names if name not in _MAX_MEMBER_BYTES]
            if unknown:
                raise StudentError(f"has an unknown archive member {unknown[0]!r}")
            for info in infos:
                limit = _MAX_MEMBER_BYTES[info.filename]
                if max(info.file_size, info.compress_size) > limit:
                    raise StudentError(f"{info.filename} is larger than {limit} bytes")
                if info.compress_type != zipfile.ZIP_STORED:
                    raise StudentError(f"{info.filename} is compressed; members are stored")
            members = {info.filename: archive.read(info) for info in infos}
            return members, min((info.header_offset for info in infos), default=len(data))
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as exc:
        raise StudentError(f"has no readable archive appended: {exc}") from exc


def card_json(card: Card) -> dict[str, object]:
    """Return the card as plain JSON values."""
    loaded: dict[str, object] = json.loads(card.model_dump_json())
    return loaded
