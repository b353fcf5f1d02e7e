"""Alembic's environment: always online, always as the owner, never as the application."""

from alembic import context
from sqlalchemy import Connection

from marketplace.shared.privileges import grants
from marketplace.tables import metadata

UNVALIDATED = """
    SELECT 'ALTER TABLE ' || conrelid::regclass || ' VALIDATE CONSTRAINT ' || quote_ident(conname)
    FROM pg_constraint WHERE NOT convalidated AND connamespace = 'public'::regnamespace
    ORDER BY conrelid, conname
"""


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
    _validate(connection)


def _validate(connection: Connection) -> None:
    """Constraints that migrations add as NOT VALID hold for new rows by now.

    The old rows are looked through here, a constraint at a time, while everybody reads and writes.
    """
    statements = connection.exec_driver_sql(UNVALIDATED).scalars().all()
    connection.commit()
    for statement in statements:
        connection.exec_driver_sql(statement)
        connection.commit()


options = context.config.attributes
run(options["connection"], options.get("application_login"))
