"""The seal: a chain of hashes over what is only ever inserted."""

from alembic import op

from migrations.sql import run_file

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0004_seal.sql")


def downgrade() -> None:
    op.execute("DROP TABLE seal")
    op.execute("DROP FUNCTION stamp_booking() CASCADE")
    for table in ("rate_lineage", "minimum_rate", "consent_grant", "consent_withdrawal"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN booked_at")
