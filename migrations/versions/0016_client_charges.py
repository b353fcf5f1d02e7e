"""What our books cannot follow of a deposit: two people charge its client for it."""

from migrations.sql import keep_rows_of, run_file

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file("0016_client_charges.sql")


def downgrade() -> None:
    keep_rows_of("client_charge")
    run_file("0016_client_charges_down.sql")
