"""The link against real brokers: passwords, TLS with client certificates, MQTT 3.1.1 only, refusals."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from distillnet.device.broker import Link, Message
from distillnet.device.config import MqttSection
from distillnet.proto.strict import ConfigError

pytestmark = pytest.mark.integration


class Talk:
    """A link that listens to itself."""

    def __init__(self, section: MqttSection, client_id: str = "talk") -> None:
        self.heard: list[Message] = []
        self.up = threading.Event()
        self.acked: list[int] = []
        self.link = Link(
            section,
            client_id,
            subscriptions=("talk/#",),
            on_up=self.up.set,
            on_ack=self.acked.append,
            on_message=self.heard.append,
        )
        self.link.start()


@pytest.fixture
def talk() -> Iterator[Callable[..., Talk]]:
    made: list[Talk] = []

    def start(section: MqttSection) -> Talk:
        made.append(Talk(section))
        return made[-1]

    yield start
    for one in made:
        one.link.stop()


def says_hello(one: Talk, until: Callable[..., None]) -> None:
    assert one.up.wait(20), one.link.reason
    token = one.link.publish("talk/hello", b"hello", qos=1)
    assert token is not None
    until(lambda: token in one.acked, 5, "acknowledged")
    until(lambda: any(message.payload == b"hello" for message in one.heard), 5, "heard")


def test_a_password_is_needed_and_a_wrong_one_is_no_connection(
    broker: Any, tmp_path: Path, talk: Callable[..., Talk], until: Callable[..., None]
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "porch", "right"], check=True, capture_output=True)
    broker.stop()
    broker.start(f"allow_anonymous false\npassword_file {passwords}\n")
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    section = MqttSection(port=broker.port, username="porch", password_file=secret)
    refused = talk(section)
    until(lambda: refused.link.reason.startswith("refused: Not authorized"), 10, "refused")
    assert not refused.link.connected and refused.link.publish("talk/x", b"", qos=1) is None
    secret.write_text("right\n")
    says_hello(talk(section), until)
    with pytest.raises(ConfigError, match="password_file"):
        Link(MqttSection(password_file=tmp_path / "none"), "x")


def certificate(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None) -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def written(directory: Path, name: str, certified: Any) -> tuple[Path, Path]:
    certificate_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    certificate_path.write_bytes(certified[0].public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        certified[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_path, key_path


def test_tls_with_a_client_certificate(
    broker: Any, tmp_path: Path, talk: Callable[..., Talk], until: Callable[..., None]
) -> None:
    authority = certificate("authority")
    ca, _ = written(tmp_path, "ca", authority)
    server, server_key = written(tmp_path, "server", certificate("localhost", authority))
    mine, my_key = written(tmp_path, "porch", certificate("porch", authority))
    broker.stop()
    broker.start(
        f"allow_anonymous true\ncafile {ca}\ncertfile {server}\nkeyfile {server_key}\nrequire_certificate true\n"
    )
    known = {"port": broker.port, "tls": True, "ca_file": ca}
    says_hello(talk(MqttSection(**known, certificate_file=mine, key_file=my_key)), until)
    without = talk(MqttSection(**known))
    until(lambda: without.link.reason != "not connected yet", 10, "an answer")
    assert not without.link.connected
    with pytest.raises(ConfigError, match="TLS files"):
        Link(MqttSection(tls=True, ca_file=tmp_path / "none"), "x")


_OLD_BROKER = """
import asyncio, sys
from amqtt.broker import Broker
config = {
    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
async def main():
    broker = Broker(config)
    await broker.start()
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_broker_that_speaks_only_3_1_1(
    unused_port: int, talk: Callable[..., Talk], until: Callable[..., None]
) -> None:
    pytest.importorskip("amqtt", reason="amqtt is not installed: the fallback to MQTT 3.1.1 is not shown")
    old = subprocess.Popen([sys.executable, "-c", _OLD_BROKER, str(unused_port)], stderr=subprocess.DEVNULL)
    try:
        says_hello(talk(MqttSection(port=unused_port)), until)
    finally:
        old.kill()
        old.wait()


def test_a_retained_value_is_there_after_every_connection(
    broker: Any, talk: Callable[..., Talk], until: Callable[..., None]
) -> None:
    one = talk(MqttSection(port=broker.port))
    one.link.retain("talk/state", b"early")
    assert one.up.wait(10)
    until(lambda: [m.payload for m in one.heard] == [b"early"], 5, "the birth value")
    broker.kill()
    (broker.directory / "mosquitto.db").unlink(missing_ok=True)
    until(lambda: not one.link.connected, 10, "gone")
    one.link.retain("talk/state", b"late")
    broker.start()
    until(lambda: one.heard[-1].payload == b"late", 10, "the value set while it was away")


def test_a_link_that_is_stopped_while_it_connects_says_goodbye(
    broker: Any, talk: Callable[..., Talk], until: Callable[..., None]
) -> None:
    listener = talk(MqttSection(port=broker.port))
    assert listener.up.wait(20)
    for index in range(10):
        link = Link(MqttSection(port=broker.port), f"short-{index}")
        link.retain(f"talk/{index}", b"goodbye")
        link.start()
        link.stop()
        until(lambda index=index: f"talk/{index}" in [m.topic for m in listener.heard], 5, "goodbye")
