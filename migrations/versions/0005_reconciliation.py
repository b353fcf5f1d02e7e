"""Stripe's own books, line by line."""

from alembic import op

from migrations.sql import run_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0005_reconciliation.sql")


def downgrade() -> None:
    op.execute("DROP TABLE line_mark")
    op.execute("DROP TABLE stripe_line")
