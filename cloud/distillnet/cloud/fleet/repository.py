"""The TUF repository: what makes a student trusted, as signed metadata beside the bytes in an object store.

`timestamp.json` is written last, so a reader sees the old or the new repository and never a mixture. One writer at a
time: the caller holds the database's `repository` lock. The root key stays out of here after `create`.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import obstore
from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from distillnet.cloud.fleet.config import TrustSection
from distillnet.cloud.fleet.errors import FleetError

ONLINE_ROLES: Final = ("targets", "snapshot", "timestamp")
_REFRESH_SHARE = 0.5  # signed anew when less than this share of the lifetime is left


@dataclass(frozen=True)
class Published:
    """A student as the signed metadata names it."""

    application: str
    version: int
    digest: str
    boards: list[str]
    minimum_runtime: str
    hold: bool = False

    @property
    def path(self) -> str:
        """The TUF target path."""
        return target_path(self.application, self.version)

    @property
    def custom(self) -> dict[str, Any]:
        """The custom part of the signed target."""
        facts: dict[str, Any] = {
            "application": self.application,
            "version": self.version,
            "digest": self.digest,
            "boards": self.boards,
            "minimum_runtime": self.minimum_runtime,
        }
        return facts | ({"hold": True} if self.hold else {})


def target_path(application: str, version: int) -> str:
    """`{application}/{version}/student.tflite`."""
    return f"{application}/{version}/student.tflite"


class Repository:
    """Metadata and targets under one object store."""

    def __init__(self, store: Any, signers: Mapping[str, Signer], lifetimes: TrustSection) -> None:
        """Keep `signers` for the roles of `ONLINE_ROLES` and how long each signature lasts."""
        self._store = store
        self._signers = signers
        self._lifetimes = lifetimes
        self._days = {
            "root": lifetimes.root_days,
            "targets": lifetimes.targets_days,
            "snapshot": lifetimes.snapshot_days,
            "timestamp": lifetimes.timestamp_days,
        }

    def exists(self) -> bool:
        """Whether the repository has been made."""
        return self._get("metadata/timestamp.json") is not None

    def create(self, root_signers: Sequence[Signer], threshold: int, now: float) -> None:
        """Make an empty repository. The only use of root keys besides `rotate`."""
        root = Root(expires=self._expiry("root", now), consistent_snapshot=True)
        for signer in root_signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        for role in ONLINE_ROLES:
            root.add_key(self._signers[role].public_key, role)
        self._write_root(Metadata(root), root_signers)
        self._write_targets(Metadata(Targets(expires=self._expiry("targets", now))))
        self._write_snapshot(Metadata(Snapshot(expires=self._expiry("snapshot", now))), 1)
        self._write_timestamp(Metadata(Timestamp(expires=self._expiry("timestamp", now))), 1)

    def rotate(
        self,
        role: str,
        new: Sequence[Signer],
        root_signers: Sequence[Signer],
        now: float,
        threshold: int | None = None,
    ) -> None:
        """Name other keys for a role, signed by the root keys in force; `new` for an online role is in use already.

        `threshold` of the new root keys must sign from then on; None = as many as before, where there are so many.

        Raises:
            FleetError: too few of the root keys in force were given.

        """
        given = self.check_roots(root_signers)
        metadata: Metadata[Root] = Metadata.from_bytes(self.root())
        root = metadata.signed
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for signer in new:
            root.add_key(signer.public_key, role)
        before = root.roles[role].threshold
        root.roles[role].threshold = (threshold or min(before, len(new))) if role == "root" else 1
        root.version += 1
        root.expires = self._expiry("root", now)
        self._write_root(metadata, [*given, *(new if role == "root" else ())])
        targets, snapshot, timestamp = self._current()
        self._advance(targets, snapshot, timestamp, now)

    def check_roots(self, signers: Sequence[Signer]) -> list[Signer]:
        """Return those of `signers` that are root keys in force.

        Raises:
            FleetError: they are too few to sign a new root.

        """
        root: Metadata[Root] = Metadata.from_bytes(self.root())
        allowed = root.signed.roles["root"]
        given = [signer for signer in signers if signer.public_key.keyid in allowed.keyids]
        if len(given) < allowed.threshold:
            raise FleetError(
                f"{allowed.threshold} of the root keys must sign; {len(given)} of those given are root keys"
            )
        return given

    def with_signer(self, role: str, signer: Signer) -> "Repository":
        """Return the same repository with another key for one role."""
        return Repository(self._store, {**self._signers, role: signer}, self._lifetimes)

    def check_signers(self) -> None:
        """Raise `FleetError` unless the online keys here are those that the root names."""
        root: Metadata[Root] = Metadata.from_bytes(self.root())
        for role in ONLINE_ROLES:
            if self._signers[role].public_key.keyid not in root.signed.roles[role].keyids:
                raise FleetError(
                    f"the {role} key here is not the one that boards trust: bring the right keys/{role}.pem back, "
                    f"or run `distillnet keys rotate {role}`"
                )

    def roles(self) -> dict[str, dict[str, Any]]:
        """Every role's keys, threshold, version and end of its signature."""
        targets, snapshot, timestamp = self._current()
        root: Metadata[Root] = Metadata.from_bytes(self.root())
        all_metadata: dict[str, Metadata[Any]] = {"root": root, "targets": targets}
        all_metadata |= {"snapshot": snapshot, "timestamp": timestamp}
        return {
            role: {
                "version": metadata.signed.version,
                "expires_ts": metadata.signed.expires.timestamp(),
                "threshold": root.signed.roles[role].threshold,
                "keyids": sorted(root.signed.roles[role].keyids),
            }
            for role, metadata in all_metadata.items()
        }

    def root(self) -> bytes:
        """Return the newest root metadata: what a board that enrols starts to trust."""
        version, newest = 1, self._get("metadata/1.root.json")
        if newest is None:
            raise FleetError("the repository has no root metadata")
        while (following := self._get(f"metadata/{version + 1}.root.json")) is not None:
            version, newest = version + 1, following
        return newest

    def publish(self, published: Published, data: bytes, now: float) -> None:
        """Store a student's bytes, then sign it in; unless it is held, boards may go back to older ones no longer."""
        target = TargetFile.from_data(published.path, data, ["sha256"])
        target.unrecognized_fields["custom"] = published.custom
        directory, _, name = published.path.rpartition("/")
        self._put(f"targets/{directory}/{target.hashes['sha256']}.{name}", data)
        targets, snapshot, timestamp = self._current()
        targets.signed.targets[published.path] = target
        if not published.hold:
            _forbid_downgrades(targets, published.application, published.version)
        self._advance(targets, snapshot, timestamp, now)

    def release(self, path: str, now: float) -> None:
        """Take the `hold` off a target: boards may find it by themselves now, and go back to older ones no longer."""
        targets, snapshot, timestamp = self._current()
        target = targets.signed.targets.get(path)
        if target is None:
            return
        facts = target.unrecognized_fields["custom"]
        held = facts.pop("hold", False)
        if _forbid_downgrades(targets, facts["application"], facts["version"]) or held:
            self._advance(targets, snapshot, timestamp, now)

    def allow_downgrade(self, path: str, now: float) -> None:
        """Sign that boards with a newer version may go back to a target, and put the `hold` on the newer ones.

        Raises:
            FleetError: no such target is signed in.

        """
        targets, snapshot, timestamp = self._current()
        if path not in targets.signed.targets:
            raise FleetError(f"{path} is not in the signed metadata")
        facts = targets.signed.targets[path].unrecognized_fields["custom"]
        facts["downgrade"] = True
        for other in _customs(targets, facts["application"]):
            if other["version"] > facts["version"]:
                other["hold"] = True
        self._advance(targets, snapshot, timestamp, now)

    def highest(self, application: str) -> int:
        """Return the highest version of an application ever signed in; 0 when there is none."""
        targets, _, _ = self._current()
        return max((int(facts["version"]) for facts in _customs(targets, application)), default=0)

    def custom(self, path: str) -> dict[str, Any] | None:
        """Return the signed custom part of a target, or None when no such target is signed in."""
        targets, _, _ = self._current()
        target = targets.signed.targets.get(path)
        return None if target is None else dict(target.custom or {})

    def refresh(self, now: float) -> list[str]:
        """Sign anew what has lived more than half its life; returns the roles signed."""
        targets, snapshot, timestamp = self._current()
        if self._ages(targets, "targets", now):
            self._advance(targets, snapshot, timestamp, now)
            return ["targets", "snapshot", "timestamp"]
        if self._ages(snapshot, "snapshot", now):
            self._advance_snapshot(targets.signed.version, snapshot, timestamp, now)
            return ["snapshot", "timestamp"]
        if self._ages(timestamp, "timestamp", now):
            self._advance_timestamp(snapshot.signed.version, timestamp, now)
            return ["timestamp"]
        return []

    def _current(self) -> tuple[Metadata[Targets], Metadata[Snapshot], Metadata[Timestamp]]:
        timestamp: Metadata[Timestamp] = Metadata.from_bytes(self._require("metadata/timestamp.json"))
        snapshot_version = timestamp.signed.snapshot_meta.version
        snapshot: Metadata[Snapshot] = Metadata.from_bytes(self._require(f"metadata/{snapshot_version}.snapshot.json"))
        targets_version = snapshot.signed.meta["targets.json"].version
        targets: Metadata[Targets] = Metadata.from_bytes(self._require(f"metadata/{targets_version}.targets.json"))
        return targets, snapshot, timestamp

    def _advance(
        self, targets: Metadata[Targets], snapshot: Metadata[Snapshot], timestamp: Metadata[Timestamp], now: float
    ) -> None:
        targets.signed.version += 1
        targets.signed.expires = self._expiry("targets", now)
        self._write_targets(targets)
        self._advance_snapshot(targets.signed.version, snapshot, timestamp, now)

    def _advance_snapshot(
        self, targets_version: int, snapshot: Metadata[Snapshot], timestamp: Metadata[Timestamp], now: float
    ) -> None:
        snapshot.signed.version += 1
        snapshot.signed.expires = self._expiry("snapshot", now)
        self._write_snapshot(snapshot, targets_version)
        self._advance_timestamp(snapshot.signed.version, timestamp, now)

    def _advance_timestamp(self, snapshot_version: int, timestamp: Metadata[Timestamp], now: float) -> None:
        timestamp.signed.version += 1
        timestamp.signed.expires = self._expiry("timestamp", now)
        self._write_timestamp(timestamp, snapshot_version)

    def _write_root(self, metadata: Metadata[Root], signers: Sequence[Signer]) -> None:
        metadata.signatures.clear()
        for signer in signers:
            _sign(metadata, signer, "root", append=True)
        self._put(f"metadata/{metadata.signed.version}.root.json", metadata.to_bytes())

    def _write_targets(self, metadata: Metadata[Targets]) -> None:
        self._sign(metadata, "targets")
        self._put(f"metadata/{metadata.signed.version}.targets.json", metadata.to_bytes())

    def _write_snapshot(self, metadata: Metadata[Snapshot], targets_version: int) -> None:
        metadata.signed.meta["targets.json"] = MetaFile(version=targets_version)
        self._sign(metadata, "snapshot")
        self._put(f"metadata/{metadata.signed.version}.snapshot.json", metadata.to_bytes())

    def _write_timestamp(self, metadata: Metadata[Timestamp], snapshot_version: int) -> None:
        metadata.signed.snapshot_meta = MetaFile(version=snapshot_version)
        self._sign(metadata, "timestamp")
        self._put("metadata/timestamp.json", metadata.to_bytes())

    def _sign(self, metadata: Metadata[Any], role: str) -> None:
        metadata.signatures.clear()
        _sign(metadata, self._signers[role], role)

    def _ages(self, metadata: Metadata[Any], role: str, now: float) -> bool:
        left_s: float = metadata.signed.expires.timestamp() - now
        return left_s < self._days[role] * 86400.0 * _REFRESH_SHARE

    def _expiry(self, role: str, now: float) -> datetime.datetime:
        moment = datetime.datetime.fromtimestamp(now + self._days[role] * 86400.0, datetime.UTC)
        return moment.replace(microsecond=0)

    def _require(self, path: str) -> bytes:
        data = self._get(path)
        if data is None:
            raise FleetError(f"the repository lacks {path}: restore it from a backup")
        return data

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def _put(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data)


def _customs(targets: Metadata[Targets], application: str) -> list[dict[str, Any]]:
    """Return the custom parts of an application's targets, to read and to change."""
    customs = [target.unrecognized_fields.get("custom") or {} for target in targets.signed.targets.values()]
    return [facts for facts in customs if facts.get("application") == application]


def _forbid_downgrades(targets: Metadata[Targets], application: str, version: int) -> bool:
    """Take back the permission to go back to versions older than this one; whether there was any."""
    allowed = [facts for facts in _customs(targets, application) if facts["version"] < version and "downgrade" in facts]
    for facts in allowed:
        del facts["downgrade"]
    return bool(allowed)


def _sign(metadata: Metadata[Any], signer: Signer, role: str, *, append: bool = False) -> None:
    try:
        metadata.sign(signer, append=append)
    except UnsignedMetadataError as exc:  # a token that was pulled out, a key service that is away
        raise FleetError(f"the {role} key cannot sign: {exc}") from exc
