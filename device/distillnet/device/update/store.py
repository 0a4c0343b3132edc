"""The model store: students by their digest, and one record that says which is which.

    store/record.a.json, record.b.json   the record, written in turns: a torn one never hides the one before
    store/students/<sha256>.student.tflite
    store/partial/<sha256>.part          downloads under way

A student enters `students/` only complete and hashed; it is hashed again whenever it is read. Garbage collection
never touches current, previous or candidate. One process at a time: the store holds a lock.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from distillnet.device.update.errors import StoreError
from distillnet.device.update.files import Files
from distillnet.device.update.record import Installed, Record, Slots
from distillnet.proto.archive import MAX_STUDENT_BYTES, StudentError, unpack

log = logging.getLogger(__name__)

_RECORDS = ("record.a.json", "record.b.json")
_SUFFIX = ".student.tflite"
_LOCK_WAIT_S = 5.0


class ModelStore:
    """The slots of one board. Holds the store's lock until `close`."""

    def __init__(
        self,
        directory: Path,
        *,
        quota_bytes: int,
        files: Files | None = None,
        lock_wait_s: float = _LOCK_WAIT_S,
    ) -> None:
        """Open or make the store.

        Raises:
            StoreError: the directory cannot be used, or another process has it.

        """
        self.directory = directory
        self.files = files or Files()
        self.quota_bytes = quota_bytes
        self._students = directory / "students"
        self._partial = directory / "partial"
        try:
            for path in (directory, self._students, self._partial):
                self.files.make_directory(path)
            self._lock = _lock(directory / "lock", lock_wait_s)
        except OSError as exc:
            raise StoreError(f"{directory}: the model store cannot be used: {exc.strerror}") from exc
        self.record = self._load()

    def __enter__(self) -> Self:
        """Enter with the lock held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.close()

    def close(self) -> None:
        """Release the lock. The store is not used afterwards."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self, record: Record) -> None:
        """Make `record` the store's, durably.

        Raises:
            StoreError: the disk is full or failing; the record before it still holds.

        """
        following = record.model_copy(update={"sequence": self.record.sequence + 1})
        body = following.model_dump(mode="json")
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        document = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "record": body}, indent=1)
        path = self.directory / _RECORDS[following.sequence % 2]
        try:
            self.files.replace(path, document.encode())
        except OSError as exc:
            raise StoreError(f"{path}: cannot be written: {exc.strerror}") from exc
        self.record = following

    def path(self, digest: str) -> Path:
        """Where the student with this digest is or would be."""
        return self._students / f"{_hex(digest)}{_SUFFIX}"

    def partial_path(self, digest: str) -> Path:
        """Where its download grows."""
        return self._partial / f"{_hex(digest)}.part"

    def has(self, digest: str) -> bool:
        """Whether the student is there, unharmed."""
        return self.read(digest) is not None

    def read(self, digest: str) -> bytes | None:
        """Return a student's bytes; None if it is not there or no longer what its digest says."""
        path = self.path(digest)
        try:
            if path.stat().st_size > MAX_STUDENT_BYTES:
                return None
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != _hex(digest):
            log.error("%s is damaged: its content is not what its name says", path)
            return None
        return data

    def adopt(self, digest: str) -> None:
        """Move a finished download, whose hash the caller has verified, among the students."""
        self.files.move(self.partial_path(digest), self.path(digest))

    def make_room(self, size_bytes: int, incoming: str) -> None:
        """Collect garbage, then see whether a student of `size_bytes` fits into quota and disk.

        Raises:
            StoreError: it does not; says what is missing.

        """
        self.collect(keep=incoming)
        already = self.partial_path(incoming)
        held = already.stat().st_size if already.exists() else 0
        needed = max(0, size_bytes - held)
        used = self.used_bytes()
        if used + needed > self.quota_bytes:
            raise StoreError(
                f"no room for {size_bytes} bytes: the store uses {used} of {self.quota_bytes} ([update] store_bytes)"
            )
        if needed > self.free_disk_bytes():
            raise StoreError(f"no room for {size_bytes} bytes: the disk has {self.free_disk_bytes()} left")

    def collect(self, keep: str = "") -> list[str]:
        """Remove students and downloads that no slot names; returns the file names removed."""
        slots = self.record.slots
        named = {slot.hex for slot in (slots.current, slots.previous, slots.candidate) if slot is not None}
        named |= {_hex(digest) for digest in (keep, self.record.update.digest) if digest}
        if self.record.update.result in ("refused", "rolled-back"):
            named -= {_hex(self.record.update.digest)} - {
                slot.hex for slot in (slots.current, slots.previous, slots.candidate) if slot is not None
            }
        removed = []
        for directory in (self._students, self._partial):
            for path in sorted(directory.iterdir()):
                if path.name.split(".", 1)[0] not in named:
                    self.files.remove(path)
                    removed.append(path.name)
        return removed

    def used_bytes(self) -> int:
        """Bytes of students and downloads."""
        return sum(path.stat().st_size for area in (self._students, self._partial) for path in area.iterdir())

    def free_disk_bytes(self) -> int:
        """Bytes left on the disk for us."""
        stats = os.statvfs(self.directory)
        return stats.f_bavail * stats.f_frsize

    def free_bytes(self) -> int:
        """Room for another student: quota and disk."""
        return max(0, min(self.quota_bytes - self.used_bytes(), self.free_disk_bytes()))

    def runnable(self) -> tuple[Installed, bytes] | None:
        """Return the committed student, or the previous one where the current one is damaged, with its bytes."""
        for slot in (self.record.slots.current, self.record.slots.previous):
            data = self.read(slot.digest) if slot is not None else None
            if slot is not None and data is not None:
                return slot, data
        return None

    def _load(self) -> Record:
        found = [record for name in _RECORDS if (record := _read_record(self.directory / name)) is not None]
        if found:
            return max(found, key=lambda record: record.sequence)
        if not any((self.directory / name).exists() for name in _RECORDS):
            return Record()
        log.error("%s: both records are damaged; taking the newest student that is whole", self.directory)
        return Record(slots=Slots(current=self._newest_whole()))

    def _newest_whole(self) -> Installed | None:
        whole = []
        for path in self._students.glob(f"*{_SUFFIX}"):
            digest = f"sha256:{path.name.removesuffix(_SUFFIX)}"
            data = self.read(digest) if len(digest) == 71 else None
            if data is None:
                continue
            try:
                card = unpack(data).card
            except StudentError:
                continue
            whole.append(Installed(application=card.application, version=card.version, digest=digest))
        return max(whole, key=lambda student: student.version, default=None)


def _read_record(path: Path) -> Record | None:
    try:
        document = json.loads(path.read_bytes())
        text = json.dumps(document["record"], sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != document["sha256"]:
            raise ValueError("its checksum does not fit")
        return Record.model_validate(document["record"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
        log.error("%s is damaged: %s", path, exc)
        return None


def _hex(digest: str) -> str:
    text = digest.removeprefix("sha256:")
    if len(text) != 64 or any(letter not in "0123456789abcdef" for letter in text):
        raise StoreError(f"{digest!r} is no digest: expected sha256: and 64 hexadecimal digits")
    return text


def _lock(path: Path, wait_s: float, clock: Callable[[], float] = time.monotonic) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = clock() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if clock() >= deadline:
                os.close(descriptor)
                raise StoreError(
                    f"{path.parent}: another process uses this model store; is the daemon running twice?"
                ) from None
            time.sleep(0.05)
