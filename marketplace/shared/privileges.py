"""What the application's login may do, table by table, derived from the tables' own options.

SELECT and INSERT everywhere; UPDATE only of the columns a table names as updatable; DELETE only
where a table says so. The owner's login grants this after every migration.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

# Written by the database's own triggers and by the owner alone.
READ_ONLY = ("clock", "booking", "allowed_move", "account_balance", "alembic_version")


def grants(metadata: sa.MetaData, login: str) -> Iterator[str]:
    role = postgresql.dialect().identifier_preparer.quote(login)  # type: ignore[no-untyped-call]
    yield f"GRANT USAGE ON SCHEMA public TO {role}"
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}"
    yield f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    for table in metadata.sorted_tables:
        if table.name in READ_ONLY:
            continue
        yield f"GRANT INSERT ON {table.name} TO {role}"
        columns = table.info.get("updatable", ())
        if columns:
            yield f"GRANT UPDATE ({', '.join(columns)}) ON {table.name} TO {role}"
        if table.info.get("deletable"):
            yield f"GRANT DELETE ON {table.name} TO {role}"
