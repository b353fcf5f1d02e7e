from datetime import datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel, text

from marketplace.shared.columns import (
    choice,
    is_one_of,
    key,
    link,
    minor_units,
    now_stamp,
    stamp,
    state_column,
    updatable,
)
from marketplace.shared.states import Moves


class DepositState(StrEnum):
    REQUESTED = "requested"  # committed here, not yet known at Stripe
    AWAITING_PAYMENT = "awaiting_payment"  # the hosted page waits for the client
    CREDITED = "credited"  # paid: in the wallet, still pending at Stripe
    AVAILABLE = "available"  # Stripe lets us spend it
    EXPIRED = "expired"  # never paid: the page lapsed, or the payment failed or was given back


DEPOSIT_MOVES: Moves[DepositState] = {
    None: frozenset({DepositState.REQUESTED}),
    DepositState.REQUESTED: frozenset({DepositState.AWAITING_PAYMENT, DepositState.EXPIRED}),
    DepositState.AWAITING_PAYMENT: frozenset({DepositState.CREDITED, DepositState.EXPIRED}),
    DepositState.CREDITED: frozenset({DepositState.AVAILABLE}),
}


class TopupState(StrEnum):
    REQUESTED = "requested"  # committed here, not yet known at Stripe
    PENDING = "pending"  # on its way from our bank
    SUCCEEDED = "succeeded"  # in our available balance
    FAILED = "failed"


TOPUP_MOVES: Moves[TopupState] = {
    None: frozenset({TopupState.REQUESTED}),
    TopupState.REQUESTED: frozenset({TopupState.PENDING, TopupState.FAILED}),
    TopupState.PENDING: frozenset({TopupState.SUCCEEDED, TopupState.FAILED}),
}


class Deposit(SQLModel, table=True):
    """A client's payment into its wallet through a hosted Checkout page."""

    __tablename__ = "deposit"
    __table_args__ = (
        sa.UniqueConstraint("client_id", "idempotency_key"),
        sa.UniqueConstraint("id", "client_id", "currency"),
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        Index("ix_deposit_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            "state",
            "state_reason",
            "due_at",
            "checkout_session_id",
            "checkout_url",
            "fee_minor",
            "available_on",
            "payment_intent_id",
            "foreign_line_id",
        ),
    )

    id: UUID = key()
    client_id: UUID = link("client.id")
    currency: str
    amount_minor: int = minor_units()
    idempotency_key: str
    success_url: str
    state: DepositState = state_column(DepositState)
    state_reason: str | None = None
    # When somebody should look at it next: the poller.
    due_at: datetime | None = stamp(default=None)
    checkout_session_id: str | None = Field(default=None, unique=True)
    checkout_url: str | None = None
    # Stripe's fee, carried by the platform; known when the charge is.
    fee_minor: int | None = minor_units(default=None)
    available_on: datetime | None = stamp(default=None)
    # Stripe's payment behind the page: what a refund or a dispute speaks of.
    payment_intent_id: str | None = Field(default=None, unique=True)
    # Stripe's line of a payment that it settled in another currency or at another amount: finance
    # decides about it, and about all that becomes of it at Stripe.
    foreign_line_id: str | None = Field(default=None, unique=True)
    created_at: datetime = now_stamp()


class Topup(SQLModel, table=True):
    """The platform's own money into its Stripe balance."""

    __tablename__ = "topup"
    __table_args__ = (
        sa.UniqueConstraint("requested_by", "idempotency_key"),
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        Index("ix_topup_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable("state", "state_reason", "due_at", "stripe_topup_id"),
    )

    id: UUID = key()
    currency: str
    amount_minor: int = minor_units()
    requested_by: UUID = link("person.id")
    idempotency_key: str
    state: TopupState = state_column(TopupState)
    state_reason: str | None = None
    due_at: datetime | None = stamp(default=None)
    stripe_topup_id: str | None = Field(default=None, unique=True)
    created_at: datetime = now_stamp()


class Reservation(SQLModel, table=True):
    """Money set aside for a role, or for an ended claim that awaits its pay decision.

    What is left in it is the guarded balance of its own ledger account.
    """

    __tablename__ = "reservation"
    __table_args__ = (
        sa.UniqueConstraint("id", "client_id"),
        sa.UniqueConstraint("id", "client_id", "currency"),
        updatable(),
    )

    id: UUID = key()
    client_id: UUID = link("client.id", index=True)
    currency: str
    # What the money is set aside for (a job); opaque here.
    subject_id: UUID = Field(index=True)
    created_at: datetime = now_stamp()


class ReserveCause(StrEnum):
    PUBLISHED = "published"  # a role opened for the first time
    REOPENED = "reopened"  # a role opened again: made up to the full worst case
    RATE_ROSE = "rate_rose"  # the difference of an announced rise
    AWAITING_DECISION = "awaiting_decision"  # an ended claim's pay waits in a reserve of its own
    LEFT_OVER = "left_over"  # what nobody can claim any more goes back


class ReserveMove(SQLModel, table=True):
    """One movement between a wallet and a reserve, or between two reserves. Null is the wallet."""

    __tablename__ = "reserve_move"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.CheckConstraint("from_reservation_id IS DISTINCT FROM to_reservation_id", name="moves"),
        is_one_of("cause", ReserveCause),
        sa.ForeignKeyConstraint(
            ["from_reservation_id", "client_id", "currency"],
            ["reservation.id", "reservation.client_id", "reservation.currency"],
            name="fk_reserve_move_from",
        ),
        sa.ForeignKeyConstraint(
            ["to_reservation_id", "client_id", "currency"],
            ["reservation.id", "reservation.client_id", "reservation.currency"],
            name="fk_reserve_move_to",
        ),
        updatable(),
    )

    id: UUID = key()
    client_id: UUID = link("client.id")
    currency: str
    from_reservation_id: UUID | None = Field(default=None, index=True)
    to_reservation_id: UUID | None = Field(default=None, index=True)
    amount_minor: int = minor_units()
    cause: ReserveCause = choice(ReserveCause)
    ledger_transaction_id: UUID = link("ledger_transaction.id", unique=True)
    moved_at: datetime = now_stamp()
