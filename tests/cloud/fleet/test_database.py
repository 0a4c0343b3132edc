"""The schema and its migrations, up and down on data, and the locks."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, func, insert, select

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


def contents(database: Database) -> dict[str, list[dict[str, object]]]:
    """Every row of every table there is, by table."""
    tables = MetaData()
    tables.reflect(database.engine)
    with database.engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


def a_row_of(table: Table) -> dict[str, object]:
    """A value for every column; keys that refer to others find each other."""
    values: dict[type, object] = {str: "x", int: 1, float: 1.5, bool: True}
    return {column.name: values.get(column.type.python_type, {"a": [1]}) for column in table.columns}


def assert_holds(less: dict, more: dict) -> None:
    """Every table and column of `less` is in `more`, with the same values."""
    for name, rows in less.items():
        assert rows == [{column: row[column] for column in rows[0]} for row in more[name]], name


def test_rows_survive_each_migration_down_and_up_again(database):
    with database.engine.execution_options(writes=True).begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(insert(table).values(a_row_of(table)))
    whole = contents(database)
    assert len(whole) == len(Base.metadata.tables) and all(len(rows) == 1 for rows in whole.values())
    schema.migrate(database.engine)
    assert contents(database) == whole, "nothing to do changes nothing"
    while (current := schema.revision(database.engine)) != "0001":
        older = f"{int(current) - 1:04d}"
        schema.migrate(database.engine, older)
        below = contents(database)
        assert_holds(below, whole)
        schema.migrate(database.engine, current)
        assert_holds(below, contents(database))
        schema.migrate(database.engine, older)
    schema.migrate(database.engine)
    assert_holds(below, contents(database))
    assert contents(database)["examples"] == [], "what an older service does not know is gone"


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
