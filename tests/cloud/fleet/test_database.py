"""The schema and its migrations, up and down on data, and the locks."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from distillnet.cloud.fleet import devices, schema
from distillnet.cloud.fleet.access import Spent
from distillnet.cloud.fleet.database import Assignment, Base, Database, Device, Report
from distillnet.cloud.fleet.errors import FleetError
from distillnet.proto.v1 import fleet_pb2


def enrolled(database: Database, name: str) -> None:
    database.write_now(lambda session: devices.enrol(session, Spent(name, ["pets"], False), 1.0))


def test_migrations_make_exactly_the_tables_of_the_models(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_each_migration_goes_down_and_up_again(database):
    while (current := schema.revision(database.engine)) is not None:
        older = f"{int(current) - 1:04d}" if current != "0001" else "base"
        schema.migrate(database.engine, older)
        schema.migrate(database.engine, current)
        assert schema.revision(database.engine) == current
        schema.migrate(database.engine, older)
    schema.migrate(database.engine)
    enrolled(database, "porch")


def test_data_survives_migrating_again(database):
    enrolled(database, "porch")
    schema.migrate(database.engine)
    assert database.read_now(lambda session: session.get(Device, "porch")).restricted


def test_a_database_of_a_newer_service_is_refused(database):
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FleetError, match="newer service"):
        schema.migrate(database.engine)


def test_an_unusable_database_is_one_clear_error(tmp_path):
    with pytest.raises(FleetError, match="cannot be used"):
        schema.migrate(Database(f"sqlite:///{tmp_path / 'nowhere' / 'fleet.db'}").engine)
    with pytest.raises(FleetError, match="database URL"):
        Database("oracel://x")


def test_a_failed_write_leaves_nothing(database):
    def fail(session):
        devices.enrol(session, Spent("ghost", [], False), 1.0)
        session.flush()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write_now(fail)
    assert database.read_now(lambda session: session.get(Device, "ghost")) is None


def test_the_lock_lets_one_in_at_a_time(database):
    inside, most = [], []

    def enter() -> None:
        with database.exclusive("repository"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_progress_changes_the_last_report_and_old_ones_are_forgotten_but_the_last(database):
    enrolled(database, "porch")

    def told(ts: float, phase: int, progress: float) -> None:
        report = fleet_pb2.UpdateReport(directive_id="d", phase=phase, application="pets", progress=progress)
        database.write_now(lambda session: devices.report(session, "porch", report, ts))

    for step in range(5):
        told(2.0 + step, fleet_pb2.UPDATE_PHASE_FETCHING, step / 5)
    told(10.0, fleet_pb2.UPDATE_PHASE_VERIFYING, 0.0)
    count = select(func.count()).select_from(Report)
    assert database.read_now(lambda session: session.scalar(count)) == 2
    assert database.write_now(lambda session: devices.forget_reports(session, 100.0)) == 1
    assert database.read_now(lambda session: session.scalar(select(Report.phase))) == "verifying"


def test_a_device_cannot_fill_the_database_with_applications(database):
    database.write_now(lambda session: devices.enrol(session, Spent("greedy", [], False), 1.0))
    hello = fleet_pb2.Hello(applications=[f"app-{n}" for n in range(1000)])
    database.write_now(lambda session: devices.hello(session, "greedy", hello, "here", 2.0))
    count = select(func.count()).select_from(Assignment)
    assert database.read_now(lambda session: session.scalar(count)) <= 32
