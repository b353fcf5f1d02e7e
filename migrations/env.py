"""Alembic's environment: always online, always as the owner, never as the application."""

from alembic import context
from sqlalchemy import Connection

from marketplace.shared.privileges import grants
from marketplace.tables import metadata


def run(connection: Connection, application_login: str | None) -> None:
    """Migrate in one transaction, then give the application's login exactly its privileges."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=False,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        # Schema changes wait for nobody: give up quickly and try again later.
        connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        context.run_migrations()
        if application_login is not None:
            for grant in grants(metadata, application_login):
                connection.exec_driver_sql(grant)


options = context.config.attributes
run(options["connection"], options.get("application_login"))
