from datetime import datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel, text

from marketplace.shared.columns import (
    key,
    link,
    minor_units,
    now_stamp,
    stamp,
    state_column,
    updatable,
)
from marketplace.shared.states import Moves


class RefundState(StrEnum):
    SENDING = "sending"  # out of the wallet and committed; Stripe may or may not have it
    UNKNOWN = "unknown"  # Stripe gave no answer that proves anything; only the same key may ask
    PENDING = "pending"  # Stripe has it, and the money is on its way or waits for funds there
    SUCCEEDED = "succeeded"  # with who paid; their bank may still send it back
    REFUSED = "refused"  # nothing moved at Stripe; the wallet has it again
    RETURNED = "returned"  # their bank sent it back; the wallet has it again


REFUND_MOVES: Moves[RefundState] = {
    None: frozenset({RefundState.SENDING}),
    RefundState.SENDING: frozenset({RefundState.PENDING, RefundState.REFUSED, RefundState.UNKNOWN}),
    RefundState.UNKNOWN: frozenset({RefundState.PENDING, RefundState.REFUSED}),
    RefundState.PENDING: frozenset(
        {RefundState.SUCCEEDED, RefundState.REFUSED, RefundState.RETURNED}
    ),
    RefundState.SUCCEEDED: frozenset({RefundState.RETURNED}),
}


class Refund(SQLModel, table=True):
    """Part of one deposit back to who paid it, under one idempotency key.

    One request may be split over several deposits; each part is a row of its own.
    """

    __tablename__ = "refund"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.ForeignKeyConstraint(
            ["deposit_id", "client_id", "currency"],
            ["deposit.id", "deposit.client_id", "deposit.currency"],
            name="fk_refund_deposit",
        ),
        # What the key is made of is known before Stripe is asked, and nobody can choose another.
        sa.CheckConstraint("idempotency_key = 'refund-' || id", name="key_of_its_own"),
        sa.CheckConstraint("decided_by <> requested_by", name="decided_by_another"),
        # States that follow from what is proven.
        sa.CheckConstraint(
            "CASE WHEN state IN ('sending', 'unknown') THEN stripe_refund_id IS NULL"
            " WHEN state = 'refused' THEN true ELSE stripe_refund_id IS NOT NULL END",
            name="at_stripe",
        ),
        sa.CheckConstraint(
            "CASE WHEN state IN ('succeeded', 'returned') THEN confirmed_transaction_id IS NOT NULL"
            " WHEN state = 'pending' THEN true ELSE confirmed_transaction_id IS NULL END",
            name="money_moved",
        ),
        sa.CheckConstraint(
            "(state IN ('refused', 'returned')) = (ended_transaction_id IS NOT NULL)",
            name="in_the_wallet_again",
        ),
        Index("ix_refund_client_id", "client_id", "id"),
        Index("ix_refund_deposit_id", "deposit_id"),
        Index("ix_refund_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            "state",
            "state_reason",
            "due_at",
            "tries",
            "not_found_at",
            "decided_by",
            "stripe_refund_id",
            "stripe_request_id",
            "error_code",
            "confirmed_transaction_id",
            "fee_minor",
            "ended_transaction_id",
        ),
    )

    id: UUID = key()
    # The same for all parts of one request.
    request_id: UUID = Field(index=True)
    client_id: UUID = link("client.id")
    deposit_id: UUID
    currency: str
    amount_minor: int = minor_units()
    # A person, or a client's API key; null when it was made by hand at Stripe.
    requested_by: UUID | None = None
    requested_at: datetime = now_stamp()
    idempotency_key: str = Field(unique=True)
    state: RefundState = state_column(RefundState)
    state_reason: str | None = None
    # When it is looked at next; null once nothing is expected any more.
    due_at: datetime | None = stamp(default=None)
    # Looks in a row without an answer, for the growing wait between them.
    tries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    # When Stripe was last looked through for a refund of an expired key, in vain.
    not_found_at: datetime | None = stamp(default=None)
    # Who called it absent.
    decided_by: UUID | None = link("person.id", default=None)
    stripe_refund_id: str | None = Field(default=None, unique=True)
    stripe_request_id: str | None = None
    error_code: str | None = None
    sent_transaction_id: UUID = link("ledger_transaction.id", unique=True)
    # Booked with Stripe's own line.
    confirmed_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    # Stripe's, on that line; negative is one that it gave back.
    fee_minor: int = minor_units(default=0, sa_column_kwargs={"server_default": text("0")})
    # Refused or returned: final.
    ended_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
