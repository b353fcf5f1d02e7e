"""The tables, in the order of their references."""

from alembic import op

from migrations.sql import run_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    "account",
    "allowed_move",
    "audit_event",
    "client",
    "idempotency_key",
    "ledger_transaction",
    "person",
    "sign_in_failure",
    "sweep_slot",
    "stripe_event",
    "poll_mark",
    "access_token",
    "account_balance",
    "booked_balance_transaction",
    "client_member",
    "consent_grant",
    "deposit",
    "feed_event",
    "invite",
    "ledger_entry",
    "minimum_rate",
    "outbox",
    "password_reset",
    "payout_run",
    "performer",
    "person_role",
    "rate_lineage",
    "recording",
    "reservation",
    "topup",
    "consent_withdrawal",
    "download_link",
    "job",
    "payout",
    "payout_account",
    "payout_exclusion",
    "rate",
    "reserve_move",
    "audition",
    "payout_attempt",
    "payout_line",
    "task",
    "role",
    "claim",
    "claim_recording",
    "pay_decision",
    "submission",
    "time_entry",
    "withholding",
    "review",
    "submission_recording",
)


def upgrade() -> None:
    run_file("0002_tables.sql")


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
