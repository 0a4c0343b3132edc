"""The files in deploy/cloud: a real Mosquitto takes the configuration, and lets each certificate do what is its own."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tomllib
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from distillnet.cloud.fleet import client
from distillnet.cloud.fleet.config import ServeConfig
from distillnet.proto.strict import validate

DEPLOY = Path(__file__).parents[3] / "deploy" / "cloud"


def test_the_service_s_configuration_is_valid():
    loaded = validate(tomllib.loads((DEPLOY / "serve.toml").read_text()), ServeConfig, where="serve.toml")
    assert loaded.mqtt.host == "broker"


def test_the_image_and_the_compose_file_name_files_that_exist():
    compose = (DEPLOY / "compose.yaml").read_text()
    for name in ("serve.toml", "mosquitto.conf", "acl.conf"):
        assert f"./{name}:" in compose and (DEPLOY / name).exists()
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (DEPLOY.parents[1] / source).exists(), source


@pytest.fixture
def broker(server, tmp_path):
    """deploy/cloud/mosquitto.conf, with our own port and paths; None of its rules is changed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("Mosquitto is not installed: would have shown that its ACLs keep devices apart")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("ca.pem", "server.pem", "server-key.pem"):
        shutil.copyfile(server.data / "pki" / name, tmp_path / name)
    shutil.copyfile(DEPLOY / "acl.conf", tmp_path / "acl.conf")
    (tmp_path / "acl.conf").chmod(0o600)
    text = (DEPLOY / "mosquitto.conf").read_text().replace("listener 8883", f"user root\nlistener {port} 127.0.0.1")
    for inside in ("/mosquitto/config/tls/", "/mosquitto/config/", "/mosquitto/data/"):
        text = text.replace(inside, f"{tmp_path}/")
    (tmp_path / "broker.conf").write_text(text)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(tmp_path / "broker.conf")], stderr=log, stdout=log)
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    assert process.poll() is None, (tmp_path / "log").read_text()
    yield port
    process.terminate()
    process.wait(10)


class Client:
    """An MQTT client with a certificate."""

    def __init__(self, port: int, ca_pem: bytes, home: Path, access: client.Access | None, topic: str) -> None:
        self.heard: list[str] = []
        self._subscribed = threading.Event()
        home.mkdir(parents=True, exist_ok=True)
        tls = ssl.create_default_context(cadata=ca_pem.decode())
        if access is not None:
            (home / "cert.pem").write_bytes(access.certificate_pem)
            (home / "key.pem").write_bytes(access.key_pem)
            tls.load_cert_chain(home / "cert.pem", home / "key.pem")
        self._tls, self._port = tls, port
        self.mqtt = self._connection()
        self.mqtt.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.mqtt.on_subscribe = lambda *_: self._subscribed.set()
        self.mqtt.on_connect = lambda inner, *_: inner.subscribe(topic, 1)
        self.mqtt.connect("127.0.0.1", port)
        self.mqtt.loop_start()
        assert self._subscribed.wait(5)

    def say(self, topic: str) -> None:
        """Publish on a connection of its own: this broker may end one that says what it must not."""
        over = threading.Event()
        saying = self._connection()
        saying.on_connect = lambda inner, *_: inner.publish(topic, b"x", qos=1)
        saying.on_publish = saying.on_disconnect = lambda *_: over.set()
        saying.connect("127.0.0.1", self._port)
        saying.loop_start()
        assert over.wait(5)
        saying.disconnect()
        saying.loop_stop()

    def _connection(self) -> mqtt.Client:
        made = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        made.tls_set_context(self._tls)
        return made


@pytest.mark.integration
def test_a_certificate_says_and_hears_only_what_is_its_own(server, board, broker, tmp_path):
    ca_pem = server.access.ca_pem
    porch = board(server, server.token(), "acl-porch")
    garage = board(server, server.token(), "acl-garage")
    client.grant(server.access, "intake", "viewer", tmp_path / "bundle", 1.0)
    client.grant(server.access, "acl-porch", "viewer", tmp_path / "namesake", 1.0)
    service = Client(broker, ca_pem, tmp_path / "1", client.Access.read(tmp_path / "bundle"), "distillnet/v1/#")
    one = Client(broker, ca_pem, tmp_path / "2", porch.access, "distillnet/v1/acl-porch/cmd/#")
    two = Client(broker, ca_pem, tmp_path / "3", garage.access, "distillnet/v1/#")
    namesake = Client(broker, ca_pem, tmp_path / "4", client.Access.read(tmp_path / "namesake"), "distillnet/v1/#")
    one.say("distillnet/v1/acl-porch/telemetry")
    one.say("distillnet/v1/acl-garage/telemetry")
    two.say("distillnet/v1/acl-porch/cmd/update")
    namesake.say("distillnet/v1/acl-porch/telemetry")
    service.say("distillnet/v1/acl-porch/cmd/update")
    one.say("distillnet/v1/acl-porch/end")
    end = time.monotonic() + 5
    while "distillnet/v1/acl-porch/end" not in service.heard and time.monotonic() < end:
        time.sleep(0.05)
    assert service.heard == ["distillnet/v1/acl-porch/telemetry", "distillnet/v1/acl-porch/end"]
    assert one.heard == [] and two.heard == [] and namesake.heard == []


@pytest.mark.integration
def test_without_a_certificate_of_the_fleet_nothing_opens(server, broker, tmp_path):
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        Client(broker, server.access.ca_pem, tmp_path / "x", None, "#")


def test_the_kubernetes_manifests_fit_the_schemas_and_the_service():
    yaml = pytest.importorskip("yaml")
    validate_manifest = pytest.importorskip("kubernetes_validate").validate
    documents = list(yaml.safe_load_all((DEPLOY.parent / "kubernetes" / "fleet.yaml").read_text()))
    for document in documents:
        validate_manifest(document, "1.30", strict=True)
    by_kind = {document["kind"]: document for document in documents}
    settings = tomllib.loads(by_kind["ConfigMap"]["data"]["serve.toml"])
    listen = validate(settings, ServeConfig, where="serve.toml").listen
    (container,) = by_kind["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [listen.port, listen.enroll_port, listen.web_port]
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} == names
