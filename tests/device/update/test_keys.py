"""A board's key in a systemd credential, on a PKCS#11 token, in a TPM: it is who it is, and no file has its key."""

import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from board import Board, until
from crash_loop import device_file
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from distillnet.device.update.enroll import enroll
from distillnet.device.update.errors import UpdateError
from distillnet.device.update.identity import key_pem, load_identity, new_key
from distillnet.device.update.keys import KeyPlaceError, TokenPlace, check_place
from distillnet.proto.v1 import fleet_pb2

MAIN = [sys.executable, "-c", "from distillnet.device.cli import main; main()"]
PIN = "471100"


def _module(name: str) -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"**/{name}"))), None)


@pytest.fixture
def softhsm(tmp_path):
    """A token `board`: its module, and the environment that finds it."""
    module = _module("libsofthsm2.so")
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed (apt install softhsm2): would have enrolled with a key on a token")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nlog.level = ERROR\n")
    environment = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")}
    init = ["softhsm2-util", "--init-token", "--free", "--label", "board", "--pin", PIN, "--so-pin", "0000"]
    subprocess.run(init, check=True, capture_output=True, env={**os.environ, **environment})
    return module, environment


@pytest.fixture
def tpm(tmp_path):
    """A software TPM 2.0 (swtpm) behind tpm2-pkcs11, with a token `board`."""
    module = _module("libtpm2_pkcs11.so.1")
    if module is None or not all(map(shutil.which, ("swtpm", "pkcs11-tool"))):
        pytest.skip("swtpm, tpm2-pkcs11 and opensc are not installed: would have enrolled with a key in a TPM")
    port = _free_ports()
    (tmp_path / "tpm").mkdir()
    (tmp_path / "store").mkdir()
    command = [
        "swtpm",
        "socket",
        "--tpm2",
        "--tpmstate",
        f"dir={tmp_path}/tpm",
        "--flags",
        "not-need-init,startup-clear",
    ]
    command += ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    chip = subprocess.Popen(command)
    environment = {
        "TPM2_PKCS11_STORE": str(tmp_path / "store"),
        "TPM2_PKCS11_TCTI": f"swtpm:host=127.0.0.1,port={port}",
        "TSS2_LOG": "all+NONE",
    }

    def tool(*words: str) -> None:
        command = ["pkcs11-tool", "--module", str(module), "--slot", "1", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
        assert done.returncode == 0, done.stderr

    try:
        time.sleep(0.5)
        tool("--init-token", "--so-pin", "000000", "--label", "board")
        tool("--init-pin", "--so-pin", "000000", "--pin", PIN, "--login", "--login-type", "so")
        yield module, environment
    finally:
        chip.terminate()
        chip.wait(10)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softhsm", "tpm"])
def test_board_whose_key_is_on_a_token_enrols_updates_and_renews_with_it(cloud, tmp_path, request, kind):
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: would have used a key on a token")
    module, environment = request.getfixturevalue(kind)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "pin").write_text(PIN + "\n")
    place = f"pkcs11:token=board;object=distillnet?module-path={module}&pin-source=pin"
    everything = {**os.environ, **environment, "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    board = Board(cloud, tmp_path / "board", update={"server": cloud.address})
    board.state_dir.mkdir()
    cloud.certificate_life = datetime.timedelta(minutes=5)  # it began a day ago: it is renewed at once
    words = ["enroll", "--server", cloud.enroll_address, "--state-dir", str(board.state_dir), "--device", board.name]
    done = subprocess.run(
        [*MAIN, *words, "--token", cloud.token(), "--key", place, "--json"],
        capture_output=True, text=True, env=everything, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first = _identity(board)
    assert first["key_place"] == place and "PRIVATE KEY" not in json.dumps(first)
    cloud.certificate_life = datetime.timedelta(days=10)
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen([*MAIN, "run", str(device_file(board))], env=everything, stderr=log)
    try:
        directive = cloud.publish(1, tiny.numbered(1))
        cloud.send(board.name, directive)
        assert cloud.wait_outcome(directive, 60).phase == fleet_pb2.UPDATE_PHASE_COMMITTED
        until(lambda: cloud.served.renewals >= 1)
        renewed = _identity(board)
        assert renewed["certificate_pem"] != first["certificate_pem"]
        assert _public(renewed) == _public(first)
    finally:
        daemon.terminate()
        assert daemon.wait(20) == 0, (tmp_path / "log").read_text()
    assert not list((board.state_dir / "identity").glob("*.key"))


def test_key_in_a_credential_is_never_written_and_survives_renewal(cloud, tmp_path, make_board, monkeypatch):
    key = new_key()
    (tmp_path / "device-key").write_bytes(key_pem(key))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    board = make_board()
    cloud.certificate_life = datetime.timedelta(minutes=5)
    enroll(board.state_dir, cloud.enroll_address, cloud.token(), device=board.name, key_place="credential:device-key")
    cloud.certificate_life = datetime.timedelta(days=10)
    board.start()
    until(lambda: cloud.served.renewals == 1)
    assert board.take(1).reason == ""
    kept = _identity(board)
    assert "key_pem" not in kept and kept["key_place"] == "credential:device-key"
    assert load_identity(board.state_dir).key_pem == key_pem(key)
    assert not list((board.state_dir / "identity").glob("*.key"))


def test_credential_that_is_missing_or_no_key_says_so(cloud, tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyPlaceError, match="CREDENTIALS_DIRECTORY is not set"):
        enroll(tmp_path / "a", cloud.enroll_address, cloud.token(), key_place="credential:device-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "device-key").write_text("no key")
    with pytest.raises(KeyPlaceError, match="no private key in PEM"):
        enroll(tmp_path / "a", cloud.enroll_address, cloud.token(), key_place="credential:device-key")
    assert not (tmp_path / "a" / "identity").exists()


@pytest.mark.parametrize(
    "place",
    ["usb", "credential:", "pkcs11:", "pkcs11:token=t;object=o", "pkcs11:token=t;object=o;slot=1?module-path=/m.so"],
)
def test_place_that_is_none_is_refused(place):
    with pytest.raises(UpdateError, match="expected"):
        check_place(place)


def test_uri_is_read_as_rfc_7512_writes_it():
    place = TokenPlace.parse("pkcs11:token=my%20board;object=a%3Bb?module-path=/m.so&pin-source=file:/run/pin")
    assert (place.token, place.label, place.module, place.pin_source) == ("my board", "a;b", "/m.so", "file:/run/pin")


def _identity(board: Board) -> dict:
    return json.loads((board.state_dir / "identity" / "identity.json").read_bytes())


def _public(identity: dict) -> bytes:
    certificate = x509.load_pem_x509_certificate(identity["certificate_pem"].encode())
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form)


def _free_ports() -> int:
    """The first of two free ports in a row."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            try:
                two.bind(("127.0.0.1", one.getsockname()[1] + 1))
            except OSError:
                continue
            return one.getsockname()[1]
