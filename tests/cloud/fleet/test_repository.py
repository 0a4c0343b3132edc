"""The signed repository: as a TUF client sees it, in ranges, and as it ages."""

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import obstore
import pytest
from obstore.store import MemoryStore
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata
from tuf.ngclient import FetcherInterface, Updater

from distillnet.cloud.fleet.artifacts import CHUNK_BYTES
from distillnet.cloud.fleet.config import TrustSection
from distillnet.cloud.fleet.errors import FleetError, RefusedError
from distillnet.cloud.fleet.repository import ONLINE_ROLES, Published, Repository
from distillnet.cloud.fleet.turns import Turns
from distillnet.proto.archive import digest, unpack
from distillnet.proto.v1 import artifacts_pb2, artifacts_pb2_grpc

DAY_S = 86400.0
NOW = float(round(time.time()))


class StoreFetcher(FetcherInterface):
    """Reads straight from an object store."""

    def __init__(self, store) -> None:
        self._store = store

    def _fetch(self, url: str):
        try:
            return iter([bytes(obstore.get(self._store, url).bytes())])
        except FileNotFoundError as exc:
            raise DownloadHTTPError(url, 404) from exc


class BoardFetcher(FetcherInterface):
    """Reads through `Artifacts.Fetch`."""

    def __init__(self, board) -> None:
        self._board = board

    def _fetch(self, url: str):
        try:
            return iter([self._board.fetch(url)[0]])
        except grpc.RpcError as exc:
            raise DownloadHTTPError(url, 404 if exc.code() == grpc.StatusCode.NOT_FOUND else 403) from exc


def updater(fetcher: FetcherInterface, root: bytes, scratch) -> Updater:
    scratch.mkdir(exist_ok=True)
    return Updater(str(scratch), "metadata/", str(scratch), "targets/", fetcher, bootstrap=root)


@pytest.fixture
def repository():
    made = Repository(MemoryStore(), {role: CryptoSigner.generate_ed25519() for role in ONLINE_ROLES}, TrustSection())
    made.root_key = CryptoSigner.generate_ed25519()
    made.create([made.root_key], 1, NOW)
    return made


def published(data: bytes, version: int = 1) -> Published:
    return Published("pets", version, digest(data), ["rpi4"], "0.1.0")


def test_a_client_finds_what_was_published_and_its_custom_facts(repository, tmp_path):
    store = repository._store
    client = updater(StoreFetcher(store), repository.root(), tmp_path)
    repository.publish(published(b"student"), b"student", NOW)
    target = client.get_targetinfo("pets/1/student.tflite")
    assert target.custom == published(b"student").custom
    assert Path(client.download_target(target)).read_bytes() == b"student"


def test_metadata_is_signed_anew_only_when_half_its_life_is_over(repository):
    assert repository.refresh(NOW + 1 * DAY_S) == []
    assert repository.refresh(NOW + 4 * DAY_S) == ["timestamp"]
    assert repository.refresh(NOW + 5 * DAY_S) == []
    assert repository.refresh(NOW + 16 * DAY_S) == ["snapshot", "timestamp"]
    assert repository.refresh(NOW + 50 * DAY_S) == ["targets", "snapshot", "timestamp"]
    ends = {role: facts["expires_ts"] for role, facts in repository.roles().items()}
    assert ends["timestamp"] == NOW + 57 * DAY_S and ends["targets"] == NOW + 140 * DAY_S


def test_an_unfinished_publication_is_not_seen(repository):
    before = obstore.get(repository._store, "metadata/timestamp.json").bytes()
    failing = Repository(repository._store, repository._signers | {"timestamp": Broken()}, TrustSection())
    with pytest.raises(FleetError, match="the timestamp key cannot sign"):
        failing.publish(published(b"student"), b"student", NOW)
    assert obstore.get(repository._store, "metadata/timestamp.json").bytes() == before
    assert repository.custom("pets/1/student.tflite") is None
    repository.publish(published(b"student"), b"student", NOW)
    assert repository.custom("pets/1/student.tflite")["digest"] == digest(b"student")


class Broken(CryptoSigner):
    """A key that is away."""

    def __init__(self) -> None:
        """Hold nothing."""

    def sign(self, payload: bytes):
        raise RuntimeError("no key")


