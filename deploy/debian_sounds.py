"""Hours of sounds nobody labelled, out of Debian's games, toys and samples, for `make eval-audio`.

Called with the folder to fill; what is there already is left alone. The packages' licences are free; nothing of them is
kept in the repository. Music and voices are left out, and of files with the same bytes all but one.
"""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import debian_archive
import soundfile

from distillnet.engine.sound import SUFFIXES

PACKAGES = (
    "0ad-data",
    "7kaa-data",
    "ardentryst",
    "atanks-data",
    "boswars-data",
    "btanks-data",
    "bzflag-data",
    "caveexpress-data",
    "colobot-common-sounds",
    "crrcsim-data",
    "csoundqt-examples",
    "cube2-data",
    "endless-sky-data",
    "extremetuxracer-data",
    "flare-game",
    "flightgear-data-base",
    "freedroidrpg-data",
    "hedgewars-data",
    "lincity-ng-data",
    "lugaru-data",
    "manaplus-data",
    "marsshooter-data",
    "megaglest-data",
    "minetest-data",
    "minetest-mod-homedecor",
    "minetest-mod-mobs-redo",
    "netpanzer-data",
    "openarena-data",
    "opencity-data",
    "oxygen-sounds",
    "planetblupi-common",
    "plee-the-bear-data",
    "pysiogame",
    "python3-pyo",
    "qabcs-data",
    "redeclipse-data",
    "scorched3d-data",
    "scratch",
    "searchandrescue-data",
    "simutrans-pak64",
    "sonic-pi-samples",
    "supertux-data",
    "trigger-rally-data",
    "triplea",
    "tuxfootball",
    "tuxpaint-stamps-default",
    "warmux-data",
    "warzone2100-data",
    "wesnoth-1.16-data",
    "widelands-data",
    "wordwarvi-sound",
)
ARCHIVES = (".zip", ".wz", ".pk3")
SHORTEST_S = 0.1
LEFT_OUT = re.compile(
    r"/(music|songs|soundtrack|voices?|voice_samples|speech|tutorial|memressp|sequenceaudio|alphabets|words|mk-viii)/|_desc",
    re.IGNORECASE,
)


def fill(folder: Path) -> int:
    """Unpack the sounds of all packages into `folder`, a folder for each package; returns how many there are.

    Raises:
        debian_archive.ArchiveError: no apt, or no source of Debian 12 on this machine.
        subprocess.CalledProcessError: a package cannot be fetched or unpacked.

    """
    folder.mkdir(parents=True)
    digests: set[bytes] = set()
    for index, package in enumerate(PACKAGES, 1):
        print(f"{index} of {len(PACKAGES)}: {package}", file=sys.stderr)  # noqa: T201
        with tempfile.TemporaryDirectory(prefix="sounds-", dir=folder) as place:
            deb = debian_archive.download("amd64", package, Path(place))
            for name, data in _sounds(deb):
                digest = hashlib.sha256(data).digest()
                if digest in digests or not _can_be_heard(data):
                    continue
                digests.add(digest)
                target = folder / package / f"{digest.hex()[:12]}-{Path(name).name.lower()}"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)
    return len(digests)


def _sounds(deb: Path) -> Iterator[tuple[str, bytes]]:
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as files,
    ):
        for member in files:
            file = files.extractfile(member) if member.isfile() else None
            if file is not None and _is_sound(member.name):
                yield member.name, file.read()
            elif file is not None and member.name.lower().endswith(ARCHIVES):
                yield from _packed(file.read())
    if unpacking.returncode:
        raise subprocess.CalledProcessError(unpacking.returncode, unpacking.args)


def _packed(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if _is_sound(f"/{name}"):
                yield name, archive.read(name)


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not LEFT_OUT.search(name)


def _can_be_heard(data: bytes) -> bool:
    """Films are called .ogg, too, and some files hold next to nothing."""
    try:
        return bool(soundfile.info(io.BytesIO(data)).duration > SHORTEST_S)
    except soundfile.SoundFileError:
        return False


def main() -> None:
    """Fill the folder that the command line names."""
    folder = Path(sys.argv[1])
    if folder.is_dir():
        return
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    try:
        count = fill(half)
    except (debian_archive.ArchiveError, subprocess.CalledProcessError) as exc:
        raise SystemExit(f"error: {exc}") from exc
    half.rename(folder)
    print(f"{count} sounds in {folder}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
