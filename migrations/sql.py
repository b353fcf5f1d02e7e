"""Hand-written SQL of a migration: kept as files, so that it reads and reviews as SQL."""

from pathlib import Path

from alembic import op

FOLDER = Path(__file__).parent / "versions"


def run_file(name: str) -> None:
    """Run a whole SQL file as it stands (no parameters, so `%` and `:` mean nothing special)."""
    script = (FOLDER / name).read_text(encoding="utf-8")
    cursor = op.get_bind().connection.cursor()
    cursor.execute(script)
    cursor.close()