def test_root_key_signs_nothing_after_creation(repository):
    root = Metadata.from_bytes(repository.root()).signed
    online = {key for role in ONLINE_ROLES for key in root.roles[role].keyids}
    assert len(online) == 3 and not online & set(root.roles["root"].keyids)
    assert root.consistent_snapshot


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_client_follows_a_rotation_of_any_key(repository, tmp_path, role):
    store, first_root = repository._store, repository.root()
    repository.publish(published(b"one"), b"one", NOW)
    assert updater(StoreFetcher(store), first_root, tmp_path / "board").get_targetinfo("pets/1/student.tflite")
    signers = dict(repository._signers)
    new = CryptoSigner.generate_ed25519()
    if role != "root":
        signers[role] = new
    rotated = Repository(store, signers, TrustSection())
    with pytest.raises(FleetError, match="root keys must sign"):
        rotated.rotate(role, [new], [CryptoSigner.generate_ed25519()], NOW)
    rotated.rotate(role, [new], [repository.root_key], NOW)
    rotated.check_signers()
    rotated.publish(published(b"two", 2), b"two", NOW)
    for root, home in ((None, "board"), (first_root, "new-board"), (rotated.root(), "newest-board")):
        client = updater(StoreFetcher(store), root, tmp_path / home)
        assert client.get_targetinfo("pets/2/student.tflite").custom["version"] == 2
    if role != "root":
        with pytest.raises(FleetError, match=f"the {role} key here"):
            repository.check_signers()


def test_several_root_keys_must_sign_where_a_threshold_says_so(tmp_path):
    keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
    made = Repository(MemoryStore(), {role: CryptoSigner.generate_ed25519() for role in ONLINE_ROLES}, TrustSection())
    made.create(keys, 2, NOW)
    with pytest.raises(FleetError, match="2 of the root keys"):
        made.rotate("timestamp", [made._signers["timestamp"]], keys[:1], NOW)
    made.rotate("timestamp", [made._signers["timestamp"]], keys[1:], NOW)
    assert updater(StoreFetcher(made._store), made.root(), tmp_path).get_targetinfo("pets/1/student.tflite") is None


@pytest.mark.integration
def test_keys_are_made_rotated_and_shown_from_the_command_line(serve, board, tiny_student, tmp_path):
    data = tmp_path / "data"

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", "keys", *arguments]
        return subprocess.run([*command, "--data", str(data)], capture_output=True, text=True, timeout=30, check=False)

    assert keys("init", "--roots", "2", "--threshold", "2").returncode == 0
    running = serve()
    device = board(running, running.token(applications=["pets"]), "porch")
    running.publish(tiny_student())
    busy = keys("rotate", "timestamp")
    assert busy.returncode == 2 and "another `distillnet serve`" in busy.stderr
    running.stop()
    few = keys("rotate", "timestamp", "--root-key", str(data / "keys" / "offline" / "root-1.pem"))
    assert few.returncode == 2 and "2 of the root keys" in few.stderr
    for role in ("timestamp", "targets", "root"):
        assert keys("rotate", role).returncode == 0
    shown = json.loads(keys("status", "--json").stdout)
    assert shown["root"]["version"] == 4 and shown["root"]["keyids"]
    device.server = serve()
    client = updater(BoardFetcher(device), device.tuf_root, tmp_path / "board")
    assert client.get_targetinfo("pets/1/student.tflite").custom["version"] == 1


@pytest.mark.integration
def test_permission_to_go_back_is_signed_and_ends_when_a_newer_version_is_for_all(repository):
    def signed(word: str) -> list[int]:
        return [v for v in (1, 2, 3, 4) if (repository.custom(f"pets/{v}/student.tflite") or {}).get(word)]

    for version in (1, 2, 3):
        data = f"student {version}".encode()
        repository.publish(published(data, version), data, NOW)
    repository.publish(Published("birds", 9, digest(b"bird"), [], "0.1.0"), b"bird", NOW)
    with pytest.raises(FleetError, match="is not in the signed metadata"):
        repository.allow_downgrade("pets/7/student.tflite", NOW)
    repository.allow_downgrade("pets/1/student.tflite", NOW)
    assert signed("downgrade") == [1] and signed("hold") == [2, 3]
    assert not repository.custom("birds/9/student.tflite").get("hold")
    repository.release("pets/1/student.tflite", NOW)
    assert signed("downgrade") == [1] and signed("hold") == [2, 3]
    repository.publish(Published("pets", 4, digest(b"four"), [], "0.1.0", hold=True), b"four", NOW)
    assert signed("downgrade") == [1]
    repository.release("pets/4/student.tflite", NOW)
    assert signed("downgrade") == [] and signed("hold") == [2, 3]
    repository.allow_downgrade("pets/2/student.tflite", NOW)
    five = Published("pets", 5, digest(b"five"), [], "0.1.0")
    repository.publish(five, b"five", NOW)
    assert signed("downgrade") == []


