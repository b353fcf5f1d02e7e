"""Disputes of deposits, and what clients owe after lost ones."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SOURCES = (
    "(kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'),"
    " ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'),"
    " ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'),"
    " ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'),"
    " ('transfer_refused', 'payout_attempt'), ('transfer_reversed', 'transfer_reversal'),"
    " ('pay_adjusted', 'correction'), ('overpayment_found', 'correction'),"
    " ('receivable_netted', 'correction'), ('receivable_written_off', 'correction'),"
    " ('refund_sent', 'refund'), ('refund_confirmed', 'refund'), ('refund_refused', 'refund'),"
    " ('refund_returned', 'refund'), ('dispute_opened', 'dispute'), ('dispute_won', 'dispute'),"
    " ('dispute_lost', 'dispute'), ('withdrawal_sent', 'withdrawal'),"
    " ('withdrawal_confirmed', 'withdrawal'), ('withdrawal_refused', 'withdrawal'),"
    " ('withdrawal_returned', 'withdrawal'), ('stripe_fee_booked', 'line_booking'),"
    " ('capital_booked', 'line_booking'))"
)


def upgrade() -> None:
    run_file("0009_disputes.sql")


def downgrade() -> None:
    keep_rows_of("client_debt_decision", "dispute")
    op.execute("DROP TRIGGER disputed ON ledger_entry")
    op.execute("DROP FUNCTION check_dispute_entries()")
    op.execute("DROP TABLE client_debt_decision")
    op.execute("DROP TABLE dispute")
    for function in ("guard_dispute()", "guard_debt_decision()", "check_dispute_transactions()"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP FUNCTION client_owes(uuid, text)")
    op.execute("DELETE FROM allowed_move WHERE subject IN ('dispute', 'client_debt_decision')")
    run_file("0009_disputes_down.sql")
    # Refused when there is one that nobody asked for: the older version cannot read it.
    op.execute("ALTER TABLE refund ALTER COLUMN requested_by SET NOT NULL")
    op.execute("ALTER TABLE ledger_transaction DROP CONSTRAINT ck_ledger_transaction_source_known")
    op.execute(
        "ALTER TABLE ledger_transaction"
        f" ADD CONSTRAINT ck_ledger_transaction_source_known CHECK ({SOURCES})"
    )
