"""Bringing a database to the schema this code needs; always with the owner's login."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from marketplace.shared.database import driver_url

# UNIQUE NULLS NOT DISTINCT is of this version.
OLDEST_POSTGRESQL = 15


class PostgresqlTooOld(Exception):
    """This server's version lacks what the tables are made of."""


def migrate(owner_url: str, application_url: str, *, revision: str = "head") -> None:
    """Upgrade to the revision, then grant the application's login its privileges."""
    engine = sa.create_engine(driver_url(owner_url))
    try:
        with engine.connect() as connection:
            _require_version(connection)
            # The privileges name every table of this version, so they come with the last of them.
            granted = application_url if revision == "head" else None
            command.upgrade(_config(connection, granted), revision)
    finally:
        engine.dispose()


def _require_version(connection: sa.Connection) -> None:
    major = int((connection.dialect.server_version_info or (0,))[0])
    if major < OLDEST_POSTGRESQL:
        raise PostgresqlTooOld(
            f"the database runs PostgreSQL {major}; upgrade it to {OLDEST_POSTGRESQL} or newer, or "
            "name another server"
        )


def downgrade(owner_url: str, *, revision: str) -> None:
    """Undo migrations down to the revision (`base` for all)."""
    engine = sa.create_engine(driver_url(owner_url))
    try:
        with engine.connect() as connection:
            command.downgrade(_config(connection, None), revision)
    finally:
        engine.dispose()


def pending(connection: sa.Connection) -> bool:
    """Whether the database lacks migrations that this code has."""
    current = MigrationContext.configure(connection).get_current_revision()
    return current != ScriptDirectory.from_config(_config(None, None)).get_current_head()


def _config(connection: sa.Connection | None, application_url: str | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    if application_url is not None:
        config.attributes["application_login"] = driver_url(application_url).username
    return config
