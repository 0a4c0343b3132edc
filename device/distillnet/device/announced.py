"""What the broker and Home Assistant were ever told to keep, remembered over restarts so that it can be taken back.

A student may change while nobody is connected, or be rolled back by a start after a crash: the events it no longer has
must not stay behind as retained states and dead entities. Losing the file costs just that. Nothing is ever forgotten:
when the broker heard that something has gone cannot be known, and to say so again does no harm.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from distillnet.device.update.files import Files

log = logging.getLogger(__name__)

Pair = tuple[str, str]


class Announced:
    """One small file. Not thread-safe."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Read what earlier sessions said; an unreadable file counts as empty."""
        self._path, self._files = path, files or Files()
        self.pairs: set[Pair] = set()
        """Source and event of every `state` that was ever retained."""
        self.components: dict[str, str] = {}
        """Every component Home Assistant was ever told of, and its platform."""
        try:
            document = json.loads(path.read_bytes())
            self.pairs = {(str(source), str(event)) for source, event in document["pairs"]}
            self.components = {str(key): str(platform) for key, platform in document["components"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            log.warning("%s is not readable (%s): what earlier sessions announced is not taken back", path, exc)

    def remember(self, pairs: Iterable[Pair], components: dict[str, str]) -> None:
        """Add what is said now."""
        new = (self.pairs | set(pairs), self.components | components)
        if new == (self.pairs, self.components):
            return
        self.pairs, self.components = new
        document = {"pairs": sorted(self.pairs), "components": self.components}
        try:
            self._files.make_directory(self._path.parent)
            self._files.replace(self._path, json.dumps(document).encode())
        except OSError as exc:
            log.warning("%s cannot be written: %s", self._path, exc)
