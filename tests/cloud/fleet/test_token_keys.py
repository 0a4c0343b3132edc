"""Signing keys on a PKCS#11 token (SoftHSM here): they sign in place, and boards verify as ever."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner

from distillnet.cloud.fleet import keys
from distillnet.cloud.fleet.errors import FleetError

_spec = importlib.util.spec_from_file_location("tuf_client", Path(__file__).with_name("test_repository.py"))
tuf_client = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tuf_client)
_MODULES = [*Path("/usr/lib").glob("softhsm/libsofthsm2.so"), *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")]
MAIN = [sys.executable, "-c", "from distillnet.device.cli import main; main()"]
PIN = "4711"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A token `fleet` with EC keys 1, 2 and 3, in the environment that finds it."""
    if not _MODULES or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed (apt install softhsm2): would have signed with keys on a token")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: would have signed with keys on a token")
    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    for name, value in {"SOFTHSM2_CONF": str(conf), "PYKCS11LIB": str(_MODULES[0]), keys.PIN: PIN}.items():
        monkeypatch.setenv(name, value)
    init = ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--pin", PIN, "--so-pin", "0000"]
    subprocess.run(init, check=True, capture_output=True)
    make = """
import os, pkcs11, pkcs11.util.ec
token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="fleet")
with token.open(rw=True, user_pin=os.environ["DISTILLNET_PIN"]) as session:
    curve = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}
    for number in (1, 2, 3):
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        parameters.generate_keypair(id=bytes([number]), label=f"key-{number}", store=True)
"""
    subprocess.run([sys.executable, "-c", make], check=True)  # a module reads its configuration once a process


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `distillnet keys …`; every process has the token to itself."""
    everything = {**os.environ, **environment}
    return subprocess.run(
        [*MAIN, "keys", *arguments], capture_output=True, text=True, timeout=60, env=everything, check=False
    )


@pytest.mark.integration
def test_service_signs_with_keys_on_a_token_and_boards_follow(token, serve, board, tiny_student, tmp_path):
    data = tmp_path / "data"
    place = ("--data", str(data))
    assert command("init", *place).returncode == 0
    running = serve()
    device = board(running, running.token(applications=["pets"]), "porch")
    running.publish(tiny_student())
    running.stop()
    for role, ids in {"targets": [1], "root": [2, 3]}.items():
        words = [word for key in ids for word in ("--to", f"hsm:{key}?label=fleet")]
        more = ("--threshold", "2") if role == "root" else ()
        done = command("rotate", role, *words, *more, *place)
        assert done.returncode == 0, done.stderr
    assert not (data / "keys" / "targets.pem").exists()
    held = json.loads((data / "keys" / "targets.json").read_text())
    assert held["uri"] == "hsm:1?label=fleet" and "private" not in json.dumps(held).lower()
    shown = json.loads(command("status", "--json", *place).stdout)
    assert shown["root"]["threshold"] == 2 and len(shown["root"]["keyids"]) == 2
    assert shown["targets"]["keyids"] == [held["keyid"]]

    running = serve()
    running.publish(tiny_student(seed=2))
    device.server = running
    client = tuf_client.updater(tuf_client.BoardFetcher(device), device.tuf_root, tmp_path / "board")
    assert client.get_targetinfo("pets/2/student.tflite").custom["version"] == 2
    running.stop()

    offline = data / "keys" / "offline"
    one = command("rotate", "targets", "--root-key", str(offline / "root-2.json"), *place)
    assert one.returncode == 2 and "2 of the root keys must sign" in one.stderr
    back = command("rotate", "targets", "--root-key", str(offline), *place)
    assert back.returncode == 0, back.stderr
    assert (data / "keys" / "targets.pem").exists() and not (data / "keys" / "targets.json").exists()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("uri", "environment", "reason"),
    [
        ("hsm:1?label=fleet", {keys.PIN: "1234"}, "cannot sign"),
        ("hsm:9?label=fleet", {}, "could not find"),
        ("hsm:1?label=other", {}, "No PKCS#11 token found"),
        ("hsm:1?label=fleet", {"PYKCS11LIB": "/nonexistent.so"}, "hsm:1?label=fleet"),
        ("awskms:alias/fleet", {}, "--public-key"),
        ("usb:1", {}, "expected a URI of hsm"),
    ],
)
def test_key_that_cannot_sign_changes_nothing_and_says_why(token, tmp_path, uri, environment, reason):
    place = ("--data", str(tmp_path / "data"))
    assert command("init", *place).returncode == 0
    before = (tmp_path / "data" / "keys" / "targets.pem").read_bytes()
    done = command("rotate", "targets", "--to", uri, *place, **environment)
    assert done.returncode == 2 and reason in " ".join(done.stderr.split()), done.stderr
    assert (tmp_path / "data" / "keys" / "targets.pem").read_bytes() == before


def test_pin_comes_from_the_environment_or_a_credential(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.PIN, raising=False)
    monkeypatch.setattr("sys.stdin", (tmp_path / "no-terminal").open("w+"))
    with pytest.raises(FleetError, match="wants a PIN"):
        keys._pin_for("hsm:1")("pin")
    (tmp_path / "signing-pin").write_text("2222\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert keys._pin_for("hsm:1")("pin") == "2222"
    monkeypatch.setenv(keys.PIN, "1111")
    assert keys._pin_for("hsm:1")("pin") == "1111"


def test_public_key_that_does_not_belong_to_the_uri_is_refused(tmp_path):
    """The one path for every key service: what it signs must verify under the public key that was given."""
    mine, other = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    (tmp_path / "mine.pem").write_bytes(mine.private_bytes)
    for signer, name in ((mine, "right"), (other, "wrong")):
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(signer._private_key.public_key().public_bytes(*form))
    uri = f"file2:{tmp_path / 'mine.pem'}"
    reference = keys.refer(uri, tmp_path / "right.pem")
    assert keys._signer(reference).public_key.keyid == mine.public_key.keyid
    with pytest.raises(FleetError, match=r"file2:"):
        keys.refer(uri, tmp_path / "wrong.pem")
