"""Where a service keeps its things: a data directory that one process holds, and an object store."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from distillnet.cloud.fleet.errors import FleetError


@contextmanager
def held(data: Path) -> Iterator[None]:
    """Hold a data directory against another instance."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data / "lock").open("w")
    except OSError as exc:
        raise FleetError(f"{data}: the data directory cannot be written: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise FleetError(f"{data}: another `distillnet serve` is using this data directory") from exc
        yield


def open_store(url: str | None, data: Path) -> Any:
    """Open the object store behind a URL; None is `objects/` in the data directory.

    Raises:
        FleetError: no such store.

    """
    if url is None:
        return LocalStore(data / "objects", mkdir=True)
    try:
        return from_url(url)
    except (BaseError, ValueError) as exc:
        raise FleetError(f"the object store {url!r} cannot be used: {exc}") from exc
