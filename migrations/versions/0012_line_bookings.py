"""What finance books of Stripe's lines that no event of ours explains."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0012_line_bookings.sql")


def downgrade() -> None:
    keep_rows_of("line_booking")
    op.execute("DROP FUNCTION check_line_booking() CASCADE")
    op.execute("DROP FUNCTION guard_line_booking() CASCADE")
    op.execute("DROP FUNCTION line_waits_for(text)")
    op.execute("DROP TABLE line_booking")
    op.execute("DROP TRIGGER kept_line ON deposit")
    op.execute("ALTER TABLE deposit DROP COLUMN foreign_line_id")
    op.execute("DELETE FROM allowed_move WHERE subject = 'line_booking'")
