"""Logging of the daemon: to stderr, or as fields to systemd's journal, with a stable MESSAGE_ID per kind of message."""

import logging
import os
import socket
import struct
from enum import Enum
from pathlib import Path

from distillnet.proto.strict import ConfigError, nearest

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_SOCKET = "/run/systemd/journal/socket"


class Note(Enum):
    """Kinds of messages a machine may look for: `journalctl MESSAGE_ID=…`. Ids never change, levels may."""

    STARTED = ("e2431c6167bc4775930cd833bb0b2751", logging.INFO)
    STOPPED = ("db1032e9fa694cf7985f68e3213da519", logging.INFO)
    STUDENT = ("cfa79134c86443bb88dd68ac67a93e98", logging.INFO)
    DEGRADED = ("ef43676d51704db791d9f5ac6094ab98", logging.WARNING)
    SOURCE = ("3afa1db811de4681a452cca445e3316c", logging.INFO)
    SOURCE_LOST = ("cde8c2a3156546649239582ecb5afcba", logging.WARNING)
    RELOADED = ("d58a906d655042eda46895aca1063416", logging.INFO)
    REFUSED = ("bf76f86468ae4b5fbee0d9f99763ddcc", logging.ERROR)
    EVENT = ("b8406e058df04a6cbec77beeb2c6b12d", logging.INFO)


def note(log: logging.Logger, kind: Note, message: str, *arguments: object, **fields: object) -> None:
    """Log a message of a kind; `fields` become journal fields `DISTILLNET_<NAME>`."""
    message_id, level = kind.value
    log.log(level, message, *arguments, extra={"message_id": message_id, "journal": fields})


def set_up_logging(level: str) -> None:
    """Send all logging to the journal where stderr is connected to it, else to stderr.

    Raises:
        ConfigError: there is no such level.

    """
    if level not in _LEVELS:
        raise ConfigError(f"log level {level!r} is unknown{nearest(level, list(_LEVELS))}")
    if "JOURNAL_STREAM" in os.environ and Path(_SOCKET).exists():
        logging.basicConfig(level=_LEVELS[level], handlers=[JournalHandler(_SOCKET)])
    else:
        logging.basicConfig(level=_LEVELS[level], format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")


class JournalHandler(logging.Handler):
    """Writes records to journald's native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""

    def __init__(self, address: str) -> None:
        """Connect lazily; a journal that is away costs messages, never the daemon."""
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": next((str(priority) for level, priority in _PRIORITIES if record.levelno >= level), "7"),
            "SYSLOG_IDENTIFIER": "distillnet",
            "THREAD_NAME": record.threadName or "",
            "LOGGER": record.name,
        }
        if hasattr(record, "message_id"):
            fields["MESSAGE_ID"] = record.message_id
        for name, value in getattr(record, "journal", {}).items():
            fields[f"DISTILLNET_{name.upper()}"] = str(value)
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields.items()), self._address)
        except OSError:
            self.handleError(record)


def _field(name: str, value: str) -> bytes:
    data = value.encode()
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
