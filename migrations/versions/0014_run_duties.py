"""Runs that are paused, approvals that an edit voids, destinations that cool."""

from alembic import op

from migrations.sql import keep_rows_of, run_file

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0014_run_duties.sql")


def downgrade() -> None:
    keep_rows_of(
        "payout_run WHERE cardinality(edited_by) > 0",
        "payout_account WHERE destination_changed_at IS NOT NULL",
    )
    # Refused by the constraint while a run is paused.
    op.execute("DROP INDEX ix_payout_line_given_up")
    op.execute("DROP TRIGGER destination ON payout_account")
    op.execute("DROP FUNCTION stamp_destination()")
    op.execute("ALTER TABLE payout_account DROP COLUMN destination_changed_at")
    op.execute("DROP TRIGGER editors ON payout_run")
    op.execute("DROP FUNCTION guard_run_editors()")
    op.execute("ALTER TABLE payout_run DROP COLUMN edited_by")
    op.execute("ALTER TABLE payout_run DROP CONSTRAINT ck_payout_run_approved_by_somebody")
    op.execute(
        "ALTER TABLE payout_run ADD CONSTRAINT ck_payout_run_approved_by_somebody"
        " CHECK ((state = 'approved') = (approved_by IS NOT NULL))"
    )
    op.execute(
        "DELETE FROM allowed_move WHERE (subject, from_state, to_state) IN ("
        "('payout_run', 'approved', 'paused'), ('payout_run', 'approved', 'draft'),"
        " ('payout_run', 'paused', 'approved'), ('payout_run', 'paused', 'draft'),"
        " ('payout', 'approved', 'draft'))"
    )
    run_file("0014_run_duties_down.sql")
