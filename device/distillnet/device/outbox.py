"""Events that wait for the broker, on disk: written before they are offered, deleted when the broker has them.

SQLite in WAL mode, bounded by bytes and age (the oldest go first, counted and logged). A disk that is full, read-only
or gone never stops the daemon: events stay in memory in the same order, are offered from there, and move to disk as
soon as that works again. A corrupt file is put aside, never in the way of the next start. Thread-safe.
"""

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_ROW_OVERHEAD_BYTES = 64
_BUSY_MS = 200
_LOG_PAGES = 64
"""SQLite's log is begun again after so many: a file that does not grow is synced in a third of the time."""
_PATIENCE = 5
"""Failed writes after which the file is opened anew."""
_MOST_ACKED = 64
_ACKED_S = 10.0
"""So many acknowledged events, for so long, may still be on disk; after a crash they are offered once more."""
_AGED_S = 10.0
"""How often is looked for what is too old."""
_RECENT = 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  key INTEGER PRIMARY KEY, session TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL, created REAL NOT NULL,
  size INTEGER NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One waiting event; keys ascend in the order of decision, over sessions."""

    key: int
    session: str
    topic: str
    payload: bytes
    created: float

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return len(self.topic) + len(self.payload) + _ROW_OVERHEAD_BYTES


class Outbox:
    """The waiting events of one device."""

    def __init__(
        self, path: Path, *, max_bytes: int = 32 << 20, max_age_s: float = 7 * 86400.0, clock: Callable[[], float]
    ) -> None:
        """Open or create the file; `clock` gives Unix seconds. A file that cannot be opened is a fault, no error."""
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._memory: dict[int, Entry] = {}
        self._acked: set[int] = set()
        self._settled = self._bounded = 0.0
        self._recent: deque[Entry] = deque(maxlen=_RECENT)
        """The events put last, wherever they are kept; their keys follow one another."""
        self._next_key = int(clock() * 1e6)  # above the keys of a file that cannot be read now
        self._disk_events = self._disk_bytes = 0
        self._lost = 0
        self._fault = ""
        self._failures = 0
        with self._lock:
            self._open()

    @property
    def fault(self) -> str:
        """Why events are not on disk now; empty when they are."""
        return self._fault

    @property
    def lost(self) -> int:
        """Events that went because of the bounds, since the start."""
        return self._lost

    @property
    def events(self) -> int:
        """How many wait."""
        with self._lock:
            return self._disk_events + len(self._memory) - len(self._acked)

    @property
    def newest(self) -> int:
        """No event has a key above this one."""
        return self._next_key - 1

    @property
    def size(self) -> int:
        """Bytes they count for."""
        with self._lock:
            waiting = sum(entry.size for entry in self._memory.values()) if self._memory else 0
            return self._disk_bytes + waiting

    def put(self, session: str, topic: str, payload: bytes) -> int:
        """Keep an event; on return it is on disk, or `fault` says why it is only in memory. Returns its key."""
        with self._lock:
            entry = Entry(self._next_key, session, topic, payload, self._clock())
            self._next_key += 1
            self._memory[entry.key] = entry
            self._recent.append(entry)
            if not self._fault:  # else `tend` tries again, once a second and not at every event
                self._settle()
            if self.size > self._max_bytes:  # `tend` looks for what is too old
                self._bound()
            return entry.key

    def peek(self, after: int, limit: int) -> list[Entry]:
        """Return the oldest waiting events with keys above `after`, oldest first."""
        with self._lock:
            if self._recent and after >= self._recent[0].key - 1:  # the usual case needs no look at the disk
                found = [entry for entry in self._recent if entry.key > after and entry.key not in self._acked]
                return found[:limit]
            found = list(self._read(after, limit))
            found += [entry for key, entry in self._memory.items() if key > after]
            found = [entry for entry in found if entry.key not in self._acked]
            return sorted(found, key=lambda entry: entry.key)[:limit]

    def ack(self, keys: list[int]) -> None:
        """Forget events the broker has taken; the disk follows with the next event, or when there is none for long."""
        with self._lock:
            for key in keys:
                if self._memory.pop(key, None) is None and key < self._next_key:
                    self._acked.add(key)
            if len(self._acked) >= _MOST_ACKED and not self._fault:
                self._settle()

    def tend(self) -> None:
        """Try again what the disk refused, and let go of what is too old. Call about once a second."""
        with self._lock:
            if self._memory or self._fault or self._clock() - self._settled >= _ACKED_S:
                self._settle()
            if self._clock() - self._bounded >= _AGED_S:
                self._bounded = self._clock()
                self._bound()

    def close(self) -> None:
        """Write what can be written and close."""
        with self._lock:
            self._settle()
            if self._memory:
                log.error(
                    "%d events could not be written to %s and are lost: %s", len(self._memory), self._path, self._fault
                )
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connect()
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError):
                self._fail(exc)
                return
            self._put_aside(exc)
            return
        except OSError as exc:
            self._fail(exc)
            return
        self._count()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
            db.execute("PRAGMA journal_size_limit=1048576")
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            db.execute(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _put_aside(self, why: Exception) -> None:
        """Rename a corrupt file and begin a new one."""
        aside = self._path.with_name(self._path.name + ".corrupt")
        log.error("%s is corrupt (%s): put aside as %s, starting empty", self._path, why, aside.name)
        try:
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._db = self._connect()
            self._count()
        except (OSError, sqlite3.Error) as exc:
            self._fail(exc)

    def _count(self) -> None:
        assert self._db is not None
        row = self._db.execute("SELECT count(*), coalesce(sum(size), 0), coalesce(max(key), 0) FROM events").fetchone()
        self._disk_events, self._disk_bytes = row[0], row[1]
        self._next_key = max(self._next_key, row[2] + 1)

    def _settle(self) -> None:
        """Bring the disk up to date in one transaction: what is in memory goes in, what is acknowledged goes out."""
        if not self._memory and not self._acked and not self._fault:
            return
        if self._db is None or self._failures > _PATIENCE:
            self._reopen()
        if self._db is None:
            return
        db, entries = self._db, list(self._memory.values())
        try:
            db.execute("BEGIN IMMEDIATE")
            for entry in entries:
                row = (entry.key, entry.session, entry.topic, entry.payload, entry.created, entry.size)
                db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
            deleted = self._delete(list(self._acked))
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._roll_back(exc)
            return
        self._disk_events += len(entries) - len(deleted)
        self._disk_bytes += sum(entry.size for entry in entries) - sum(deleted)
        self._memory.clear()
        self._acked.clear()
        self._settled = self._clock()
        self._failures = 0
        if self._fault:
            log.warning("%s can be written again", self._path)
        self._fault = ""

    def _delete(self, keys: list[int]) -> list[int]:
        """Delete rows inside the open transaction; returns the sizes of those that were there."""
        assert self._db is not None
        rows = [self._db.execute("DELETE FROM events WHERE key = ? RETURNING size", (key,)).fetchall() for key in keys]
        return [row[0][0] for row in rows if row]

    def _roll_back(self, exc: sqlite3.Error) -> None:
        assert self._db is not None
        self._fail(exc)
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            log.debug("rollback failed", exc_info=True)

    def _reopen(self) -> None:
        """Look afresh: the file may have been replaced, its directory created, its disk mounted again.

        The old connection goes first: SQLite would share its read-only memory map with the new one.
        """
        self._failures = 0
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        self._open()

    def _read(self, after: int, limit: int) -> list[Entry]:
        if self._db is None:
            return []
        query = "SELECT key, session, topic, payload, created FROM events WHERE key > ? ORDER BY key LIMIT ?"
        try:
            rows = self._db.execute(query, (after, limit + len(self._acked))).fetchall()
        except sqlite3.Error as exc:
            self._fail(exc)
            return []
        return [Entry(*row) for row in rows if row[0] not in self._memory]

    def _bound(self) -> None:
        """Let the oldest go while there is too much, and what is too old in any case."""
        oldest = self._clock() - self._max_age_s
        gone = [key for key, entry in self._memory.items() if entry.created < oldest]
        excess = self.size - self._max_bytes
        if self._db is not None and self._disk_events:
            excess -= self._delete_oldest(oldest, excess)
        for key, entry in self._memory.items():
            if excess > 0 and key not in gone:
                gone.append(key)
                excess -= entry.size
        for key in gone:
            del self._memory[key]
        self._count_lost(len(gone))

    def _delete_oldest(self, oldest: float, excess: int) -> int:
        """Delete rows older than `oldest`, then the oldest ones until `excess` bytes are gone; returns bytes freed."""
        assert self._db is not None
        doomed: list[int] = []
        freed = 0
        try:
            for key, size, created in self._db.execute("SELECT key, size, created FROM events ORDER BY key"):
                if created >= oldest and freed >= excess:
                    break
                doomed.append(key)
                freed += size
            if doomed:
                self._db.execute("BEGIN IMMEDIATE")
                deleted = self._delete(doomed)
                self._db.execute("COMMIT")
                self._disk_events -= len(deleted)
                self._disk_bytes -= sum(deleted)
        except sqlite3.Error as exc:
            self._roll_back(exc)
            return 0
        self._count_lost(len(set(doomed) - self._acked))
        return freed

    def _count_lost(self, events: int) -> None:
        if events:
            self._recent.clear()
            self._lost += events
            log.error("outbox is beyond its bounds: %d of the oldest events are let go (%d so far)", events, self._lost)

    def _fail(self, exc: Exception) -> None:
        fault = f"outbox {self._path} cannot be written: {exc}"
        if fault != self._fault:
            log.error("%s; events are kept in memory until it can", fault)
        self._fault = fault
        self._failures += 1
