from datetime import datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Index, SQLModel, text

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


class BookedAs(StrEnum):
    STRIPE_FEE = "stripe_fee"  # a cost of using Stripe, or a part of one given back
    CAPITAL = "capital"  # the platform's own money, in or out
    # A client's payment that was settled otherwise than asked, as in another currency: the platform
    # keeps it and credits what was paid.
    FOREIGN_DEPOSIT = "foreign_deposit"
    # Such a payment that was given back at Stripe: nothing is credited.
    GIVEN_BACK = "given_back"


class LineBookingState(StrEnum):
    PROPOSED = "proposed"  # waits for a second person
    BOOKED = "booked"
    DISCARDED = "discarded"  # something else was found; the line waits on


LINE_BOOKING_MOVES: Moves[LineBookingState] = {
    None: frozenset({LineBookingState.PROPOSED}),
    LineBookingState.PROPOSED: frozenset({LineBookingState.BOOKED, LineBookingState.DISCARDED}),
}


class LineBooking(SQLModel, table=True):
    """What finance says a line of Stripe's is. It is booked once a second person says so, too."""

    __tablename__ = "line_booking"
    __table_args__ = (
        sa.CheckConstraint("net_minor <> 0", name="moves_something"),
        is_one_of("booked_as", BookedAs),
        sa.CheckConstraint(
            "(booked_as IN ('foreign_deposit', 'given_back')) = (deposit_id IS NOT NULL)",
            name="of_a_deposit",
        ),
        sa.CheckConstraint("state <> 'booked' OR decided_by <> proposed_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_by IS NULL)"
            " AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="decided_by_somebody",
        ),
        sa.CheckConstraint(
            "(state = 'booked') = (ledger_transaction_id IS NOT NULL)", name="booked_as_said"
        ),
        # One word about a line at a time.
        Index(
            "uq_line_booking_line",
            "line_id",
            unique=True,
            postgresql_where=text("state <> 'discarded'"),
        ),
        updatable("state", "state_reason", "decided_by", "decided_at", "ledger_transaction_id"),
    )

    id: UUID = key()
    line_id: str = link("stripe_line.id")
    booked_as: BookedAs = choice(BookedAs)
    # As the line has them.
    currency: str
    net_minor: int = minor_units()
    reason: str
    proposed_by: UUID = link("person.id")
    proposed_at: datetime = now_stamp()
    state: LineBookingState = state_column(LineBookingState)
    state_reason: str | None = None
    decided_by: UUID | None = link("person.id", default=None)
    decided_at: datetime | None = stamp(default=None)
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    deposit_id: UUID | None = link("deposit.id", default=None)
