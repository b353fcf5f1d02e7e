"""Hand-written SQL of a migration: kept as files, so that it reads and reviews as SQL."""

from pathlib import Path

from alembic import op

FOLDER = Path(__file__).parent / "versions"


def keep_rows_of(*tables: str) -> None:
    """Refuse to undo what has rows already: money that was moved is not forgotten.

    A table may bring its WHERE, without quotes, when only those rows are kept.
    """
    for table in tables:
        op.execute(
            f"DO $$ BEGIN IF EXISTS (SELECT FROM {table}) THEN"
            f" RAISE EXCEPTION 'there are rows in {table}: restore a backup instead'; END IF; END $$"
        )


def run_file(name: str) -> None:
    """Run a whole SQL file as it stands (no parameters, so `%` and `:` mean nothing special)."""
    script = (FOLDER / name).read_text(encoding="utf-8")
    cursor = op.get_bind().connection.cursor()
    cursor.execute(script)
    cursor.close()
