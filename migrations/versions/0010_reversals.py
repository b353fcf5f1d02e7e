"""Transfers that come back, by cause; what came back from a wrong destination is paid again."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0010_reversals.sql")


def downgrade() -> None:
    keep_rows_of("transfer_reversal")
    op.execute("DROP TRIGGER reversed ON ledger_entry")
    op.execute("DROP TABLE transfer_reversal")
    op.execute("DROP FUNCTION check_reversed(), guard_transfer_reversal(), is_earning(text)")
    op.execute(
        "DELETE FROM allowed_move WHERE subject = 'transfer_reversal' OR subject = 'payout'"
        " AND (from_state IN ('paid', 'partly_reversed')"
        "  OR to_state IN ('partly_reversed', 'reversed'))"
    )
    run_file("0010_reversals_down.sql")
