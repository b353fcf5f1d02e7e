"""Stripe's fee on a refund is booked beside it; who called a refund or withdrawal absent is kept."""

from migrations.sql import run_file

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0017_refunds_put_right.sql")


def downgrade() -> None:
    run_file("0017_refunds_put_right_down.sql")
