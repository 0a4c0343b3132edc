"""Logging of the daemon: to stderr with a timestamp, or without one where the journal adds its own."""

import logging
import os

from distillnet.proto.strict import ConfigError, nearest

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_logging(level: str) -> None:
    """Send all logging to stderr.

    Raises:
        ConfigError: there is no such level.

    """
    if level not in _LEVELS:
        raise ConfigError(f"log level {level!r} is unknown{nearest(level, list(_LEVELS))}")
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(level=_LEVELS[level], format=f"{stamp}%(levelname)-7s %(message)s", datefmt="%H:%M:%S")
