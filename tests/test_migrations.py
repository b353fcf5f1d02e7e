"""The migrations make the very database that the models and their options describe."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel.sql.sqltypes import AutoString

import migrations
from marketplace import migrate
from marketplace.shared.database import driver_url
from marketplace.shared.privileges import READ_ONLY
from marketplace.tables import MOVES, metadata
from tests.conftest import on_database

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(migrations.__file__).parent))
REVISIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory.from_config(CONFIG).walk_revisions()))
]

EVERYTHING = """
    SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column of ' || attrelid::regclass, attname::text FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT attisdropped
    UNION ALL
    SELECT 'function', oid::regprocedure || ' ' || md5(prosrc) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'type', typname::text FROM pg_type WHERE typnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger on ' || tgrelid::regclass, tgname::text FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'constraint of ' || conrelid::regclass, conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""

COLUMNS = """
    SELECT relname || '.' || attname,
           format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
               || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
               || CASE WHEN attidentity = '' THEN '' ELSE ' IDENTITY ' || attidentity::text END
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = current_schema::regnamespace AND relkind = 'r' AND attnum > 0
      AND NOT attisdropped
"""
CONSTRAINTS = """
    SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = current_schema::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
"""
INDEXES = """
    SELECT tablename || '.' || indexname, replace(indexdef, schemaname || '.', '') FROM pg_indexes
    WHERE schemaname = current_schema
"""


@contextmanager
def empty_database(
    server: dict[str, str], maintenance: psycopg.Connection, name: str
) -> Iterator[dict[str, str]]:
    maintenance.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield {login: on_database(server[login], name) for login in ("owner", "app")}
    finally:
        # Not by force, to which a vacuum of the server's own does not give way.
        maintenance.execute(f"DROP DATABASE {name}".encode())


@pytest.fixture
def unmigrated(
    server: dict[str, str], maintenance: psycopg.Connection, worker_id: str
) -> Iterator[sa.Connection]:
    with empty_database(server, maintenance, f"unmigrated_{worker_id}") as urls:
        engine = sa.create_engine(driver_url(urls["owner"]))
        with engine.connect() as connection:
            yield connection
        engine.dispose()


@pytest.fixture(scope="module")
def urls(
    server: dict[str, str], maintenance: psycopg.Connection, worker_id: str
) -> Iterator[dict[str, str]]:
    """Of a migrated database."""
    with empty_database(server, maintenance, f"migrated_{worker_id}") as urls:
        migrate.migrate(urls["owner"], urls["app"])
        yield urls


@pytest.fixture
def owner(urls: dict[str, str]) -> Iterator[sa.Connection]:
    engine = sa.create_engine(driver_url(urls["owner"]))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def upgrade(connection: sa.Connection, revision: str) -> None:
    CONFIG.attributes["connection"] = connection
    command.upgrade(CONFIG, revision)


def downgrade(connection: sa.Connection, revision: str) -> None:
    CONFIG.attributes["connection"] = connection
    command.downgrade(CONFIG, revision)


def everything(connection: sa.Connection) -> set[tuple[str, str]]:
    """What is in the schema, functions and constraints by their text, but for Alembic's own table."""
    found = connection.exec_driver_sql(EVERYTHING).all()
    connection.rollback()
    return {(kind, name) for kind, name in found if "alembic_version" not in kind + name}


def test_each_migration_undoes_all_that_it_did(unmigrated: sa.Connection) -> None:
    for before, revision in zip(["base", *REVISIONS], REVISIONS, strict=False):
        untouched = everything(unmigrated)
        upgrade(unmigrated, revision)
        migrated = everything(unmigrated)
        assert migrated != untouched
        downgrade(unmigrated, before)
        assert everything(unmigrated) == untouched
        upgrade(unmigrated, revision)
        assert everything(unmigrated) == migrated


