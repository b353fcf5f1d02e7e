"""Refunds of deposits to the clients who paid them."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0008_refunds.sql")


def downgrade() -> None:
    keep_rows_of("refund")
    op.execute("DROP TRIGGER refunded ON ledger_entry")
    op.execute("DROP FUNCTION check_refund_entries()")
    op.execute("DROP TABLE refund")
    op.execute("DROP FUNCTION guard_refund()")
    op.execute("DROP FUNCTION check_refund_transactions()")
    op.execute("DROP TRIGGER kept_payment ON deposit")
    op.execute("ALTER TABLE deposit DROP COLUMN payment_intent_id")
    op.execute("ALTER TABLE deposit DROP CONSTRAINT uq_deposit_id_client_id_currency")
    op.execute("DELETE FROM allowed_move WHERE subject = 'refund'")
