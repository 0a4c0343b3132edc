"""Attacks on the way of a student to a board, after python-tuf's client conformance cases. Data for tests and report.

Each attack starts with a board that runs version 1, tries to get version 2 onto it, and says what the board must
answer. What it did is undone by `Attack.heal`, after which version 9 must be taken.
"""

import copy
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import hostile
import tiny
from board import Board
from simulated_cloud import DAY, SimulatedCloud, utc
from tuf.api.metadata import Metadata

from distillnet.proto.v1 import artifacts_pb2, fleet_pb2

Mount = Callable[[SimulatedCloud, Board], fleet_pb2.Directive]


@dataclass(frozen=True)
class Attack:
    """`mount` prepares it and returns the directive to send; `expected` is a pattern of the reported reason."""

    name: str
    mount: Mount
    expected: str
    trial: bool = False


def heal(cloud: SimulatedCloud) -> None:
    """Make the repository honest again, past everything an attacker signed."""
    repository = cloud.repository
    cloud.fetch_hook, cloud.busy = None, lambda request: None
    for signed in (repository.targets, repository.snapshot, repository.timestamp):
        signed.version += 50
        signed.expires = utc() + 30 * DAY
    repository.write_all()


def _publish(cloud: SimulatedCloud, version: int = 2) -> fleet_pb2.Directive:
    return cloud.publish(version, tiny.numbered(version))


def _replaced(cloud: SimulatedCloud, change: Callable[[bytes], bytes]) -> fleet_pb2.Directive:
    directive = _publish(cloud)
    path = next(name for name in cloud.repository.files if "/2/" in name)
    cloud.repository.files[path] = change(cloud.repository.files[path])
    return directive


def _arbitrary_software(cloud, board):
    return _replaced(cloud, lambda data: data[:-40] + bytes(40))


def _longer(cloud, board):
    return _replaced(cloud, lambda data: data + b"more")


def _shorter(cloud, board):
    return _replaced(cloud, lambda data: data[:-5])


def _missing(cloud, board):
    directive = _publish(cloud)
    del cloud.repository.files[next(name for name in cloud.repository.files if "/2/" in name)]
    return directive


def _unsigned(role: str) -> Mount:
    def mount(cloud, board):
        repository = cloud.repository
        directive = _publish(cloud)
        name = (
            "metadata/timestamp.json" if role == "timestamp" else f"metadata/{repository.snapshot.version}.{role}.json"
        )
        metadata = Metadata.from_bytes(repository.files[name])
        metadata.signatures.clear()
        repository.files[name] = metadata.to_bytes()
        return directive

    return mount


def _stranger_signs(role: str) -> Mount:
    def mount(cloud, board):
        repository = cloud.repository
        honest = repository.signers[role]
        repository.signers[role] = [type(honest[0]).generate_ecdsa()]
        directive = _publish(cloud)
        repository.signers[role] = honest
        return directive

    return mount


def _timestamp_rollback(cloud, board):
    old = cloud.repository.files["metadata/timestamp.json"]
    board.take(5)
    directive = _publish(cloud, 6)
    cloud.repository.files["metadata/timestamp.json"] = old
    return directive


def _snapshot_rollback(cloud, board):
    repository = cloud.repository
    old = copy.deepcopy(repository.snapshot)
    board.take(5)
    directive = _publish(cloud, 6)
    keep, repository.snapshot = repository.snapshot, old
    repository.timestamp.version += 1
    repository.write_timestamp()
    repository.snapshot = keep
    return directive


def _targets_rollback(cloud, board):
    repository = cloud.repository
    old = copy.deepcopy(repository.targets)
    board.take(5)
    directive = _publish(cloud, 6)
    keep, repository.targets = repository.targets, old
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.write_snapshot()
    repository.write_timestamp()
    repository.targets = keep
    return directive


def _expired(role: str) -> Mount:
    def mount(cloud, board):
        signed = getattr(cloud.repository, role)
        signed.expires = utc() - datetime.timedelta(seconds=5)
        return _publish(cloud)

    return mount