def test_the_way_down_to_base_leaves_nothing_and_the_way_up_is_free_again(
    unmigrated: sa.Connection,
) -> None:
    upgrade(unmigrated, "head")
    migrated = everything(unmigrated)
    downgrade(unmigrated, "base")
    assert everything(unmigrated) == set()
    upgrade(unmigrated, "head")
    assert everything(unmigrated) == migrated


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (
            "payout_run",
            (
                "INSERT INTO payout_run (id, currency, state, cut_off_at, edited_by)"
                " VALUES (uuidv7(), 'USD', 'draft', now(), ARRAY[uuidv7()])"
            ),
        ),
        (
            "payout_account",
            (
                "ALTER TABLE payout_account DROP CONSTRAINT fk_payout_account_performer_id;"
                "INSERT INTO payout_account (performer_id, stripe_account_id, key_number, transfers)"
                " VALUES (uuidv7(), 'acct_one', 1, 'active');"
                "UPDATE payout_account SET stripe_account_id = 'acct_other'"
            ),
        ),
    ],
)
def test_who_edited_a_run_and_what_cools_is_not_forgotten(
    unmigrated: sa.Connection, table: str, known: str
) -> None:
    upgrade(unmigrated, "head")
    unmigrated.exec_driver_sql("SET marketplace.actor = 'finn'")
    unmigrated.exec_driver_sql(known)
    unmigrated.commit()
    with pytest.raises(sa.exc.DBAPIError, match=f"there are rows in {table}"):
        downgrade(unmigrated, "0013")
    unmigrated.rollback()


def test_migrating_twice_changes_nothing(urls: dict[str, str], owner: sa.Connection) -> None:
    before = everything(owner), privileges(owner, urls)
    migrate.migrate(urls["owner"], urls["app"])
    assert (everything(owner), privileges(owner, urls)) == before


def test_old_rows_are_looked_through_after_the_change(
    urls: dict[str, str], owner: sa.Connection
) -> None:
    """In a transaction of its own, which lets everybody write; if it was cut off, the next time."""
    definition = definitions(owner, CONSTRAINTS)
    assert not any(text.endswith("NOT VALID") for text in definition.values())
    owner.exec_driver_sql("ALTER TABLE payout_line DROP CONSTRAINT ck_payout_line_not_zero")
    owner.exec_driver_sql(
        "ALTER TABLE payout_line ADD CONSTRAINT ck_payout_line_not_zero CHECK (amount_minor <> 0)"
        " NOT VALID"
    )
    owner.commit()
    assert definitions(owner, CONSTRAINTS) != definition
    owner.commit()
    migrate.migrate(urls["owner"], urls["app"])
    assert definitions(owner, CONSTRAINTS) == definition


OLD_CHARGES = """
    INSERT INTO client (id, name, currency) VALUES (uuidv7(), 'Acme Voice Lab', 'USD');
    ALTER TABLE deposit DISABLE TRIGGER USER;
    INSERT INTO deposit (id, client_id, currency, amount_minor, idempotency_key, success_url, state,
                         checkout_session_id, foreign_line_id)
    SELECT uuidv7(), id, 'USD', 5, 'k', 'u', 'credited', 'cs_1', 'txn_1' FROM client;
    ALTER TABLE deposit ENABLE TRIGGER USER;
    INSERT INTO stripe_event (id, type, object_id, created, payload, tries)
    VALUES ('evt_1', 'checkout.session.completed', 'cs_1', now(),
            '{"data": {"object": {"payment_intent": "pi_1"}}}', 0);
    ALTER TABLE dispute DISABLE TRIGGER USER;
    INSERT INTO dispute (id, stripe_dispute_id, client_id, deposit_id, currency, amount_minor, reason,
                         opened_at, state, state_reason)
    SELECT uuidv7(), how, client_id, id, 'USD', 5, 'fraudulent', now(), 'open',
           'Finance must look: Stripe ' || how || ' by txn_2.'
    FROM deposit, unnest(ARRAY['took it', 'gave it back']) AS how;
    ALTER TABLE dispute ENABLE TRIGGER USER;
"""


def test_what_stood_in_prose_of_disputes_stands_in_columns(unmigrated: sa.Connection) -> None:
    upgrade(unmigrated, "0015")
    unmigrated.exec_driver_sql(OLD_CHARGES)
    unmigrated.commit()
    upgrade(unmigrated, "0016")
    found = unmigrated.exec_driver_sql(
        "SELECT stripe_dispute_id, unbookable_line_id, unbookable_return_line_id, payment_intent_id"
        " FROM dispute JOIN deposit ON deposit.id = deposit_id ORDER BY 1 DESC"
    )
    assert list(map(tuple, found)) == [
        ("took it", "txn_2", None, "pi_1"),
        ("gave it back", None, "txn_2", "pi_1"),
    ]


