"""The fleet's facts: tables, and how they are reached.

SQLite (WAL) by default, PostgreSQL by URL. Work on the database is a plain function of a `Session`, run in a thread:
`await database.read(work)` or `await database.write(work)`. On SQLite one writer at a time, by construction.
"""

import asyncio
import fcntl
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import JSON, BigInteger, Engine, ForeignKey, Index, String, Text, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from distillnet.cloud.fleet.errors import FleetError

ResultT = TypeVar("ResultT")
_READERS = 4


class Base(DeclarativeBase):
    """All tables. Times are Unix seconds."""


class Device(Base):
    """A board that has enrolled. `instance` is the server process its stream ends in."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    created_ts: Mapped[float]
    revoked_ts: Mapped[float | None] = mapped_column(index=True)
    last_seen_ts: Mapped[float]
    instance: Mapped[str | None] = mapped_column(String(64), index=True)
    session: Mapped[str] = mapped_column(String(128), default="")
    restricted: Mapped[bool] = mapped_column(default=False)
    capabilities: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class Certificate(Base):
    """Every certificate issued; one that is not here, or revoked, opens nothing."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(String(48), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(63), index=True)
    not_after_ts: Mapped[float]
    revoked_ts: Mapped[float | None]


class Token(Base):
    """A one-time right to enrol, by the hash of its secret."""

    __tablename__ = "tokens"
    secret_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    device: Mapped[str] = mapped_column(String(63), default="")
    applications: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_ts: Mapped[float]
    expires_ts: Mapped[float] = mapped_column(index=True)
    used_ts: Mapped[float | None]
    used_by: Mapped[str] = mapped_column(String(63), default="")
    used_key: Mapped[str] = mapped_column(String(64), default="")


class Model(Base):
    """A student. `staged` until its TUF target is signed, then `published`."""

    __tablename__ = "models"
    application: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(71), index=True)
    size_bytes: Mapped[int]
    boards: Mapped[list[str]] = mapped_column(JSON, default=list)
    minimum_runtime: Mapped[str] = mapped_column(String(32))
    held: Mapped[bool] = mapped_column(default=False)
    card_json: Mapped[str] = mapped_column(Text)
    published_ts: Mapped[float]


class Installed(Base):
    """What a device says it runs."""

    __tablename__ = "installed"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    application: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(71))


class Assignment(Base):
    """What a device shall run, and the directive that says so: at most one open per device and application."""

    __tablename__ = "assignments"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    application: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int | None]
    directive: Mapped[str] = mapped_column(String(36), default="")
    action: Mapped[str] = mapped_column(String(16), default="update")
    state: Mapped[str] = mapped_column(String(16), default="none")
    reason: Mapped[str] = mapped_column(Text, default="")
    changed_ts: Mapped[float]
    __table_args__ = (Index("assignments_news", "state", "changed_ts"),)


class Report(Base):
    """One step of an update, as the device told it."""

    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    ts: Mapped[float] = mapped_column(index=True)
    directive: Mapped[str] = mapped_column(String(36))
    phase: Mapped[str] = mapped_column(String(16))
    application: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(71))
    progress: Mapped[float]
    reason: Mapped[str] = mapped_column(Text)
    durations_ms: Mapped[dict[str, float]] = mapped_column(JSON, default=dict)
    shadow: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    __table_args__ = (Index("reports_of_device", "device", "id"),)


class Tag(Base):
    """A word on a device, for rollouts and lists."""

    __tablename__ = "device_tags"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(63), primary_key=True)


class Rollout(Base):
    """A version on its way to many devices. All of its state is here and in `RolloutDevice`."""

    __tablename__ = "rollouts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    application: Mapped[str] = mapped_column(String(63), index=True)
    version: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    everyone: Mapped[bool]
    wave: Mapped[int] = mapped_column(default=0)
    wave_started_ts: Mapped[float | None]
    settled_ts: Mapped[float | None]
    forgiven: Mapped[int] = mapped_column(default=0)
    released: Mapped[bool] = mapped_column(default=False)
    start_ts: Mapped[float]
    created_ts: Mapped[float]
    changed_ts: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(63))


class RolloutDevice(Base):
    """One device's part in a rollout: waiting, told, committed, failed, taken-back, superseded."""

    __tablename__ = "rollout_devices"
    rollout: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    wave: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    directive: Mapped[str] = mapped_column(String(36), default="")
    told_ts: Mapped[float | None]
    done_ts: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (Index("rollout_devices_state", "rollout", "wave", "state"),)


class Event(Base):
    """One life of one event, as far as the device has told it. No key to `devices`: messages may come before it."""

    __tablename__ = "events"
    device: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    source: Mapped[str] = mapped_column(String(63))
    zone: Mapped[str] = mapped_column(String(63))
    event: Mapped[str] = mapped_column(String(63))
    phase: Mapped[str] = mapped_column(String(8))
    start_ts: Mapped[float]
    end_ts: Mapped[float | None]
    top_score: Mapped[float]
    model_digest: Mapped[str] = mapped_column(String(71))
    __table_args__ = (Index("events_by_time", "start_ts"), Index("events_of_device", "device", "start_ts"))


