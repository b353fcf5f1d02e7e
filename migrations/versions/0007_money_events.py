"""Accounts and events for refunds, disputes, reversals, receivables and the way to the bank."""

from alembic import op

from migrations.sql import run_file

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


ACCOUNT_KINDS = (
    "kind IN ('stripe_pending', 'stripe_available', 'stripe_fees', 'platform_expense',"
    " 'client_wallet', 'job_reserve', 'performer_payable', 'transfers_in_flight',"
    " 'platform_fees', 'platform_capital')"
)
SOURCES = (
    "(kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'),"
    " ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'),"
    " ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'),"
    " ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'),"
    " ('transfer_refused', 'payout_attempt'))"
)


def upgrade() -> None:
    run_file("0007_money_events.sql")


def downgrade() -> None:
    # Refused by the constraints when anything was booked that the older version does not know.
    for table, constraint, known in (
        ("account", "ck_account_kind_known", ACCOUNT_KINDS),
        ("ledger_transaction", "ck_ledger_transaction_source_known", SOURCES),
    ):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} CHECK ({known})")
