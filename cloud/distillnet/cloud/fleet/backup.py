"""Copies of a service's data directory that can take its place: keys, certificates, database, repository.

The database is copied first and in one piece (SQLite's own `VACUUM INTO`, while the service runs), the repository
after it, `timestamp.json` before the files it leads to. So the repository may be newer than the database, never older:
a service that starts from it counts on from the versions that are signed in.
"""

import shutil
import sqlite3
from pathlib import Path

from distillnet.cloud.fleet.errors import FleetError
from distillnet.cloud.fleet.files import write_private

_OWN = ("pki", "keys", "admin")
_OFFLINE = "offline"


def make(data: Path, out: Path, *, with_offline: bool = False) -> dict[str, int]:
    """Copy a data directory to `out`; returns the number of files and bytes. The offline keys only when asked for.

    Raises:
        FleetError: `data` is no data directory with its database and objects inside, or `out` is there already.

    """
    database, objects = data / "fleet.db", data / "objects"
    if not database.exists() or not objects.is_dir():
        raise FleetError(
            f"{data}: has no fleet.db and objects/; a database or object store by URL is backed up with its own tools"
        )
    try:
        out.mkdir(parents=True, mode=0o700)
    except FileExistsError as exc:
        raise FleetError(f"{out}: is there already; name a directory that is not") from exc
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        connection.execute("VACUUM INTO ?", (str(out / "fleet.db"),))
    finally:
        connection.close()
    first = "metadata/timestamp.json"
    write_private(out / "objects" / first, (objects / first).read_bytes())
    for path in sorted(objects.rglob("*")):
        relative = path.relative_to(objects)
        if path.is_file() and str(relative) != first and "#" not in path.name:
            (out / "objects" / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / "objects" / relative)
    for name in _OWN:
        for path in sorted((data / name).rglob("*.pem")) + sorted((data / name).rglob("*.json")):
            if with_offline or _OFFLINE not in path.relative_to(data).parts:
                write_private(out / path.relative_to(data), path.read_bytes())
    copied = [path for path in out.rglob("*") if path.is_file()]
    return {"files": len(copied), "bytes": sum(path.stat().st_size for path in copied)}
