from datetime import datetime, timedelta
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

# Of a dispute that ended at Stripe.
LINES_TOLD_WITHIN = timedelta(hours=24)


class DisputeState(StrEnum):
    INQUIRY = "inquiry"  # the bank asks; nothing moves
    OPEN = "open"  # new claims and refunds pause; Stripe has taken the money, or is about to
    WON = "won"  # Stripe gave the money back; so did we
    LOST = "lost"  # the money is gone: out of what was set aside, then of open roles, else owed
    # It ended without anything having moved, or two people charged the client for it.
    CLOSED = "closed"


DISPUTE_MOVES: Moves[DisputeState] = {
    None: frozenset({DisputeState.INQUIRY, DisputeState.OPEN}),
    DisputeState.INQUIRY: frozenset({DisputeState.OPEN, DisputeState.CLOSED}),
    DisputeState.OPEN: frozenset({DisputeState.WON, DisputeState.LOST, DisputeState.CLOSED}),
}


class DisputeOutcome(StrEnum):
    """How a dispute has ended, in Stripe's words."""

    WON = "won"
    LOST = "lost"
    PREVENTED = "prevented"


class Dispute(SQLModel, table=True):
    """A payment that the payer's bank takes back, as Stripe tells it, and what we booked of it."""

    __tablename__ = "dispute"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.ForeignKeyConstraint(
            ["deposit_id", "client_id", "currency"],
            ["deposit.id", "deposit.client_id", "deposit.currency"],
            name="fk_dispute_deposit",
        ),
        # What was booked at its opening: all of it or none.
        sa.CheckConstraint(
            "num_nonnulls(opened_transaction_id, withdrawn_minor, fee_minor, held_minor) IN (0, 4)",
            name="opened_whole",
        ),
        sa.CheckConstraint(
            "withdrawn_minor > 0 AND held_minor BETWEEN 0 AND withdrawn_minor", name="held_of_it"
        ),
        sa.CheckConstraint(
            "(state IN ('won', 'lost')) = (ended_transaction_id IS NOT NULL)", name="ended_booked"
        ),
        sa.CheckConstraint(
            "ended_transaction_id IS NULL OR opened_transaction_id IS NOT NULL",
            name="opened_before",
        ),
        sa.CheckConstraint(
            "(state = 'lost') = (from_reserves_minor IS NOT NULL)", name="lost_out_of"
        ),
        sa.CheckConstraint(
            "from_reserves_minor BETWEEN 0 AND withdrawn_minor - held_minor",
            name="reserves_of_it",
        ),
        sa.CheckConstraint(
            "(state = 'won') = (fee_returned_minor IS NOT NULL)", name="won_with_fee"
        ),
        is_one_of("outcome", DisputeOutcome),
        sa.CheckConstraint("(outcome IS NULL) = (outcome_at IS NULL)", name="outcome_told"),
        Index("ix_dispute_client_id", "client_id", "id"),
        Index("ix_dispute_deposit_id", "deposit_id"),
        Index("ix_dispute_open", "client_id", postgresql_where=text("state = 'open'")),
        Index("ix_dispute_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            "state",
            "state_reason",
            "due_at",
            "answer_by",
            "opened_transaction_id",
            "withdrawn_minor",
            "fee_minor",
            "held_minor",
            "ended_transaction_id",
            "fee_returned_minor",
            "from_reserves_minor",
            "outcome",
            "outcome_at",
            "unbookable_line_id",
            "unbookable_return_line_id",
        ),
    )

    id: UUID = key()
    stripe_dispute_id: str = Field(unique=True)
    client_id: UUID = link("client.id")
    deposit_id: UUID
    currency: str
    amount_minor: int = minor_units()
    # The bank's, in Stripe's words.
    reason: str
    opened_at: datetime = stamp()
    # By when evidence must be handed in at Stripe.
    answer_by: datetime | None = stamp(default=None)
    state: DisputeState = state_column(DisputeState)
    state_reason: str | None = None
    # When it is looked at next; null once it has ended.
    due_at: datetime | None = stamp(default=None)
    noted_at: datetime = now_stamp()
    opened_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    # What Stripe took, its fee for it, and how much of it the wallet had.
    withdrawn_minor: int | None = minor_units(default=None)
    fee_minor: int | None = minor_units(default=None)
    held_minor: int | None = minor_units(default=None)
    ended_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    # Of a won one: how much of its fee came back.
    fee_returned_minor: int | None = minor_units(default=None)
    # Of a lost one: how much open roles gave up. The rest is owed by the client.
    from_reserves_minor: int | None = minor_units(default=None)
    # That it ended at Stripe, and since when that is known here.
    outcome: DisputeOutcome | None = choice(DisputeOutcome, default=None)
    outcome_at: datetime | None = stamp(default=None)
    # Stripe's lines of it that our books cannot follow: people say what they are.
    unbookable_line_id: str | None = None
    unbookable_return_line_id: str | None = None

    def is_followed(self, now: datetime) -> bool:
        """Whether our books will end it by themselves, or have: by then all lines are told."""
        if self.state is not DisputeState.OPEN:
            return True
        if self.unbookable_line_id or self.unbookable_return_line_id:
            return False
        return self.outcome_at is None or now < self.outcome_at + LINES_TOLD_WITHIN


class DebtRemedy(StrEnum):
    SETTLE = "settle"  # out of the client's wallet
    WRITE_OFF = "write_off"  # the platform bears it


class DebtState(StrEnum):
    PROPOSED = "proposed"  # waits for a second person
    CONFIRMED = "confirmed"  # booked
    REJECTED = "rejected"


DEBT_MOVES: Moves[DebtState] = {
    None: frozenset({DebtState.PROPOSED}),
    DebtState.PROPOSED: frozenset({DebtState.CONFIRMED, DebtState.REJECTED}),
}


class ClientDebtDecision(SQLModel, table=True):
    """What becomes of money that a client owes us after a lost dispute; two people decide."""

    __tablename__ = "client_debt_decision"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.CheckConstraint("decided_by <> proposed_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_by IS NULL)", name="decided_by_somebody"
        ),
        sa.CheckConstraint(
            "(state = 'confirmed') = (ledger_transaction_id IS NOT NULL)", name="confirmed_booked"
        ),
        is_one_of("remedy", DebtRemedy),
        Index("ix_client_debt_decision_client_id", "client_id", "id"),
        updatable("state", "state_reason", "decided_by", "decided_at", "ledger_transaction_id"),
    )

    id: UUID = key()
    client_id: UUID = link("client.id")
    currency: str
    amount_minor: int = minor_units()
    remedy: DebtRemedy = choice(DebtRemedy)
    reason: str
    state: DebtState = state_column(DebtState)
    state_reason: str | None = None
    proposed_by: UUID = link("person.id")
    proposed_at: datetime = now_stamp()
    decided_by: UUID | None = link("person.id", default=None)
    decided_at: datetime | None = stamp(default=None)
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