def _mix_and_match(cloud, board):
    repository = cloud.repository
    directive = _publish(cloud)
    older = repository.files[f"metadata/{repository.targets.version - 1}.targets.json"]
    repository.files[f"metadata/{repository.targets.version}.targets.json"] = older
    return directive


def _fast_forward(cloud, board):
    repository = cloud.repository
    repository.timestamp.version = 2**31 - 100
    directive = _publish(cloud)
    cloud.send(board.name, directive)
    cloud.wait_outcome(directive)
    repository.timestamp.version = 10
    return _publish(cloud, 6)


def _endless(prefix: str) -> Mount:
    def mount(cloud, board):
        def flood(request, chunks):
            if not request.path.startswith(prefix):
                yield from chunks
                return
            offset, piece = request.offset, bytes(64 << 10)
            while True:
                yield artifacts_pb2.Chunk(offset=offset, data=piece, total_size=offset + len(piece) + 1)
                offset += len(piece)

        cloud.fetch_hook = flood
        return _publish(cloud)

    return mount


def _pieces(change: Callable[[artifacts_pb2.Chunk], artifacts_pb2.Chunk]) -> Mount:
    def mount(cloud, board):
        def bend(request, chunks):
            for chunk in chunks:
                yield change(chunk) if request.path.startswith("targets/") else chunk

        cloud.fetch_hook = bend
        return _publish(cloud)

    return mount


def _oversized_message(cloud, board):
    def bloat(request, chunks):
        for chunk in chunks:
            chunk.data += bytes(4 << 20) if request.path.startswith("targets/") else b""
            yield chunk

    cloud.fetch_hook = bloat
    return _publish(cloud)


def _stall(seconds: float, every: int) -> Mount:
    def mount(cloud, board):
        def wait(request, chunks):
            for chunk in chunks:
                if not request.path.startswith("targets/"):
                    yield chunk
                    continue
                for at in range(0, len(chunk.data), every):
                    cloud.closing.wait(seconds)
                    piece = chunk.data[at : at + every]
                    yield artifacts_pb2.Chunk(offset=chunk.offset + at, data=piece, total_size=chunk.total_size)

        cloud.fetch_hook = wait
        return _publish(cloud)

    return mount


def _busy_for_ever(cloud, board):
    cloud.busy = lambda request: 0.1 if request.path.startswith("targets/") else None
    return _publish(cloud)


def _key_compromise(role: str) -> Mount:
    """The thief signs with the key that was revoked by a new root."""

    def mount(cloud, board):
        repository = cloud.repository
        stolen = repository.rotate(role)
        honest = repository.signers[role]
        repository.signers[role] = [stolen]
        directive = _publish(cloud)
        repository.signers[role] = honest
        return directive

    return mount


def _root_by_stranger(cloud, board):
    repository = cloud.repository
    honest_root, honest = copy.deepcopy(repository.root), repository.signers["root"]
    stranger = type(honest[0]).generate_ecdsa()
    repository.root.revoke_key(honest[0].public_key.keyid, "root")
    repository.root.add_key(stranger.public_key, "root")
    repository.root.version += 1
    repository.signers["root"] = [stranger]
    repository.write_root()
    directive = _publish(cloud)
    repository.root, repository.signers["root"] = honest_root, honest
    cloud.undo = lambda: repository.files.pop(f"metadata/{honest_root.version + 1}.root.json")
    return directive


def _root_of_another_version(cloud, board):
    """Signed as it must be, but served under another version's name: the client asked for the next one."""
    repository = cloud.repository
    name = f"metadata/{repository.root.version + 1}.root.json"
    ahead = copy.deepcopy(repository.root)
    ahead.version += 2
    repository.files[name] = repository.sign("root", ahead)
    cloud.undo = lambda: repository.files.pop(name)
    return _publish(cloud)


