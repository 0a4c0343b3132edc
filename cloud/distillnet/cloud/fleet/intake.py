"""Takes devices' events and telemetry from the MQTT broker into the database, in batches.

A shared subscription: all services of one group get each message once. A message is acknowledged to the broker only
when it is in the database; while the database is away the broker keeps them. A message that does not fit the contract
is counted and dropped.
"""

import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import telemetry
from distillnet.cloud.fleet.config import MqttSection
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.errors import FleetError
from distillnet.proto.mqtt import BASE

log = logging.getLogger(__name__)

_BATCH = 2_000
_BATCH_S = 0.05  # a broker lets few unacknowledged messages out (Mosquitto: 20): waiting longer slows it down
_WAITING = 20_000
_SESSION_S = 3600
_RETRY_S = 1.0
_MAX_BYTES = 256 << 10


@dataclass
class Counts:
    """What went by since the start."""

    stored: int = 0
    refused: int = 0
    failures: int = 0


class Intake:
    """One connection to the broker and the thread that stores what comes."""

    def __init__(self, config: MqttSection, database: Database, instance: str) -> None:
        """Prepare.

        Raises:
            FleetError: the password or a TLS file cannot be read.

        """
        self.counts = Counts()
        self._config = config
        self._database = database
        self._waiting: queue.Queue[mqtt.MQTTMessage | None] = queue.Queue(_WAITING)
        self._writer = threading.Thread(target=self._store, name="intake-store", daemon=True)
        self._client = _client(config, f"distillnet-{config.group}-{instance}"[:120])
        self._client.on_connect = self._connected
        self._client.on_message = lambda _client, _data, message: self._waiting.put(message)

    def start(self) -> None:
        """Connect in the background, again and again when need be."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        properties.ReceiveMaximum = _WAITING
        self._client.connect_async(str(self._config.host), self._config.port, clean_start=False, properties=properties)
        self._client.loop_start()
        self._writer.start()

    def stop(self) -> None:
        """Let the broker keep what comes from now on, and store what has come."""
        self._client.disconnect()
        self._client.loop_stop()
        self._waiting.put(None)
        self._writer.join(5.0)

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.error("the broker refuses the connection: %s", reason)
            return
        group = f"$share/{self._config.group}/{BASE}"
        client.subscribe([(f"{group}/+/telemetry", 1), (f"{group}/+/event/+/+", 1)])
        log.info("taking in events and telemetry from %s:%d", self._config.host, self._config.port)

    def _store(self) -> None:
        while (batch := self._next_batch()) is not None:
            samples: list[telemetry.Row] = []
            events: list[telemetry.Row] = []
            for message in batch:
                self._sort(message, samples, events)
            while not self._write(lambda session: _add(session, samples, events)):  # noqa: B023 - called at once
                time.sleep(_RETRY_S)
            for message in batch:
                self._client.ack(message.mid, message.qos)
            self.counts.stored += len(samples) + len(events)

    def _next_batch(self) -> list[mqtt.MQTTMessage] | None:
        """Wait for a message, then for a little more of them; None when stopped."""
        first = self._waiting.get()
        if first is None:
            return None
        batch, end = [first], time.monotonic() + _BATCH_S
        while len(batch) < _BATCH and (left := end - time.monotonic()) > 0:
            try:
                message = self._waiting.get(timeout=left)
            except queue.Empty:
                break
            if message is None:
                self._waiting.put(None)
                break
            batch.append(message)
        return batch

    def _sort(self, message: mqtt.MQTTMessage, samples: list[telemetry.Row], events: list[telemetry.Row]) -> None:
        try:
            if len(message.payload) > _MAX_BYTES:
                raise telemetry.BadMessageError(f"{message.topic[:200]}: {len(message.payload)} bytes")
            kind, row = telemetry.read(message.topic, bytes(message.payload))
        except (telemetry.BadMessageError, UnicodeDecodeError) as exc:
            self.counts.refused += 1
            log.warning("not taken in: %s", exc)
            return
        (events if kind == "event" else samples).append(row)

    def _write(self, work: Callable[[Session], None]) -> bool:
        try:
            self._database.write_now(work)
        except SQLAlchemyError:
            self.counts.failures += 1
            log.exception("events and telemetry could not be stored; the broker keeps them")
            return False
        return True


def _add(session: Session, samples: list[telemetry.Row], events: list[telemetry.Row]) -> None:
    telemetry.add_samples(session, samples)
    telemetry.add_events(session, events)


def _client(config: MqttSection, client_id: str) -> mqtt.Client:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
    )
    client.reconnect_delay_set(1, 30)
    try:
        if config.username is not None:
            password = config.password_file.read_text().strip() if config.password_file else None
            client.username_pw_set(config.username, password)
        if config.ca_file is not None:
            context = ssl.create_default_context(cafile=config.ca_file)
            if config.certificate_file is not None:
                context.load_cert_chain(config.certificate_file, config.key_file)
            client.tls_set_context(context)
    except OSError as exc:
        raise FleetError(f"[mqtt]: {exc.filename or config.ca_file}: cannot be read: {exc}") from exc
    return client
