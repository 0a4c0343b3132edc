"""Every change an update makes to the disk, through one small class, so that a test can cut the power at each.

A file is replaced by write, fsync, rename, fsync of the directory; nothing else ever changes a file in place, except
a download that grows at its end and is hashed before it is believed.
"""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".new"


class Files:
    """The real disk. Each public method is one or more of the primitives below, in the order given here."""

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Put `data` at `path`, whole or not at all, and durable once this returns."""
        temporary = path.with_name(path.name + _TEMPORARY)
        self.write(temporary, data, mode)
        self.fsync(temporary)
        self.rename(temporary, path)
        self.fsync_directory(path.parent)

    def move(self, source: Path, target: Path) -> None:
        """Move a complete file into place, durable once this returns."""
        self.fsync(source)
        self.rename(source, target)
        self.fsync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there; a removal that a power cut undoes does no harm."""
        with contextlib.suppress(FileNotFoundError):
            self.unlink(path)

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory and its parents."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        self.mkdir(path, mode)
        self.fsync_directory(path.parent)

    # Primitives: one system call that matters each

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a new file; not durable yet."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def append(self, file: BinaryIO, data: bytes) -> None:
        """Grow a download; handed to the system at once, not durable yet."""
        file.write(data)
        file.flush()

    def fsync(self, path: Path) -> None:
        """Make a file's content durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def fsync_directory(self, path: Path) -> None:
        """Make a directory's entries durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source`, atomically."""
        source.replace(target)

    def mkdir(self, path: Path, mode: int) -> None:
        """Make one directory."""
        path.mkdir(mode=mode, exist_ok=True)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()