def _below_threshold(change: Callable[[list], list]) -> Mount:
    """Two keys must sign the targets and one did; `change` is what the attacker does with its signatures."""

    def mount(cloud, board):
        repository = cloud.repository
        second = type(repository.signers["targets"][0]).generate_ecdsa()
        repository.root.add_key(second.public_key, "targets")
        repository.root.roles["targets"].threshold = 2
        repository.root.version += 1
        repository.write_root()
        directive = _publish(cloud)
        name = f"metadata/{repository.targets.version}.targets.json"
        document = json.loads(repository.files[name])
        document["signatures"] = change(document["signatures"])
        repository.files[name] = json.dumps(document).encode()
        cloud.undo = lambda: repository.signers["targets"].append(second)
        return directive

    return mount


def _root_expired(cloud, board):
    repository = cloud.repository
    repository.root.expires = utc() - datetime.timedelta(seconds=5)
    repository.root.version += 1
    repository.write_root()

    def renew() -> None:
        repository.root.expires = utc() + 30 * DAY
        repository.root.version += 1
        repository.write_root()

    cloud.undo = renew
    return _publish(cloud)


def _over_length(name: str) -> Mount:
    def mount(cloud, board):
        directive = _publish(cloud)
        repository = cloud.repository
        path = name.format(version=repository.snapshot.version)
        repository.files[path] = repository.files[path][:-1] + b" " * 2_100_000 + b"}"
        return directive

    return mount


def _signed_length_too_large(cloud, board):
    directive = _publish(cloud)
    cloud.repository.targets.targets[directive.update.target_path].length = 1 << 40
    cloud.repository.write_all()
    return directive


def _directive(**lies: object) -> Mount:
    def mount(cloud, board):
        directive = _publish(cloud)
        for name, value in lies.items():
            setattr(directive.update, name, value)
        return directive

    return mount


def _custom(**lies: object) -> Mount:
    def mount(cloud, board):
        directive = cloud.publish(2, tiny.numbered(2))
        cloud.repository.targets.targets[directive.update.target_path].unrecognized_fields["custom"].update(lies)
        cloud.repository.write_all()
        return directive

    return mount


def _garbage(path: str, data: bytes) -> Mount:
    def mount(cloud, board):
        directive = _publish(cloud)
        cloud.repository.files[path.format(version=cloud.repository.targets.version)] = data
        return directive

    return mount


def _hostile(build: Callable[[int], bytes]) -> Mount:
    return lambda cloud, board: cloud.publish(2, build(2))


def _chunk(**changes: object) -> Callable[[artifacts_pb2.Chunk], artifacts_pb2.Chunk]:
    def change(chunk: artifacts_pb2.Chunk) -> artifacts_pb2.Chunk:
        for name, value in changes.items():
            setattr(chunk, name, value)
        return chunk

    return change


_UNTRUSTED = "not trustworthy"
_SLOW = "too slow"

