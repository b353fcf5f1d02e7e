"""What the database itself refuses, even to the application's own login."""

from alembic import op

from migrations.sql import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Dropping a function drops the triggers that call it.
FUNCTIONS = (
    "guard_payout_attempt",
    "guard_payout",
    "check_payout_amount",
    "check_payout_lines",
    "check_ledger_balance",
    "apply_ledger_entries",
    "stamp_ledger_transaction",
    "guard_pay_decision",
    "guard_time_entry",
    "guard_claim",
    "guard_rate",
    "count_live_claims",
    "stamp_column",
    "stamp_audit",
    "record_reason",
    "record_move",
    "guard_clock",
    "keep_what_was_funded",
    "guard_published_job",
    "keep_what_is_set",
    "refuse_change_when_final",
    "refuse_change",
)


def upgrade() -> None:
    run_file("0003_guards.sql")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}() CASCADE")
    op.execute("DELETE FROM allowed_move")