class Sample(Base):
    """One telemetry report; after downsampling, an hour of them (`reports` > 1: means, and the worst p99)."""

    __tablename__ = "samples"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(String(63))
    ts: Mapped[float] = mapped_column(index=True)
    reports: Mapped[int] = mapped_column(default=1)
    interval_s: Mapped[float]
    model_digest: Mapped[str] = mapped_column(String(71))
    frames: Mapped[int]
    dropped: Mapped[int]
    gated: Mapped[int]
    infer_p50_ms: Mapped[float]
    end_to_end_p50_ms: Mapped[float]
    end_to_end_p99_ms: Mapped[float]
    cpu_share: Mapped[float]
    rss_bytes: Mapped[int] = mapped_column(BigInteger)
    temperature_c: Mapped[float | None]
    __table_args__ = (Index("samples_of_device", "device", "ts"),)


class Job(Base):
    """A distillation: an application file that waits, runs (seen by `instance` at `seen_ts`), or has ended."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    application: Mapped[str] = mapped_column(String(63))
    spec: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    log: Mapped[str] = mapped_column(Text, default="")
    files: Mapped[list[str]] = mapped_column(JSON, default=list)
    instance: Mapped[str] = mapped_column(String(64), default="")
    restarts: Mapped[int] = mapped_column(default=0)
    created_ts: Mapped[float]
    started_ts: Mapped[float | None]
    seen_ts: Mapped[float | None]
    done_ts: Mapped[float | None]
    created_by: Mapped[str] = mapped_column(String(63))


class Example(Base):
    """A picture a device was unsure of; its bytes lie in the object store."""

    __tablename__ = "examples"
    application: Mapped[str] = mapped_column(String(63), primary_key=True)
    device: Mapped[str] = mapped_column(String(63), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    event: Mapped[str] = mapped_column(String(63))
    source: Mapped[str] = mapped_column(String(63))
    ts: Mapped[float]
    score: Mapped[float]
    threshold: Mapped[float]
    model_digest: Mapped[str] = mapped_column(String(71))
    received_ts: Mapped[float] = mapped_column(index=True)
    __table_args__ = (Index("examples_of_device", "device", "received_ts"),)


class BoardProfile(Base):
    """What a device's layers cost, as measured there."""

    __tablename__ = "board_profiles"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    board: Mapped[str] = mapped_column(String(63), index=True)
    document: Mapped[str] = mapped_column(Text)
    received_ts: Mapped[float]


class WebSession(Base):
    """A sign-in link not used yet (`code`) or a visitor of the dashboard (`cookie`), by hash."""

    __tablename__ = "web_sessions"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    role: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(63), index=True)
    expires_ts: Mapped[float] = mapped_column(index=True)


class Database:
    """One database and the threads that work on it."""

    def __init__(self, url: str) -> None:
        """Open the database behind an SQLAlchemy URL.

        Raises:
            FleetError: no such dialect, or its driver is not installed.

        """
        try:
            parsed = make_url(url)
            self.engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as exc:
            raise FleetError(f"the database URL cannot be used: {exc}") from exc
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._lock_file = Path(f"{parsed.database}.lock") if self.is_sqlite and parsed.database else None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="database-read")
        self._writers = ThreadPoolExecutor(1 if self.is_sqlite else _READERS, thread_name_prefix="database-write")
        self._exclusive = threading.Lock()

    async def read(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Run `work` in a transaction that is not kept."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    async def write(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Run `work` in a transaction that is kept unless it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writers, self.write_now, work)

    def read_now(self, work: Callable[[Session], ResultT]) -> ResultT:
        """`read` in the calling thread."""
        with Session(self.engine) as session:
            return work(session)

    def write_now(self, work: Callable[[Session], ResultT]) -> ResultT:
        """`write` in the calling thread."""
        engine = self.engine.execution_options(writes=True)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock `name` against every thread and every instance on this database."""
        with self._exclusive:
            if self.is_sqlite:
                if self._lock_file is None:
                    yield
                    return
                try:
                    file = self._lock_file.open("w")
                except OSError as exc:
                    raise FleetError(f"{self._lock_file.parent}: cannot hold the database: {exc.strerror}") from exc
                with file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    yield
                return
            key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
            with self.engine.connect() as connection:
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
                try:
                    yield
                finally:
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})

    def close(self) -> None:
        """Finish what is under way and let the database go."""
        self._readers.shutdown()
        self._writers.shutdown()
        self.engine.dispose()


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=2 * _READERS, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 10.0})
    event.listen(engine, "connect", _sqlite_connected)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connected(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _sqlite_begin
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Any) -> None:
    # A reader that later writes can fail with SQLITE_BUSY at once; a writer that says so first waits its turn.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
