"""What may be installed: TUF's client workflow over our fetcher, and the download of what it vouches for.

`Updater` verifies the metadata; `TargetFile.verify_length_and_hashes` verifies the student. Only the way to the disk
is ours: metadata is made durable, and a download grows in one place so that it can resume and need not be copied.
"""

import datetime
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
)
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from distillnet.device.update.errors import RefusedError, StoppedError, TooSlowError, TransientError
from distillnet.device.update.fetcher import ConnectionLostError, GrpcFetcher
from distillnet.device.update.files import Files
from distillnet.proto.archive import MAX_STUDENT_BYTES

log = logging.getLogger(__name__)

_METADATA_URL = "metadata/"
_TARGETS_URL = "targets/"


@dataclass(frozen=True)
class SignedTarget:
    """A student as the signed metadata names it. Only what is here is believed about it."""

    path: str
    application: str
    version: int
    digest: str
    size_bytes: int
    boards: tuple[str, ...]
    minimum_runtime: str
    hold: bool
    downgrade: bool
    file: TargetFile

    @property
    def url(self) -> str:
        """Where its bytes are served: hash-prefixed, as consistent snapshots are."""
        directory, slash, name = self.path.rpartition("/")
        return f"{_TARGETS_URL}{directory}{slash}{self.digest.removeprefix('sha256:')}.{name}"


class Trust:
    """One look at the repository: `refresh` once, then ask. Make a new one for the next look."""

    def __init__(
        self, directory: Path, root: bytes, fetcher: GrpcFetcher, files: Files, now: datetime.datetime
    ) -> None:
        """Start from `root`, the metadata trusted since enrolment; `now` decides what has expired.

        Raises:
            RefusedError: the root is not valid, or the directory cannot be written.

        """
        self._directory = directory
        self._fetcher = fetcher
        self._files = files
        try:
            files.make_directory(directory)
            self._updater = _DurableUpdater(directory, root, fetcher, files, now)
        except (RepositoryError, OSError) as exc:
            raise RefusedError(f"the trust root cannot be used: {exc}", final=False) from exc

    def refresh(self) -> None:
        """Bring the metadata up to date.

        Raises:
            TransientError: the network failed.
            RefusedError: what the server has is not trustworthy; never final, for it says nothing about a student.

        """
        _translated(self._updater.refresh)

    def target(self, path: str) -> SignedTarget:
        """Return what is signed about `path`.

        Raises:
            RefusedError: nothing, or not what a student needs.

        """
        found: TargetFile | None = None

        def look() -> None:
            nonlocal found
            found = self._updater.get_targetinfo(path)

        _translated(look)
        if found is None:
            raise RefusedError(f"{path!r} is not in the signed metadata", final=False)
        return _signed(path, found)

    def newest(self, application: str) -> SignedTarget | None:
        """Return the highest version of an application that is not held back for a rollout; None if there is none.

        Call after `refresh`: reads the verified metadata it left on the disk.
        """
        targets: Metadata[Targets] = Metadata.from_file(str(self._directory / "targets.json"))
        candidates = []
        for path, file in targets.signed.targets.items():
            try:
                candidates.append(_signed(path, file))
            except RefusedError as exc:
                log.warning("%s", exc)
        mine = [target for target in candidates if target.application == application and not target.hold]
        return max(mine, key=lambda target: target.version, default=None)

    def expect_breaks(self) -> None:
        """See `GrpcFetcher.expect_breaks`."""
        self._fetcher.expect_breaks()

    def download(self, target: SignedTarget, partial: Path, progress: Callable[[int], None]) -> None:
        """Fetch a target into `partial`, resuming, and verify it.

        Raises:
            TransientError: broken off; call again to go on.
            RefusedError: the bytes served are not the ones signed. Nothing of them is left.

        """
        resumed = partial.exists() and partial.stat().st_size > 0
        try:
            self._download(target, partial, progress)
        except LengthOrHashMismatchError:
            self._files.remove(partial)
            if not resumed:
                raise RefusedError(f"{target.path}: the bytes served are not the ones signed", final=False) from None
            log.warning("%s: the resumed download does not have the signed hash; starting over", target.path)
            self.download(target, partial, progress)

    def _download(self, target: SignedTarget, partial: Path, progress: Callable[[int], None]) -> None:
        def fetch() -> None:
            self._fetcher.download_into(target.url, target.size_bytes, partial, self._files, progress)

        try:
            _translated(fetch)
        except RefusedError:
            self._files.remove(partial)
            raise
        with partial.open("rb") as file:
            target.file.verify_length_and_hashes(file)


