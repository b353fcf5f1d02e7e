"""Time, ids and arithmetic that tables and statements refer to."""

from alembic import op

from migrations.sql import run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0001_functions.sql")


def downgrade() -> None:
    for function in (
        "pay_by(timestamptz, bigint)",
        "next_run_at(timestamptz)",
        "last_run_at(timestamptz)",
        "api_time(timestamptz)",
        "speaks_one_of(text[], text[])",
        "with_parents(text[])",
        "change_percent(bigint, bigint)",
        "cost_minor(bigint, bigint, bigint)",
        "fee_minor(bigint, bigint)",
        "pay_minor(bigint, bigint)",
        "account_id(text, uuid, text)",
        "public.uuidv7()",
        "acting_request()",
        "acting()",
        "booking_time()",
        "booking_lock()",
        "present_second()",
        "present_moment()",
        "marketplace_now()",
    ):
        op.execute(f"DROP FUNCTION IF EXISTS {function}")
    op.execute("DROP TYPE uuidrange")
    op.drop_table("booking")
    op.drop_table("clock")
