"""Guards that were narrower than what they promise."""

from migrations.sql import run_file

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0015_stricter_guards.sql")


def downgrade() -> None:
    run_file("0015_stricter_guards_down.sql")
