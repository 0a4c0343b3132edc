"""A disk whose power is cut at one chosen operation, and what a disk may have lost by then."""

import json
import os
import signal
from pathlib import Path
from typing import BinaryIO

from distillnet.device.update.files import Files

MODES = ("killed", "torn", "lost", "garbage")
"""`killed`: the process dies before the operation. `torn`: half of the write is done. `lost`: and nothing that was not
fsynced is on the disk, renames and removals neither. `garbage`: and what was not fsynced has its length but not its
content."""


class CuttingFiles(Files):
    """Counts every primitive in `log`; dies of SIGKILL at number `cut_at` (0 = never) in one of `MODES`."""

    def __init__(self, log: Path, cut_at: int = 0, mode: str = "killed") -> None:
        self.log, self.cut_at, self.mode = log, cut_at, mode
        self.count = 0
        self.phase = ""
        self.synced_bytes: dict[Path, int] = {}
        """Files with content that is not durable, and how much of it is."""
        self.undo: list[tuple[Path, Path, bytes | None, bytes | None]] = []
        """Directory changes not durable: directory, path, content to put back, and for renames the source's."""
        self.sources: dict[Path, Path] = {}

    def write(self, path: Path, data: bytes, mode: int) -> None:
        self._step("write", path)
        if self._torn:
            super().write(path, data[: len(data) // 2], mode)
            self._die()
        super().write(path, data, mode)
        self.synced_bytes[path] = 0

    def append(self, file: BinaryIO, data: bytes) -> None:
        path = Path(file.name)
        self._step("append", path)
        self.synced_bytes.setdefault(path, path.stat().st_size)
        if self._torn:
            super().append(file, data[: len(data) // 2])
            self._die()
        super().append(file, data)

    def fsync(self, path: Path) -> None:
        self._step("fsync", path)
        super().fsync(path)
        self.synced_bytes.pop(path, None)

    def fsync_directory(self, path: Path) -> None:
        self._step("fsync directory", path)
        super().fsync_directory(path)
        self.undo = [change for change in self.undo if change[0] != path]

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        before = target.read_bytes() if target.exists() else None
        self.undo.append((target.parent, target, before, source.read_bytes()))
        self.sources[target] = source
        if source in self.synced_bytes:  # renamed before it was durable: the new name may hold nothing
            self.synced_bytes[target] = self.synced_bytes.pop(source)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        if path.exists():
            self.undo.append((path.parent, path, path.read_bytes(), None))
        super().unlink(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self._step("mkdir", path)
        super().mkdir(path, mode)

    @property
    def _torn(self) -> bool:
        return self.count == self.cut_at and self.mode == "torn"

    def _step(self, name: str, path: Path) -> None:
        self.count += 1
        with self.log.open("a") as file:
            dirty = bool(self.synced_bytes or self.undo)
            file.write(json.dumps([self.count, name, path.name, self.phase, dirty]) + "\n")
        if self.count == self.cut_at and self.mode != "torn":
            self._die()

    def _die(self) -> None:
        if self.mode == "lost":
            for _, path, before, moved in reversed(self.undo):
                if moved is not None:
                    self.sources[path].write_bytes(moved)
                if before is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(before)
        for path, length in self.synced_bytes.items() if self.mode in ("lost", "garbage") else ():
            if path.exists():
                size = path.stat().st_size
                os.truncate(path, length)
                if self.mode == "garbage":
                    os.truncate(path, size)  # zeros, as a journal that orders metadata before data leaves them
        os.kill(os.getpid(), signal.SIGKILL)
