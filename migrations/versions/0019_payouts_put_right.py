"""Payout accounts that are another's, and transfers that come in late."""

from alembic import op

from migrations.sql import run_file

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0019_payouts_put_right.sql")


def downgrade() -> None:
    run_file("0019_payouts_put_right_down.sql")
    op.execute("DROP FUNCTION is_wrong_destination(uuid, text)")
