"""A training's state on disk, so that an interrupted one goes on. Plain tensors and values: nothing is executed."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from distillnet.proto.files import write_whole

PREFIX, SUFFIX = ".distil", ".pt"


class Checkpoint:
    """One network's checkpoint in the run's output folder. `key` names everything the training depends on."""

    def __init__(self, directory: Path, key: str, name: str = "") -> None:
        """Look at `directory`/.distil-NAME.pt; a checkpoint of another run is ignored."""
        self._path = directory / f"{PREFIX}{'-' if name else ''}{name}{SUFFIX}"
        self._key = key

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, or None."""
        if not self._path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError):
            return None
        return state["state"] if state.get("key") == self._key else None

    def keep(self, state: dict[str, Any]) -> None:
        """Write it whole."""
        buffer = io.BytesIO()
        torch.save({"key": self._key, "state": state}, buffer)
        write_whole(self._path, buffer.getvalue())


def forget(directory: Path) -> None:
    """Remove every checkpoint of a folder: its run is done, or begins anew."""
    for path in directory.glob(f"{PREFIX}*{SUFFIX}"):
        path.unlink(missing_ok=True)
