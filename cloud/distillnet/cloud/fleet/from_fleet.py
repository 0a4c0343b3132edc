"""`distill --from-fleet`: an application file together with what boards gave back for it.

The pictures boards were unsure of become unlabelled data: the teacher says what they are. Pictures of one camera within
an hour form a group, which no split parts. The profile a board measured becomes the budget's board.
"""

import csv
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillnet.cloud import application as applications
from distillnet.cloud.fleet.client import Access, admin
from distillnet.cloud.fleet.errors import FleetError
from distillnet.cloud.jobs.spec import portable, to_toml
from distillnet.proto.files import write_whole
from distillnet.proto.v1 import admin_pb2

FOLDER = "fleet"
APPLICATION, PROFILE, EXAMPLES = "app.toml", "profile.json", "examples.csv"
_MOST = 5_000
_TIMEOUT_S = 600.0
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Collected:
    """What came, and the application file to distil from."""

    application: Path
    examples: int
    devices: int
    profile_of: str | None

    def __str__(self) -> str:
        """One line for people."""
        profile = f"; the profile {self.profile_of!r} measured" if self.profile_of else ""
        return f"from the fleet: {self.examples} examples of {self.devices} devices{profile}"


def collect(application: Path, out: Path, access: Access) -> Collected:
    """Fetch everything into `out`/fleet and write an application file there that names it.

    Args:
        application: the application file; what boards gave back for its name is asked for.
        out: the run's output folder.
        access: an admin's, for these are pictures of people's places.

    Raises:
        ConfigError: the application file is wrong.
        FleetError: the service is away or refuses, there is nothing to be had, or the disk is full.

    """
    wanted = applications.load(application)
    if wanted.application.modality != "image":
        raise FleetError(f"{application}: boards give back pictures only, and this application hears")
    folder = out / FOLDER
    request = admin_pb2.CollectFeedbackRequest(
        application=wanted.application.name, board=wanted.budget.board, limit=_MOST
    )
    rows: list[tuple[str, str]] = []
    devices: set[str] = set()
    profile_of = None
    try:
        with admin(access) as stub:
            for item in stub.CollectFeedback(request, timeout=_TIMEOUT_S):
                if item.HasField("example"):
                    rows.append(_keep(folder, item))
                    devices.add(item.device)
                else:
                    write_whole(folder / PROFILE, item.profile_json)
                    profile_of = item.device
        if not rows and profile_of is None:
            raise FleetError(
                f"no board has given anything back for {wanted.application.name!r}: set [feedback] in device files"
            )
        write_whole(folder / EXAMPLES, _table(rows))
        document = tomllib.loads(portable(application))
        if rows:
            document["data"].setdefault("unlabelled", []).append(str((folder / EXAMPLES).resolve()))
        if profile_of is not None:
            document.setdefault("budget", {})["board"] = str((folder / PROFILE).resolve())
        write_whole(folder / APPLICATION, to_toml(document).encode())
    except OSError as exc:
        raise FleetError(f"{folder}: cannot be written: {exc.strerror}") from exc
    return Collected(folder / APPLICATION, len(rows), len(devices), profile_of)


def _keep(folder: Path, item: Any) -> tuple[str, str]:
    """Write a picture; returns its path relative to `folder`, and its group."""
    example = item.example
    name = f"{item.device}/{example.source}-{int(example.ts * 1000)}-{example.event}.jpg"
    write_whole(folder / name, example.jpeg)
    return name, f"{item.device}-{example.source}/{int(example.ts // _HOUR_S)}"


def _table(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("path", "group"))
    table.writerows(sorted(rows))
    return text.getvalue().encode()
