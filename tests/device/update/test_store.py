"""The store never loses the student that runs, whatever is torn, full or damaged."""

import hashlib
import itertools
from pathlib import Path

import pytest
import tiny

from distillnet.device.update.errors import StoreError
from distillnet.device.update.files import Files
from distillnet.device.update.record import Installed, Record, Slots
from distillnet.device.update.store import ModelStore


def open_store(path: Path, quota: int = 1 << 20, files: Files | None = None) -> ModelStore:
    return ModelStore(path, quota_bytes=quota, files=files, lock_wait_s=0.0)


def put(store: ModelStore, version: int) -> Installed:
    data = tiny.numbered(version)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    store.partial_path(digest).write_bytes(data)
    store.adopt(digest)
    return Installed(application=tiny.APPLICATION, version=version, digest=digest)


def test_record_survives_closing(tmp_path):
    with open_store(tmp_path / "store") as store:
        record = Record(slots=Slots(current=put(store, 1)))
        store.save(record)
    with open_store(tmp_path / "store") as store:
        assert store.record.slots == record.slots
        assert store.runnable()[1] == tiny.numbered(1)


def test_any_truncation_or_flipped_byte_of_the_newest_record_falls_back_to_the_one_before(tmp_path):
    with open_store(tmp_path / "store") as store:
        one, two = put(store, 1), put(store, 2)
        store.save(Record(slots=Slots(current=one)))
        store.save(Record(slots=Slots(current=two, previous=one)))
        newest = tmp_path / "store/record.a.json"
        whole = newest.read_bytes()
    flips = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    cuts = [whole[:at] for at in range(0, len(whole), 7)]
    for damaged in itertools.chain(flips, cuts, [b"\0" * len(whole)]):
        newest.write_bytes(damaged)
        with open_store(tmp_path / "store") as store:
            assert store.record.slots.current in (one, two)
            assert store.runnable() is not None


def test_both_records_damaged_leaves_the_newest_whole_student_running(tmp_path):
    with open_store(tmp_path / "store") as store:
        one, two = put(store, 1), put(store, 2)
        store.save(Record(slots=Slots(current=one)))
        store.save(Record(slots=Slots(current=two, previous=one)))
        store.path(two.digest).write_bytes(b"torn")
    for name in ("record.a.json", "record.b.json"):
        (tmp_path / "store" / name).write_bytes(b"{")
    with open_store(tmp_path / "store") as store:
        assert store.record.slots.current == one


def test_damaged_current_student_gives_way_to_the_previous(tmp_path):
    with open_store(tmp_path / "store") as store:
        one, two = put(store, 1), put(store, 2)
        store.save(Record(slots=Slots(current=two, previous=one)))
        path = store.path(two.digest)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        assert store.runnable()[0] == one


def test_collection_never_touches_a_slot(tmp_path):
    with open_store(tmp_path / "store") as store:
        students = [put(store, version) for version in range(1, 6)]
        store.save(Record(slots=Slots(current=students[0], previous=students[1], candidate=students[2])))
        store.partial_path(students[4].digest).write_bytes(b"half")
        removed = store.collect()
        assert len(removed) == 3
        assert all(store.has(student.digest) for student in students[:3])
        assert not store.has(students[3].digest)


def test_quota_refuses_what_does_not_fit_and_says_so(tmp_path):
    with open_store(tmp_path / "store", quota=6000) as store:
        one = put(store, 1)
        store.save(Record(slots=Slots(current=one)))
        store.make_room(1000, f"sha256:{2:064x}")
        with pytest.raises(StoreError, match=r"no room for 9000 bytes: the store uses .* of 6000 .*store_bytes"):
            store.make_room(9000, f"sha256:{2:064x}")
        assert store.has(one.digest)


def test_full_disk_leaves_the_record_before(tmp_path):
    class Full(Files):
        full = False

        def write(self, path: Path, data: bytes, mode: int) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().write(path, data, mode)

    files = Full()
    with open_store(tmp_path / "store", files=files) as store:
        one = put(store, 1)
        store.save(Record(slots=Slots(current=one)))
        files.full = True
        with pytest.raises(StoreError, match="No space left on device"):
            store.save(Record())
        assert store.record.slots.current == one
    with open_store(tmp_path / "store") as store:
        assert store.record.slots.current == one


def test_second_process_is_told_that_the_store_is_in_use(tmp_path):
    with open_store(tmp_path / "store"), pytest.raises(StoreError, match="is the daemon running twice"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("digest", ["", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 63])
def test_digest_that_is_none_never_becomes_a_path(tmp_path, digest):
    with open_store(tmp_path / "store") as store, pytest.raises(StoreError, match="no digest"):
        store.path(digest)
