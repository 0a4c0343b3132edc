"""Brings a database to the schema this version of the service speaks."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from distillnet.cloud.fleet.errors import FleetError

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine, revision: str = "head") -> None:
    """Upgrade, or with an older `revision` downgrade, to it.

    Raises:
        FleetError: the database cannot be reached, or was written by a newer service.

    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.set_main_option("path_separator", "os")
    try:
        with engine.execution_options(writes=True).begin() as connection:
            config.attributes["connection"] = connection
            if revision == "head" or not _is_older(config, MigrationContext.configure(connection), revision):
                command.upgrade(config, revision)
            else:
                command.downgrade(config, revision)
    except DBAPIError as exc:
        raise FleetError(f"the database cannot be used: {exc.orig}") from exc
    except CommandError as exc:
        raise FleetError(f"the database was written by a newer service: {exc}; upgrade distillnet") from exc


def revision(engine: Engine) -> str | None:
    """Return the revision a database is at; None when it is empty."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _is_older(config: Config, context: MigrationContext, revision: str) -> bool:
    current = context.get_current_revision()
    if current is None:
        return False
    scripts = ScriptDirectory.from_config(config)
    older = [script.revision for script in scripts.walk_revisions("base", current)][1:]
    return revision == "base" or revision in older
