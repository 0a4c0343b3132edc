"""The link to the MQTT broker: one paho client per connection, reconnecting for ever with backoff.

`retain` keeps the latest value of a topic and publishes it after every connection, so what subscribers see is right
after any outage. `publish` gives a message to the connection that is there now, or says that there is none: nothing
is queued in here, because what must not be lost is in the outbox. MQTT 5, or 3.1.1 where the broker speaks no 5.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from distillnet.device.cloudevents import CONTENT_TYPE
from distillnet.device.config import MqttSection
from distillnet.proto.strict import ConfigError

log = logging.getLogger(__name__)

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ANSWER_S = 10.0
_IN_FLIGHT = 1000
_MID_BITS = 16


@dataclass(frozen=True, slots=True)
class Message:
    """One received message; v5's response topic and correlation data where it has them."""

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we vanish; QoS 1, retained."""

    topic: str
    payload: bytes


def no_message(message: Message) -> None:
    """Take a message nobody asked for."""
    log.debug("unexpected message on %s", message.topic)


class Link:
    """A connection that is kept up. Callbacks run on paho's thread and must be short."""

    def __init__(
        self,
        config: MqttSection,
        client_id: str,
        *,
        will: Will | None = None,
        subscriptions: tuple[str, ...] = (),
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
        on_ack: Callable[[int], None] = lambda mid: None,
        on_message: Callable[[Message], None] = no_message,
    ) -> None:
        """Prepare; `start` connects.

        Raises:
            ConfigError: the password or a TLS file cannot be read.

        """
        self._config = config
        self._client_id = client_id
        self._will = will
        self._subscriptions = subscriptions
        self._on_up, self._on_down, self._on_ack, self._on_message = on_up, on_down, on_ack, on_message
        self._password = _password(config)
        self._five = config.version != "3.1.1"
        self._lock = threading.Lock()
        self._retained: dict[str, bytes] = {}
        self._client: paho.Client | None = None
        self._connected = False
        self._generation = 0
        self._closed = threading.Event()
        self._stopping = threading.Event()
        self._settled = threading.Event()
        """Whether the latest attempt to connect has come to something: retained values are sent, or it failed."""
        self._reason = "not connected yet"
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._make_client()  # so that bad TLS files are found before anything starts

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._connected

    @property
    def generation(self) -> int:
        """How many connections there have been; a token belongs to one of them."""
        return self._generation

    @staticmethod
    def generation_of(token: int) -> int:
        """Which connection a token belongs to."""
        return token >> _MID_BITS

    @property
    def reason(self) -> str:
        """Why there is no connection; empty when there is one."""
        return "" if self._connected else self._reason

    @property
    def endpoint(self) -> str:
        """`host:port`, for messages."""
        return f"{self._config.host}:{self._config.port}"

    def start(self) -> None:
        """Connect, and keep connected."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> None:
        """Disconnect cleanly: the last will is not sent. Waits for a connection that is being made, to say goodbye."""
        self._stopping.set()
        if self._thread.is_alive():
            self._settled.wait(timeout_s)
        with self._lock:
            client = self._client
        if client is not None and self._connected:
            client.disconnect()
        self._closed.set()
        self._thread.join(timeout_s)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        expiry_s: int = 0,
        labels: Sequence[tuple[str, str]] = (),
    ) -> int | None:
        """Hand a message to the connection.

        Args:
            topic: where to.
            payload: what.
            qos: 0 or 1.
            retain: whether the broker keeps it.
            expiry_s: for so long; 0 = for ever. MQTT 5 only.
            labels: CloudEvents attributes of a JSON payload, as user properties. MQTT 5 only.

        Returns:
            A token, which `on_ack` gets; None without a connection.

        """
        properties = None
        if labels and self._five:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty, properties.ContentType = list(labels), CONTENT_TYPE
            if expiry_s:
                properties.MessageExpiryInterval = expiry_s
        elif expiry_s and self._five:
            properties = _expiring(expiry_s)
        return self._send(topic, payload, qos, retain, properties)

    def answer(self, request: Message, payload: bytes) -> None:
        """Answer a request on its response topic, with its correlation data; does nothing without a response topic."""
        if request.response_topic is None:
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if request.correlation is not None:
            properties.CorrelationData = request.correlation
        self._send(request.response_topic, payload, 1, False, properties)

    def retain(self, topic: str, payload: bytes) -> None:
        """Make `payload` the retained value of `topic`, now or as soon as there is a connection."""
        with self._lock:
            self._retained[topic] = payload
        self._send(topic, payload, 1, True, None)

    def adopt(self, other: "Link") -> None:
        """Take over the retained values of a link that was stopped. Before `start`."""
        with other._lock:
            self._retained = dict(other._retained)

    def repeat(self, topic: str) -> None:
        """Publish the retained value of `topic` once more."""
        with self._lock:
            payload = self._retained.get(topic)
        if payload is not None:
            self._send(topic, payload, 1, True, None)

    def _send(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None) -> int | None:
        with self._lock:
            client, generation = (self._client if self._connected else None), self._generation
        if client is None:
            return None
        sent = client.publish(topic, payload, qos=qos, retain=retain, properties=properties if self._five else None)
        return generation << _MID_BITS | sent.mid if sent.rc == paho.MQTT_ERR_SUCCESS else None

    def _run(self) -> None:
        failures = 0
        stopped = False
        while not stopped:
            client = self._make_client()
            self._closed.clear()
            self._settled.clear()
            with self._lock:
                self._client = client
            if self._attempt(client):
                failures = 0
            else:
                log.warning("no MQTT broker at %s: %s", self.endpoint, self._reason)
            self._settled.set()
            pause = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            stopped = self._stopping.wait(pause * random.uniform(0.8, 1.2))

    def _attempt(self, client: paho.Client) -> bool:
        """Connect once and stay until the connection ends; returns whether there was one."""
        accepted = threading.Event()
        client.on_connect = lambda c, u, flags, code, properties: self._answered(c, code, accepted)
        try:
            client.connect(self._config.host, self._config.port, keepalive=self._config.keepalive_s)
        except (OSError, ValueError) as exc:
            self._reason = str(exc) or type(exc).__name__
            return False
        client.loop_start()
        try:
            self._closed.wait(_ANSWER_S)
            while accepted.is_set() and not self._closed.wait(60.0):
                pass
        finally:
            self._connected = False
            client.disconnect()
            client.loop_stop()
        if accepted.is_set():
            if not self._stopping.is_set():
                log.warning("connection to %s ended: %s", self.endpoint, self._reason)
            self._on_down(self._reason)
            return True
        if self._config.version == "auto" and not self._stopping.is_set():
            self._five = not self._five
        return False

    def _answered(self, client: paho.Client, code: Any, accepted: threading.Event) -> None:
        if code.is_failure:
            self._reason = f"refused: {code}"
            self._closed.set()
            return
        accepted.set()
        for topic in self._subscriptions:
            client.subscribe(topic, qos=1)
        with self._lock:
            self._generation += 1
            self._connected = True
            retained = list(self._retained.items())
        for topic, payload in retained:
            client.publish(topic, payload, qos=1, retain=True)
        self._settled.set()
        log.info("connected to %s as %s, MQTT %s", self.endpoint, self._client_id, "5" if self._five else "3.1.1")
        self._on_up()

    def _ended(self, client: paho.Client, code: Any) -> None:
        if client is self._client:
            if not self._reason.startswith("refused") or self._connected:
                self._reason = str(code)
            self._connected = False
            self._closed.set()

    def _make_client(self) -> paho.Client:
        config = self._config
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=paho.MQTTv5 if self._five else paho.MQTTv311,
            clean_session=None if self._five else True,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.connect_timeout = 5.0
        if config.username is not None:
            client.username_pw_set(config.username, self._password)
        if config.tls:
            _use_tls(client, config)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        client.on_disconnect = lambda c, u, flags, code, properties: self._ended(c, code)
        client.on_publish = lambda c, u, mid, code, properties: self._on_ack(self._generation << _MID_BITS | mid)
        client.on_message = lambda c, u, message: self._on_message(_received(message))
        client.suppress_exceptions = True
        return client


@cache
def _expiring(seconds: int) -> Properties:
    """Return properties that are packed once.

    With every message that paho packs it makes the names of all properties anew, and CPython's cache of attributes
    keeps thousands of them.
    """
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    packed = properties.pack()  # type: ignore[no-untyped-call]
    object.__setattr__(properties, "pack", lambda: packed)  # its own refuses names that are no properties
    return properties


def _received(message: paho.MQTTMessage) -> Message:
    properties = message.properties
    return Message(
        topic=message.topic,
        payload=bytes(message.payload),
        retained=bool(message.retain),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
    )


def _password(config: MqttSection) -> str | None:
    if config.password_file is None:
        return None
    try:
        return config.password_file.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"mqtt.password_file: {config.password_file} cannot be read: {exc.strerror}") from exc


def _use_tls(client: paho.Client, config: MqttSection) -> None:
    def text(path: object) -> str | None:
        return None if path is None else str(path)

    try:
        client.tls_set(text(config.ca_file), text(config.certificate_file), text(config.key_file))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"mqtt: TLS files cannot be used: {exc}") from exc
