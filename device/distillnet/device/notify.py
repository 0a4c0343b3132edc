"""Telling systemd how it goes: readiness, status text, watchdog. Without systemd every call does nothing."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """The `sd_notify` protocol: datagrams of KEY=VALUE lines to $NOTIFY_SOCKET."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read $NOTIFY_SOCKET and $WATCHDOG_USEC."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 else None

    def send(self, **values: str | int) -> None:
        """Send e.g. `READY=1, STATUS="…"`; a lost datagram is no error."""
        if not self._address:
            return
        text = "\n".join(f"{key}={str(value).replace(chr(10), ' ')}" for key, value in values.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(text.encode(), self._address)
            except OSError:
                return
