"""A student file survives packing, and hostile archives are refused with a reason."""

import io
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillnet.proto.archive import StudentError, digest, pack, read, unpack, with_version
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

MODEL = struct.pack("<I4s", 8, b"TFL3") + bytes(range(64))


def card() -> Card:
    return Card(
        application="demo",
        events=[CardEvent(name="dog", index=0, threshold=0.5, exit_threshold=0.4)],
        other=1,
        input=ImageInput(height=96, width=96),
        teacher=TeacherInfo(name="efficientnet-lite0", source="efficientnet-lite0"),
    )


def appended(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO(MODEL)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a", compression) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of a member written twice
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def whole(**changed: bytes) -> list[tuple[str, bytes]]:
    parts = {"card.json": card().model_dump_json().encode(), "labels.txt": b"dog\nother\n", "golden.npz": b"g"}
    return list((parts | changed).items())


def test_what_is_packed_is_unpacked() -> None:
    student = unpack(pack(MODEL, card(), b"golden"))
    assert (student.model, student.card, student.golden) == (MODEL, card(), b"golden")


def test_packing_is_deterministic_and_the_version_changes_the_digest() -> None:
    data = pack(MODEL, card(), b"golden")
    assert data == pack(MODEL, card(), b"golden")
    newer = with_version(data, 7)
    assert unpack(newer).card.version == 7
    assert unpack(newer).model == MODEL
    assert digest(newer) != digest(data)


def test_other_tools_read_the_archive() -> None:
    with zipfile.ZipFile(io.BytesIO(pack(MODEL, card(), b"golden"))) as archive:
        assert archive.read("labels.txt") == b"dog\nother\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is no TFLite file"),
        (b"\0\0\0\0ABCD", "is no TFLite file"),
        (MODEL, "no readable archive"),
        (appended(("card.json", b"{}")), "lacks golden.npz, labels.txt"),
        (appended(*whole(), ("../../etc/passwd", b"x")), "unknown archive member"),
        (appended(*whole(), ("card.json", b"{}")), "has an archive member twice"),
        (appended(*whole(), compression=zipfile.ZIP_DEFLATED), "is compressed"),
        (appended(*whole(**{"labels.txt": bytes(1 << 17)})), "is larger than"),
        (appended(*whole(**{"card.json": b"{"})), r"card\.json"),
        (appended(*whole(**{"card.json": b"{}"})), r"card\.json: application: Field required"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(StudentError, match=reason):
        unpack(data)


@given(st.data())
def test_any_flip_or_cut_unpacks_or_is_refused(data: st.DataObject) -> None:
    student = bytearray(pack(MODEL, card(), b"golden"))
    for _ in range(data.draw(st.integers(1, 4))):
        student[data.draw(st.integers(0, len(student) - 1))] = data.draw(st.integers(0, 255))
    del student[data.draw(st.integers(1, len(student))) :]
    try:
        unpack(bytes(student))
    except StudentError as exc:
        assert str(exc)


def test_reading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"none\.tflite: cannot be read"):
        read(tmp_path / "none.tflite")
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"x" * 100)
    with pytest.raises(StudentError, match=r"bad\.tflite: is no TFLite file"):
        read(bad)