def test_downloads_beyond_the_turns_are_spread_over_those_to_come():
    turns = Turns(2, clock=lambda: 100.0)
    with turns.turn(), turns.turn():
        waits = [_wait_of(turns) for _ in range(20)]
        assert waits == sorted(waits) and waits[0] >= 4 and waits[-1] == pytest.approx(4 + 20 * 4 / 2)
    with turns.turn():
        pass


def _wait_of(turns: Turns) -> float:
    with pytest.raises(RefusedError) as refused, turns.turn():
        pass
    return refused.value.retry_after_s


def test_busy_service_says_when_to_come_back_serves_metadata_and_frees_the_turn_of_who_went(serve, board, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("[fleet]\ndownloads = 1\n")
    running = serve("--config", str(config))
    name = "targets/pets/1/" + "0" * 64 + ".student.tflite"
    path = running.data / "objects" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(16 << 20))
    device = board(running, running.token())
    with device.channel() as channel:
        stub = artifacts_pb2_grpc.ArtifactsStub(channel)
        request = artifacts_pb2.FetchRequest(path=name)
        first = stub.Fetch(request, timeout=30)
        assert next(first).total_size == 16 << 20
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Fetch(request, timeout=9))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        (pushback,) = [value for key, value in refused.value.trailing_metadata() if key == "grpc-retry-pushback-ms"]
        assert 4000 <= int(pushback) <= 12000
        assert device.fetch("metadata/timestamp.json")[0]
        first.cancel()
        end = time.monotonic() + 10
        while _is_busy(stub, request):
            assert time.monotonic() < end, "the turn of a device that went is not free again"
            time.sleep(0.05)


def _is_busy(stub, request) -> bool:
    call = stub.Fetch(request, timeout=9)
    try:
        next(call)
    except grpc.RpcError:
        return True
    call.cancel()
    return False


class TestServed:
    """Through a real service."""

    @pytest.fixture(scope="class")
    def device(self, server, board, tiny_student):
        device = board(server, server.token(applications=["ranges"]), "ranges-1")
        server.publish(tiny_student("ranges"), "ranges")
        return device

    def test_a_tuf_client_verifies_the_served_repository(self, device, tmp_path):
        client = updater(BoardFetcher(device), device.tuf_root, tmp_path)
        target = client.get_targetinfo("ranges/1/student.tflite")
        data = Path(client.download_target(target)).read_bytes()
        assert digest(data) == target.custom["digest"]
        assert unpack(data).card.version == 1 == target.custom["version"]
        assert client.get_targetinfo("ranges/2/student.tflite") is None

    def test_ranges_put_together_are_the_file(self, device):
        whole, chunks = device.fetch("metadata/1.root.json")
        assert {chunk.total_size for chunk in chunks} == {len(whole)}
        assert all(len(chunk.data) <= CHUNK_BYTES for chunk in chunks)
        parts = [device.fetch("metadata/1.root.json", offset, 100)[0] for offset in range(0, len(whole), 100)]
        assert b"".join(parts) == whole
        assert device.fetch("metadata/1.root.json", len(whole))[0] == b""

    @pytest.mark.parametrize(
        ("path", "offset", "code"),
        [
            ("metadata/99.root.json", 0, "NOT_FOUND"),
            ("metadata/1.root.json", 10**9, "OUT_OF_RANGE"),
            ("../keys/timestamp.pem", 0, "INVALID_ARGUMENT"),
            ("metadata/../../fleet.db", 0, "INVALID_ARGUMENT"),
            ("/etc/passwd", 0, "INVALID_ARGUMENT"),
            ("targets/ranges/1/student.tflite", 0, "INVALID_ARGUMENT"),
            ("metadata/timestamp.json\n", 0, "INVALID_ARGUMENT"),
            ("metadata/timestamp.json\x00", 0, "INVALID_ARGUMENT"),
            ("", 0, "INVALID_ARGUMENT"),
            ("metadata/" + "9" * 40 + ".root.json", 0, "INVALID_ARGUMENT"),
        ],
    )
    def test_only_the_repository_can_be_read(self, device, path, offset, code):
        with pytest.raises(grpc.RpcError) as refused:
            device.fetch(path, offset)
        assert refused.value.code().name == code
