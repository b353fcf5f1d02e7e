from datetime import datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Index, SQLModel, text

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


class ChargeState(StrEnum):
    PROPOSED = "proposed"  # waits for a second person
    APPROVED = "approved"  # booked
    REJECTED = "rejected"


CHARGE_MOVES: Moves[ChargeState] = {
    None: frozenset({ChargeState.PROPOSED}),
    ChargeState.PROPOSED: frozenset({ChargeState.APPROVED, ChargeState.REJECTED}),
}


class ClientCharge(SQLModel, table=True):
    """What a client is charged because of a deposit (and a dispute) that our books cannot follow.

    Stripe's own lines of it are booked as the platform's capital, which has the charge instead.
    """

    __tablename__ = "client_charge"
    __table_args__ = (
        # Nothing is charged where the platform bears a dispute, or nothing was lost.
        sa.CheckConstraint(
            "amount_minor > 0 OR amount_minor = 0 AND dispute_id IS NOT NULL", name="of_something"
        ),
        sa.ForeignKeyConstraint(
            ["deposit_id", "client_id", "currency"],
            ["deposit.id", "deposit.client_id", "deposit.currency"],
            name="fk_client_charge_deposit",
        ),
        sa.CheckConstraint("decided_by <> proposed_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_by IS NULL)"
            " AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="decided_by_somebody",
        ),
        sa.CheckConstraint(
            "(state = 'approved') = (from_wallet_minor IS NOT NULL)"
            " AND from_wallet_minor BETWEEN 0 AND amount_minor",
            name="out_of",
        ),
        sa.CheckConstraint(
            "CASE WHEN state = 'approved'"
            " THEN amount_minor = 0 OR ledger_transaction_id IS NOT NULL"
            " ELSE ledger_transaction_id IS NULL END",
            name="booked",
        ),
        Index("ix_client_charge_client_id", "client_id", "id"),
        Index("ix_client_charge_deposit_id", "deposit_id"),
        # A dispute ends once.
        Index(
            "uq_client_charge_dispute",
            "dispute_id",
            unique=True,
            postgresql_where=text("state <> 'rejected'"),
        ),
        updatable(
            "state",
            "state_reason",
            "decided_by",
            "decided_at",
            "from_wallet_minor",
            "ledger_transaction_id",
        ),
    )

    id: UUID = key()
    client_id: UUID = link("client.id")
    deposit_id: UUID
    dispute_id: UUID | None = link("dispute.id", default=None)
    currency: str
    amount_minor: int = minor_units()
    reason: str
    state: ChargeState = state_column(ChargeState)
    state_reason: str | None = None
    proposed_by: UUID = link("person.id")
    proposed_at: datetime = now_stamp()
    decided_by: UUID | None = link("person.id", default=None)
    decided_at: datetime | None = stamp(default=None)
    # How much of it the wallet had; the rest the client owes.
    from_wallet_minor: int | None = minor_units(default=None)
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
