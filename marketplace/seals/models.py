from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from marketplace.shared.columns import stamp, texts, updatable


class Seal(SQLModel, table=True):
    """One link of the chain: which rows it covers, the hash of each, and of all that came before."""

    __tablename__ = "seal"
    __table_args__ = (
        sa.CheckConstraint("(number = 1) = (previous_hash IS NULL)", name="follows_one"),
        sa.CheckConstraint(
            "cardinality(row_keys) > 0 AND octet_length(row_hashes) = 32 * cardinality(row_keys)",
            name="hash_of_each",
        ),
        updatable(),
    )

    # 1, 2, 3 … without a gap.
    number: int = Field(
        sa_type=sa.BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False}
    )
    # Every row of the sealed tables that was booked by then is in this seal or an earlier one.
    sealed_to: datetime = stamp()
    # `table/key`, table by table, in the order they were booked.
    row_keys: list[str] = texts()
    # SHA-256 of each row, 32 bytes after 32 bytes.
    row_hashes: bytes = Field(sa_type=sa.LargeBinary)
    previous_hash: str | None = Field(default=None, foreign_key="seal.hash")
    hash: str = Field(unique=True)
