"""One-off questions to a broker: does it accept us, and what has a device retained there."""

import json
import secrets
import threading
import time
from typing import Any

from distillnet.device.broker import Link, Message
from distillnet.device.config import MqttSection
from distillnet.proto.mqtt import BASE

_ANSWER_S = 5.0


def probe_broker(config: MqttSection, device: str) -> str:
    """Connect once; returns why that fails, or nothing. `device` becomes part of the client id."""
    up = threading.Event()
    link = Link(config, client_id=f"distillnet-{device}-probe-{secrets.token_hex(3)}", on_up=up.set)
    link.start()
    try:
        until = time.monotonic() + _ANSWER_S
        while not up.wait(0.1) and time.monotonic() < until:
            if link.reason.startswith("refused"):
                break
        return link.reason
    finally:
        link.stop()


def retained(config: MqttSection, device: str, *, wait_s: float = 1.0) -> dict[str, Any]:
    """Return the retained payloads of a device by topic (without its prefix); empty when it is unknown.

    Raises:
        ConnectionError: there is no connection to the broker.

    """
    found: dict[str, Any] = {}
    changed = threading.Event()

    def keep(message: Message) -> None:
        if message.retained:
            text = message.payload.decode("utf-8", errors="replace")
            try:
                found[message.topic.removeprefix(f"{BASE}/{device}/")] = json.loads(text)
            except ValueError:
                found[message.topic.removeprefix(f"{BASE}/{device}/")] = text
            changed.set()

    up = threading.Event()
    topics = tuple(f"{BASE}/{device}/{topic}" for topic in ("status", "info", "model", "source/+", "state/+/+"))
    client_id = f"distillnet-status-{secrets.token_hex(4)}"
    link = Link(config, client_id=client_id, subscriptions=topics, on_up=up.set, on_message=keep)
    link.start()
    try:
        if not up.wait(_ANSWER_S):
            raise ConnectionError(f"no MQTT broker at {link.endpoint}: {link.reason}")
        while changed.wait(wait_s):
            changed.clear()
    finally:
        link.stop()
    return found
