from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel

from marketplace.shared.columns import booking_stamp, minor_units, stamp, updatable


class StripeLine(SQLModel, table=True):
    """A balance transaction as Stripe listed it. Stripe never changes one, and neither do we."""

    __tablename__ = "stripe_line"
    __table_args__ = (
        sa.CheckConstraint("amount_minor = fee_minor + net_minor", name="adds_up"),
        Index("ix_stripe_line_created_at", "created_at", "id"),
        updatable(),
    )

    id: str = Field(primary_key=True)
    # Stripe knows some fifty and adds new ones.
    type: str
    currency: str
    # Negative amounts left the balance.
    amount_minor: int = minor_units()
    fee_minor: int = minor_units()
    net_minor: int = minor_units()
    # The charge, transfer, refund … behind it.
    source_id: str | None = None
    description: str | None = None
    created_at: datetime = stamp()
    available_on: datetime = stamp()
    booked_at: datetime = booking_stamp()


class LineMark(SQLModel, table=True):
    """Up to which line Stripe's lines were read without a break, and when."""

    __tablename__ = "line_mark"
    __table_args__ = (
        sa.CheckConstraint("one = 1", name="single_row"),
        updatable("read_to", "read_at"),
    )

    one: int = Field(default=1, primary_key=True)
    read_to: datetime = stamp()
    read_at: datetime = stamp()
