from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel, text

from marketplace.shared.columns import json_object, link, minor_units, now_stamp, stamp, updatable


class StripeEvent(SQLModel, table=True):
    """An event as Stripe told it, stored once; its effect is applied later, once.

    The payload is only a hint of what to look up: the object is fetched anew before it is applied.
    """

    __tablename__ = "stripe_event"
    __table_args__ = (
        Index("ix_stripe_event_due_at", "due_at", postgresql_where=text("handled_at IS NULL")),
        Index("ix_stripe_event_created", "created"),
        Index("ix_stripe_event_object_id", "object_id"),
        updatable("handled_at", "due_at", "tries", "last_error"),
    )

    id: str = Field(primary_key=True)
    type: str
    # The connected account it speaks of; null for our own.
    account: str | None = None
    object_id: str
    created: datetime = stamp()
    payload: dict[str, Any] = json_object()
    received_at: datetime = now_stamp()
    due_at: datetime = now_stamp()
    handled_at: datetime | None = stamp(default=None)
    tries: int = 0
    last_error: str | None = None


class PollMark(SQLModel, table=True):
    """How far the poller itself has read Stripe's events; what webhooks brought does not count."""

    __tablename__ = "poll_mark"
    __table_args__ = (
        sa.CheckConstraint("one = 1", name="single_row"),
        updatable("events_read_to"),
    )

    one: int = Field(default=1, primary_key=True)
    events_read_to: datetime = stamp()


class BookedBalanceTransaction(SQLModel, table=True):
    """Which line of Stripe's own books a ledger transaction stands for."""

    __tablename__ = "booked_balance_transaction"
    __table_args__ = updatable()

    id: str = Field(primary_key=True)
    # Effect on our Stripe balance, after Stripe's fee.
    net_minor: int = minor_units()
    currency: str
    ledger_transaction_id: UUID = link("ledger_transaction.id", unique=True)
    booked_at: datetime = now_stamp()
