"""Payouts issued again beside a debt, refunds with a fee, lines that are named late, and where the
audit's rows since the last seal begin.
"""

from migrations.sql import run_file

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0020_late_money.sql")


def downgrade() -> None:
    run_file("0020_late_money_down.sql")
