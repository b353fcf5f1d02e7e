"""The way to the bank: withdrawals of the platform, bank payouts of connected accounts."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0011_bank.sql")


def downgrade() -> None:
    keep_rows_of("bank_payout", "withdrawal")
    op.execute("DROP FUNCTION check_withdrawal_booking() CASCADE")
    op.execute("DROP FUNCTION guard_withdrawal() CASCADE")
    op.execute("DROP TABLE bank_payout")
    op.execute("DROP TABLE withdrawal")
    op.execute("DROP FUNCTION withdrawable_minor(text)")
    op.execute("ALTER TABLE payout_account DROP COLUMN bank_due_at")
    op.execute("DELETE FROM allowed_move WHERE subject IN ('withdrawal', 'bank_payout')")
