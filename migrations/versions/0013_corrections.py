"""Corrections by two people: a claim's pay, adjustments, debts netted or given up."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0013_corrections.sql")


def downgrade() -> None:
    keep_rows_of("correction")
    op.execute("DROP TRIGGER corrected ON ledger_entry")
    op.execute("DROP TABLE correction")
    op.execute(
        "DROP FUNCTION check_corrected(), guard_correction(), receivable_minor(uuid, text),"
        " free_pay_minor(uuid, text)"
    )
    op.execute("DELETE FROM allowed_move WHERE subject = 'correction'")
    run_file("0013_corrections_down.sql")
    op.execute("ALTER TABLE payout_line DROP CONSTRAINT ck_payout_line_not_zero")
    op.execute(
        "ALTER TABLE payout_line ADD CONSTRAINT ck_payout_line_positive CHECK (amount_minor > 0)"
    )