ATTACKS = [
    Attack("arbitrary software: other bytes of the same length", _arbitrary_software, "not the ones signed"),
    Attack("wrong length: longer than signed", _longer, "more bytes than allowed"),
    Attack("wrong length: shorter than signed", _shorter, "ends after"),
    Attack("target missing", _missing, "incomplete"),
    Attack("timestamp without signature", _unsigned("timestamp"), _UNTRUSTED),
    Attack("snapshot without signature", _unsigned("snapshot"), _UNTRUSTED),
    Attack("targets without signature", _unsigned("targets"), _UNTRUSTED),
    Attack("timestamp signed by a stranger", _stranger_signs("timestamp"), _UNTRUSTED),
    Attack("snapshot signed by a stranger", _stranger_signs("snapshot"), _UNTRUSTED),
    Attack("targets signed by a stranger", _stranger_signs("targets"), _UNTRUSTED),
    Attack("rollback: an old timestamp", _timestamp_rollback, _UNTRUSTED),
    Attack("rollback: an old snapshot", _snapshot_rollback, _UNTRUSTED),
    Attack("rollback: old targets", _targets_rollback, _UNTRUSTED),
    Attack("freeze: expired timestamp", _expired("timestamp"), "expired"),
    Attack("freeze: expired snapshot", _expired("snapshot"), "expired"),
    Attack("freeze: expired targets", _expired("targets"), "expired"),
    Attack("freeze: expired root", _root_expired, "expired"),
    Attack("mix and match: targets of another day", _mix_and_match, _UNTRUSTED),
    Attack("fast forward of the timestamp, then back", _fast_forward, _UNTRUSTED),
    Attack("endless data: timestamp", _endless("metadata/timestamp"), "more bytes than allowed"),
    Attack("endless data: next root", _endless("metadata/2.root"), "more bytes than allowed"),
    Attack("endless data: target", _endless("targets/"), "more bytes than allowed"),
    Attack("message of 4 MB where 16 kB are due", _oversized_message, "gave up after .* larger than max"),
    Attack("pieces out of order", _pieces(_chunk(offset=7)), "cannot be fetched"),
    Attack("empty pieces for ever", _pieces(_chunk(data=b"")), "cannot be fetched"),
    Attack("total size that lies", _pieces(_chunk(total_size=1)), "cannot be fetched"),
    Attack("slow retrieval: a trickle", _stall(0.1, 64), _SLOW),
    Attack("slow retrieval: silence", _stall(30.0, 1 << 14), _SLOW),
    Attack("busy for ever, and asking for patience", _busy_for_ever, "was busy for"),
    Attack("timestamp key stolen and revoked", _key_compromise("timestamp"), _UNTRUSTED),
    Attack("snapshot key stolen and revoked", _key_compromise("snapshot"), _UNTRUSTED),
    Attack("targets key stolen and revoked", _key_compromise("targets"), _UNTRUSTED),
    Attack("root signed by a stranger", _root_by_stranger, _UNTRUSTED),
    Attack("root of another version than asked for", _root_of_another_version, _UNTRUSTED),
    Attack("targets signed by one of two keys", _below_threshold(lambda signed: signed), _UNTRUSTED),
    Attack("targets with one signature twice", _below_threshold(lambda signed: signed * 2), _UNTRUSTED),
    Attack("over-length timestamp", _over_length("metadata/timestamp.json"), "more bytes than allowed"),
    Attack("over-length snapshot", _over_length("metadata/{version}.snapshot.json"), "more bytes than allowed"),
    Attack("over-length targets", _over_length("metadata/{version}.targets.json"), "more bytes than allowed"),
    Attack("a terabyte signed as a student", _signed_length_too_large, "a student has at most"),
    Attack("timestamp is no JSON", _garbage("metadata/timestamp.json", b"\xff\x00{"), _UNTRUSTED),
    Attack("targets is the wrong JSON", _garbage("metadata/{version}.targets.json", b'{"signed": []}'), _UNTRUSTED),
    Attack("directive with another digest", _directive(digest="sha256:" + "0" * 64), "announced as"),
    Attack("directive with another version", _directive(version=7), "announced as version 7"),
    Attack("directive with a path out of the repository", _directive(target_path="../../etc/passwd"), "not in the"),
    Attack("signed for another application", _custom(application="birds"), "is for application"),
    Attack("signed digest that contradicts its hash", _custom(digest="sha256:" + "0" * 64), "does not describe"),
    Attack("signed nonsense", _custom(version="two", boards="all"), "does not describe"),
    *(
        Attack(f"signed and hostile: {name}", _hostile(build), expected, trial=True)
        for name, (build, expected) in hostile.HOSTILE.items()
    ),
]  # fmt: skip


def run(attack: Attack, cloud: SimulatedCloud, board: Board) -> str:
    """Mount one attack; returns the reason the board gave. Asserts that it kept running and recovers."""
    directive = attack.mount(cloud, board)
    before = board.running_version
    if directive.id not in {past.directive for past in board.service.record.history}:
        cloud.send(board.name, directive)
    report = cloud.wait_outcome(directive, 60)
    assert report.phase == fleet_pb2.UPDATE_PHASE_REFUSED, report
    assert re.search(attack.expected, report.reason), report.reason
    assert board.running_version == before
    board.slot.current().self_test()
    cloud.undo()
    if "fast forward" in attack.name:
        for role in ("timestamp", "snapshot"):
            cloud.repository.rotate(role)  # the specification's recovery: new keys forget old versions
    heal(cloud)
    healed = board.take(9)
    assert healed.phase == fleet_pb2.UPDATE_PHASE_COMMITTED, healed
    assert board.running_version == 9
    return str(report.reason)
