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


class WithdrawalState(StrEnum):
    REQUESTED = "requested"  # waits for a second person
    APPROVED = "approved"  # may be sent
    SENDING = "sending"  # committed; Stripe may or may not have it
    UNKNOWN = "unknown"  # Stripe gave no answer that proves anything; only the same key may ask
    IN_TRANSIT = "in_transit"  # out of Stripe's balance, on its way to our bank
    ARRIVED = "arrived"  # Stripe takes it for arrived; the bank may still send it back
    REFUSED = "refused"  # Stripe refused it for good; nothing moved
    RETURNED = "returned"  # the bank sent it back; it is in Stripe's balance again
    DISCARDED = "discarded"  # given up before it was sent


WITHDRAWAL_MOVES: Moves[WithdrawalState] = {
    None: frozenset({WithdrawalState.REQUESTED}),
    WithdrawalState.REQUESTED: frozenset({WithdrawalState.APPROVED, WithdrawalState.DISCARDED}),
    WithdrawalState.APPROVED: frozenset({WithdrawalState.SENDING, WithdrawalState.DISCARDED}),
    WithdrawalState.SENDING: frozenset(
        {WithdrawalState.IN_TRANSIT, WithdrawalState.REFUSED, WithdrawalState.UNKNOWN}
    ),
    WithdrawalState.UNKNOWN: frozenset({WithdrawalState.IN_TRANSIT, WithdrawalState.REFUSED}),
    WithdrawalState.IN_TRANSIT: frozenset({WithdrawalState.ARRIVED, WithdrawalState.RETURNED}),
    WithdrawalState.ARRIVED: frozenset({WithdrawalState.RETURNED}),
}


class Withdrawal(SQLModel, table=True):
    """The platform's own money out of Stripe: asked for once, under the one key of this row."""

    __tablename__ = "withdrawal"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.CheckConstraint("approved_by <> requested_by", name="second_person"),
        sa.CheckConstraint("decided_by <> requested_by", name="decided_by_another"),
        sa.CheckConstraint(
            "(approved_by IS NULL) = (approved_at IS NULL)"
            " AND (state <> 'requested' OR approved_by IS NULL)"
            " AND (state IN ('requested', 'discarded') OR approved_by IS NOT NULL)",
            name="approved_by_somebody",
        ),
        sa.CheckConstraint(
            "(state IN ('requested', 'approved', 'discarded')) = (sent_at IS NULL)"
            " AND (sent_at IS NULL) = (sent_transaction_id IS NULL)",
            name="sent_as_booked",
        ),
        sa.CheckConstraint(
            "(state IN ('in_transit', 'arrived', 'refused', 'returned'))"
            " = (conclusion_transaction_id IS NOT NULL)"
            " AND (state IN ('in_transit', 'arrived', 'returned'))"
            " = (stripe_payout_id IS NOT NULL)",
            name="concluded_as_booked",
        ),
        sa.CheckConstraint(
            "(state = 'returned') = (return_transaction_id IS NOT NULL)", name="returned_as_booked"
        ),
        Index("ix_withdrawal_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            "state",
            "state_reason",
            "due_at",
            "tries",
            "approved_by",
            "approved_at",
            "sent_at",
            "not_found_at",
            "decided_by",
            "stripe_payout_id",
            "stripe_request_id",
            "error_code",
            "arrives_at",
            "sent_transaction_id",
            "conclusion_transaction_id",
            "return_transaction_id",
        ),
    )

    id: UUID = key()
    currency: str
    amount_minor: int = minor_units()
    reason: str
    requested_by: UUID = link("person.id")
    requested_at: datetime = now_stamp()
    approved_by: UUID | None = link("person.id", default=None)
    approved_at: datetime | None = stamp(default=None)
    state: WithdrawalState = state_column(WithdrawalState)
    state_reason: str | None = None
    # When the sender looks at it next; null while it waits for a person, and once all is known.
    due_at: datetime | None = stamp(default=None)
    # Looks in a row without an answer, for the growing wait between them.
    tries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    # When the intent was committed; its key serves from then on for less than a day.
    sent_at: datetime | None = stamp(default=None)
    # When Stripe was last looked through for a payout of an expired key, in vain.
    not_found_at: datetime | None = stamp(default=None)
    # Who called it absent then.
    decided_by: UUID | None = link("person.id", default=None)
    # Stripe's payout, once it is known to exist.
    stripe_payout_id: str | None = Field(default=None, unique=True)
    stripe_request_id: str | None = None
    error_code: str | None = None
    # The day Stripe expects it at the bank.
    arrives_at: datetime | None = stamp(default=None)
    sent_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    conclusion_transaction_id: UUID | None = link(
        "ledger_transaction.id", default=None, unique=True
    )
    return_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)


class BankPayoutState(StrEnum):
    """Stripe's own words (https://docs.stripe.com/api/payouts/object)."""

    PENDING = "pending"  # not yet handed to the bank
    IN_TRANSIT = "in_transit"  # handed to the bank
    PAID = "paid"  # should have arrived; the bank may still send it back
    FAILED = "failed"  # the bank sent it back; it is in the account's Stripe balance again
    CANCELED = "canceled"  # never left; it is in the account's Stripe balance again


# We may see it first in any state, and later in any that Stripe's own way leads to from there.
BANK_PAYOUT_MOVES: Moves[BankPayoutState] = {
    None: frozenset(BankPayoutState),
    BankPayoutState.PENDING: frozenset(BankPayoutState) - {BankPayoutState.PENDING},
    BankPayoutState.IN_TRANSIT: frozenset(
        {BankPayoutState.PAID, BankPayoutState.FAILED, BankPayoutState.CANCELED}
    ),
    BankPayoutState.PAID: frozenset({BankPayoutState.FAILED}),
}


class BankPayout(SQLModel, table=True):
    """A payout of a performer's connected account to their bank, as last seen at Stripe.

    No ledger entry follows from it: we owe nothing any more once the transfer is made, and what a
    bank sends back is in the performer's own Stripe balance.
    """

    __tablename__ = "bank_payout"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        Index("ix_bank_payout_performer_id", "performer_id", "id"),
        Index("ix_bank_payout_state", "state", "id"),
        updatable("state", "state_reason", "failure_code", "arrives_at", "seen_at"),
    )

    id: UUID = key()
    stripe_payout_id: str = Field(unique=True)
    performer_id: UUID = link("payout_account.performer_id")
    stripe_account_id: str
    currency: str
    amount_minor: int = minor_units()
    automatic: bool
    state: BankPayoutState = state_column(BankPayoutState)
    # Why the bank sent it back, in Stripe's words.
    state_reason: str | None = None
    failure_code: str | None = None
    arrives_at: datetime = stamp()
    made_at: datetime = stamp()
    # Of our clock, when Stripe was asked for what stands here.
    seen_at: datetime = stamp()