class _DurableUpdater(Updater):
    """ngclient's workflow, with its files fsynced and its clock given. Both hooks are pinned by tests."""

    def __init__(
        self, directory: Path, root: bytes, fetcher: GrpcFetcher, files: Files, now: datetime.datetime
    ) -> None:
        self._files = files
        config = UpdaterConfig(targets_max_length=2_000_000, snapshot_max_length=500_000)
        super().__init__(str(directory), _METADATA_URL, fetcher=fetcher, config=config, bootstrap=root)
        self._trusted_set.reference_time = now

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not (path.is_file() and path.read_bytes() == data):  # the root comes by at every look: spare the flash
            self._files.replace(path, data)

    def _update_root_symlink(self) -> None:
        """The root is always given, never read from a link."""


def _translated(action: Callable[[], Any]) -> None:
    try:
        action()
    except ConnectionLostError as exc:
        if str(exc).endswith(": stopped"):
            raise StoppedError("the daemon is stopping") from exc
        raise TransientError(str(exc), retry_after_s=exc.retry_after_s) from exc
    except SlowRetrievalError as exc:
        raise TooSlowError(f"too slow: {exc}") from exc
    except DownloadLengthMismatchError as exc:
        raise RefusedError(f"more bytes than allowed: {exc}", final=False) from exc
    except DownloadHTTPError as exc:
        raise RefusedError(f"the repository is incomplete: {exc}", final=False) from exc
    except DownloadError as exc:
        raise RefusedError(f"the repository cannot be fetched: {exc}", final=False) from exc
    except ExpiredMetadataError as exc:
        raise RefusedError(f"the metadata has expired, or this board's clock is wrong: {exc}", final=False) from exc
    except RepositoryError as exc:
        raise RefusedError(f"the metadata is not trustworthy: {exc}", final=False) from exc
    except OSError as exc:
        raise RefusedError(f"cannot be stored: {exc.strerror or exc}", final=False) from exc


def _signed(path: str, file: TargetFile) -> SignedTarget:
    custom = file.custom or {}
    sha256 = str(file.hashes.get("sha256", ""))
    if len(sha256) != hashlib.sha256().digest_size * 2:
        raise RefusedError(f"{path}: is signed without a SHA-256 hash", final=False)
    if file.length > MAX_STUDENT_BYTES:
        raise RefusedError(f"{path}: has {file.length} bytes; a student has at most {MAX_STUDENT_BYTES}", final=False)
    version, boards = custom.get("version"), custom.get("boards", [])
    if (
        not isinstance(custom.get("application"), str)
        or not isinstance(version, int)
        or version < 0
        or not isinstance(boards, list)
        or custom.get("digest", f"sha256:{sha256}") != f"sha256:{sha256}"
    ):
        raise RefusedError(f"{path}: its signed custom metadata does not describe a student", final=False)
    return SignedTarget(
        path=path,
        application=custom["application"],
        version=version,
        digest=f"sha256:{sha256}",
        size_bytes=file.length,
        boards=tuple(str(board) for board in boards),
        minimum_runtime=str(custom.get("minimum_runtime", "")),
        hold=custom.get("hold") is True,
        downgrade=custom.get("downgrade") is True,
        file=file,
    )
