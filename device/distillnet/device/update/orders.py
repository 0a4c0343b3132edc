"""What a person at the board asks for: list, roll back, pin. Works with the daemon running or not.

The daemon holds the store's lock. A command that finds it taken leaves its request under `store/requests/` and waits
for the answer; otherwise it does the work itself.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from distillnet.device.config import DeviceConfig
from distillnet.device.update import admission, machine
from distillnet.device.update.errors import RefusedError, UpdateError
from distillnet.device.update.files import Files
from distillnet.device.update.record import Installed, Record
from distillnet.device.update.store import ModelStore
from distillnet.proto.strict import Strict

log = logging.getLogger(__name__)

_REQUESTS = "requests"
_MAX_REQUEST_BYTES = 4096


class Order(Strict):
    """One request."""

    verb: Literal["show", "rollback", "pin", "unpin"]
    reason: str = ""


class Returns(Protocol):
    """How to make a student of the store the running one; raises `RefusedError`."""

    def return_to(self, slot: Installed) -> None:
        """Switch to it."""


class Orders:
    """Carries out orders on an open store."""

    def __init__(
        self, store: ModelStore, effects: Returns, config: DeviceConfig, changed: Callable[[Record], None]
    ) -> None:
        """Call `changed` with the record after each order that changed it."""
        self._store, self._effects, self._config, self._changed = store, effects, config, changed
        self._directory = store.directory / _REQUESTS

    def answer_all(self) -> None:
        """Answer the requests that other processes left."""
        try:
            waiting = sorted(self._directory.glob("*.request"))
        except OSError:
            return
        for path in waiting:
            answer = self._answer(path)
            self._store.files.replace(path.with_suffix(".answer"), json.dumps(answer).encode())
            self._store.files.remove(path)

    def carry_out(self, order: Order) -> dict[str, Any]:
        """Do it; returns what the store then holds.

        Raises:
            RefusedError: it cannot be done; says why.

        """
        record, now = self._store.record, time.time()
        if order.verb == "rollback":
            if record.update.phase not in machine.ENDS:
                raise RefusedError(f"an update is under way ({record.update.phase}); try again when it has ended")
            if record.slots.previous is None:
                raise RefusedError("there is no previous student to go back to")
            self._effects.return_to(record.slots.previous)
            self._store.save(machine.swap_back(record, "", order.reason or "by hand", "command", now))
            self._changed(self._store.record)
        elif order.verb in ("pin", "unpin"):
            slots = record.slots.model_copy(update={"pinned": order.verb == "pin"})
            self._store.save(record.model_copy(update={"slots": slots}))
            self._changed(self._store.record)
        return facts(self._store)

    def _answer(self, path: Path) -> dict[str, Any]:
        try:
            if path.stat().st_size > _MAX_REQUEST_BYTES:
                raise RefusedError("the request is too long")
            return {"ok": True, **self.carry_out(Order.model_validate_json(path.read_bytes()))}
        except (OSError, ValidationError, UpdateError) as exc:
            return {"ok": False, "reason": str(exc)}


class AtRest:
    """Returning to a student while no daemon runs: it only has to pass its self-test; the next start loads it."""

    def __init__(self, store: ModelStore, config: DeviceConfig) -> None:
        """Test students of `store` as `config` would run them."""
        self._store, self._config = store, config

    def return_to(self, slot: Installed) -> None:
        """See `Returns`."""
        data = self._store.read(slot.digest)
        if data is None:
            raise RefusedError("the previous student is damaged")
        admission.load_tested(data, self._config)


def ask_daemon(store_directory: Path, order: Order, timeout_s: float) -> dict[str, Any]:
    """Leave an order for the running daemon and wait for its answer.

    Raises:
        UpdateError: it refuses, or does not answer in time.

    """
    directory = store_directory / _REQUESTS
    files = Files()
    files.make_directory(directory)
    request = directory / f"{uuid.uuid4().hex}.request"
    answer = request.with_suffix(".answer")
    files.replace(request, order.model_dump_json().encode())
    deadline = time.monotonic() + timeout_s
    try:
        while not answer.exists():
            if time.monotonic() > deadline:
                raise UpdateError(f"the daemon did not answer within {timeout_s:g} s; it may be busy with an update")
            time.sleep(0.05)
        document: dict[str, Any] = json.loads(answer.read_bytes())
    finally:
        files.remove(request)
        files.remove(answer)
    if not document.pop("ok"):
        raise UpdateError(str(document["reason"]))
    return document


def facts(store: ModelStore) -> dict[str, Any]:
    """What the store holds, as plain JSON values."""
    record = store.record
    return {
        "slots": record.slots.model_dump(mode="json"),
        "update": record.update.model_dump(mode="json"),
        "history": [past.model_dump(mode="json") for past in record.history],
        "used_bytes": store.used_bytes(),
        "free_bytes": store.free_bytes(),
    }
