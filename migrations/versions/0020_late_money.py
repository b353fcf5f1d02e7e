"""Payouts issued again beside a debt, refunds with a fee, and lines that are named late."""

from migrations.sql import run_file

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0020_late_money.sql")


def downgrade() -> None:
    run_file("0020_late_money_down.sql")
