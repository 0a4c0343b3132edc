"""Commands over MQTT: `cmd/<verb>` with a JSON object, answered on the response topic with the correlation data.

A retained command is refused: it would come again at every connection. The daemon runs commands on its main thread,
one after the other.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from distillnet.device.broker import Message
from distillnet.proto.card import Name, Score
from distillnet.proto.mqtt import CommandAnswer
from distillnet.proto.strict import ConfigError, Strict, nearest, validate

log = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 4096


class CommandError(Exception):
    """A command cannot be done; the message says why."""


class Nothing(Strict):
    """A request without parameters."""


class OneSource(Strict):
    """A request about a source."""

    source: Name


class NewThreshold(Strict):
    """A request to override an event's thresholds until the next restart, reload or update."""

    event: Name
    threshold: Score
    exit_threshold: Score | None = None


Handler = Callable[[Any], dict[str, Any]]
"""Takes the request's model, returns the answer's `result`, or raises CommandError."""


class Commands:
    """The verbs a device knows."""

    def __init__(self) -> None:
        """Know none yet."""
        self._verbs: dict[str, tuple[type[Strict], Handler]] = {}

    def add(self, verb: str, request: type[Strict], handler: Handler) -> None:
        """Know a verb."""
        self._verbs[verb] = (request, handler)

    def run(self, message: Message) -> CommandAnswer:
        """Run one command and return its answer; never raises."""
        verb = message.topic.rpartition("/")[2]
        if message.retained:
            log.warning("retained command %s is refused; clear it with an empty retained message", message.topic)
            return CommandAnswer(ok=False, reason="retained commands are refused")
        if verb not in self._verbs:
            return CommandAnswer(ok=False, reason=f"unknown command {verb!r}{nearest(verb, list(self._verbs))}")
        request, handler = self._verbs[verb]
        try:
            result = handler(validate(_parsed(message.payload), request, where=f"cmd/{verb}"))
        except (ConfigError, CommandError) as exc:
            log.warning("command %s: %s", verb, exc)
            return CommandAnswer(ok=False, reason=str(exc))
        except Exception as exc:
            log.exception("command %s failed", verb)
            return CommandAnswer(ok=False, reason=f"{type(exc).__name__}: {exc}")
        log.info("command %s done", verb)
        return CommandAnswer(ok=True, result=result)


def _parsed(payload: bytes) -> dict[str, Any]:
    if len(payload) > _MAX_REQUEST_BYTES:
        raise CommandError(f"the request has {len(payload)} bytes; at most {_MAX_REQUEST_BYTES} are taken")
    try:
        document = json.loads(payload or b"{}")
    except ValueError as exc:
        raise CommandError(f"the request is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise CommandError("the request must be a JSON object")
    return document
