"""Months of the books, closed by two people."""

from alembic import op

from migrations.sql import run_file

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0006_periods.sql")


def downgrade() -> None:
    op.execute("DROP FUNCTION guard_closed_period() CASCADE")
    op.execute("DROP TABLE accounting_period")
    op.execute("DELETE FROM allowed_move WHERE subject = 'accounting_period'")