def test_alembic_finds_no_difference_from_the_models(owner: sa.Connection) -> None:
    def texts_are_texts(*arguments: Any) -> bool | None:
        *_, found, wanted = arguments
        return False if isinstance(found, sa.Text) and isinstance(wanted, AutoString) else None

    context = MigrationContext.configure(owner, opts={"compare_type": texts_are_texts})
    assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize(
    "query", [COLUMNS, CONSTRAINTS, INDEXES], ids=["columns", "constraints", "indexes"]
)
def test_definitions_are_those_of_the_models(owner: sa.Connection, query: str) -> None:
    """Also what Alembic does not compare: checks, defaults, exclusions, the words of an index."""
    migrated = definitions(owner, query)
    owner.exec_driver_sql("CREATE SCHEMA models")
    owner.exec_driver_sql("SET LOCAL search_path = models, public")
    models_alone().create_all(owner, checkfirst=False)
    assert definitions(owner, query) == migrated
    owner.rollback()


def models_alone() -> sa.MetaData:
    """A copy in which SQLModel's unbounded strings are TEXT, as the migrations write them."""
    copy = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        for column in table.to_metadata(copy).columns:
            if isinstance(column.type, AutoString) and column.type.length is None:
                column.type = sa.Text()
    return copy


def definitions(connection: sa.Connection, query: str) -> dict[str, str]:
    found = connection.exec_driver_sql(query.replace("%", "%%"))
    return {name: definition for name, definition in found if "alembic_version" not in name}


def test_every_table_is_known(owner: sa.Connection) -> None:
    assert set(sa.inspect(owner).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_allowed_moves_are_those_of_the_code(owner: sa.Connection) -> None:
    rows = owner.exec_driver_sql("SELECT subject, from_state, to_state FROM allowed_move")
    assert sorted(map(str, rows)) == sorted(
        str((table, None if before is None else before.value, after.value))
        for table, moves in MOVES.items()
        for before, allowed in moves.items()
        for after in allowed
    )


def test_the_application_may_do_what_the_tables_say_and_no_more(
    urls: dict[str, str], owner: sa.Connection
) -> None:
    expected = {(table, "*", "SELECT") for table in (*metadata.tables, "alembic_version")}
    for name, table in metadata.tables.items():
        if name not in READ_ONLY:
            expected.add((name, "*", "INSERT"))
            expected |= {(name, column, "UPDATE") for column in table.info.get("updatable", ())}
            expected |= {(name, "*", "DELETE")} if table.info.get("deletable") else set()
    assert privileges(owner, urls) == expected


def privileges(connection: sa.Connection, urls: dict[str, str]) -> set[tuple[str, str, str]]:
    """(table, column or `*`, privilege) of the application's login, and of everybody."""
    login = sa.make_url(urls["app"]).username
    found = connection.exec_driver_sql(
        """
        SELECT table_name, '*', privilege_type FROM information_schema.table_privileges
        WHERE table_schema = 'public' AND grantee IN (%(login)s, 'PUBLIC')
        UNION
        SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges
        WHERE table_schema = 'public' AND grantee IN (%(login)s, 'PUBLIC')
        AND (table_name, privilege_type) NOT IN (
            SELECT table_name, privilege_type FROM information_schema.table_privileges
            WHERE table_schema = 'public' AND grantee IN (%(login)s, 'PUBLIC')
        )
        """,
        {"login": login},
    )
    return {(table, column, privilege) for table, column, privilege in found}


def test_tables_name_columns_that_exist() -> None:
    for table in metadata.tables.values():
        assert set(table.info.get("updatable", ())) <= set(table.columns.keys()), table.name
        assert "updatable" in table.info, f"{table.name} does not say what may be updated"
    assert set(READ_ONLY) <= {*metadata.tables, "alembic_version"}


def test_the_application_owns_and_creates_nothing(
    urls: dict[str, str], owner: sa.Connection
) -> None:
    login = sa.make_url(urls["app"]).username
    query = """
        SELECT has_schema_privilege(%(login)s, 'public', 'CREATE'),
               (SELECT count(*) FROM pg_class WHERE relowner = %(login)s::regrole),
               (SELECT count(*) FROM pg_proc WHERE proowner = %(login)s::regrole)
    """
    assert owner.exec_driver_sql(query, {"login": login}).one() == (False, 0, 0)


def test_functions_with_the_owners_rights_look_up_names_where_only_the_owner_writes(
    owner: sa.Connection,
) -> None:
    """The temporary schema comes last, else a caller's temporary table would stand in for ours."""
    found = owner.exec_driver_sql(
        "SELECT proname, array_to_string(proconfig, ';') AS path FROM pg_proc"
        " WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    )
    paths = {row.proname: row.path for row in found}
    assert paths
    assert paths == dict.fromkeys(paths, "search_path=public, pg_temp")
