"""Guards that hold whatever isolation, and whatever order of checks, a transaction asks for."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

READ_COMMITTED = (
    *("ledger_transaction", "payout_run", "payout", "payout_line", "payout_attempt"),
    *("transfer_reversal", "withdrawal", "refund", "dispute", "client_debt_decision"),
    *("correction", "line_booking", "client_charge", "pay_decision", "person_role"),
    "client_member",
)


def upgrade() -> None:
    run_file("0018_guards_at_any_isolation.sql")


def downgrade() -> None:
    keep_rows_of("payout WHERE approved_again_by IS NOT NULL")
    for table in READ_COMMITTED:
        op.execute(f"DROP TRIGGER read_committed ON {table}")
    op.execute("DROP TRIGGER at_once ON ledger_entry")
    op.execute("DROP TRIGGER said ON ledger_transaction")
    op.execute("DROP TRIGGER booked_after_all ON line_booking")
    op.execute("DROP TRIGGER approved_again ON payout")
    op.execute(
        "DROP FUNCTION require_read_committed(), require_entries_at_once(), check_source_entries(),"
        " guard_booked_line(), guard_approved_again()"
    )
    op.execute("ALTER TABLE payout DROP COLUMN approved_again_by")
    op.execute(
        "ALTER TABLE accounting_period DROP CONSTRAINT ck_accounting_period_closing_by_somebody"
    )
