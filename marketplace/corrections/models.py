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


class CorrectionState(StrEnum):
    PROPOSED = "proposed"  # one person's word; needs a second one
    APPROVED = "approved"  # and booked, in the same transaction
    REJECTED = "rejected"


CORRECTION_MOVES: Moves[CorrectionState] = {
    None: frozenset({CorrectionState.PROPOSED}),
    CorrectionState.PROPOSED: frozenset({CorrectionState.APPROVED, CorrectionState.REJECTED}),
}


class CorrectionKind(StrEnum):
    PAY_CORRECTED = "pay_corrected"  # a claim's pay has a new total; the difference is booked
    PAY_ADJUSTED = "pay_adjusted"  # the platform pays a performer something more
    RECEIVABLE_NETTED = "receivable_netted"  # a debt is taken off what is owed
    RECEIVABLE_WRITTEN_OFF = "receivable_written_off"  # a debt is given up


class Correction(SQLModel, table=True):
    """One correction by two people. Nothing booked is changed: the difference is booked anew."""

    __tablename__ = "correction"
    __table_args__ = (
        is_one_of("kind", CorrectionKind),
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        sa.CheckConstraint("decided_by <> proposed_by", name="second_person"),
        sa.CheckConstraint(
            "performer_id <> proposed_by AND performer_id <> decided_by", name="not_their_own"
        ),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_by IS NULL)"
            " AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="decided_by_somebody",
        ),
        sa.CheckConstraint(
            "(state = 'approved') = (ledger_transaction_id IS NOT NULL)"
            " AND (ledger_transaction_id IS NULL) = (client_minor IS NULL)"
            " AND (client_minor IS NULL) = (platform_minor IS NULL)"
            " AND (client_minor IS NULL) = (fee_minor IS NULL)",
            name="booked_when_approved",
        ),
        sa.CheckConstraint(
            "(kind = 'pay_corrected') = (claim_id IS NOT NULL)"
            " AND (claim_id IS NULL) = (seconds IS NULL)"
            " AND (claim_id IS NULL) = (pay_minor IS NULL)"
            " AND (claim_id IS NULL) = (booked_minor IS NULL)"
            " AND (claim_id IS NULL OR amount_minor = abs(pay_minor - booked_minor))",
            name="of_a_claim",
        ),
        # The difference is paid by the client, by the platform, or goes back where it came from.
        sa.CheckConstraint(
            "CASE kind WHEN 'pay_corrected' THEN client_minor + platform_minor"
            "  = pay_minor - booked_minor AND sign(client_minor) * sign(platform_minor) >= 0"
            " WHEN 'pay_adjusted' THEN (client_minor, platform_minor, fee_minor)"
            "  = (0, amount_minor, 0)"
            " ELSE (client_minor, platform_minor, fee_minor) = (0, 0, 0) END",
            name="borne",
        ),
        sa.CheckConstraint(
            "reservation_id IS NULL OR client_minor <> 0", name="reserve_of_the_client"
        ),
        sa.CheckConstraint("client_minor <= 0 OR reservation_id IS NOT NULL", name="reserved"),
        Index(
            "uq_correction_proposed",
            "claim_id",
            unique=True,
            postgresql_where=text("state = 'proposed'"),
        ),
        Index("ix_correction_performer_id", "performer_id", "id"),
        updatable(
            *("state", "state_reason", "decided_by", "decided_at", "ledger_transaction_id"),
            *("client_minor", "platform_minor", "fee_minor", "reservation_id"),
        ),
    )

    id: UUID = key()
    kind: CorrectionKind = choice(CorrectionKind)
    performer_id: UUID = link("performer.person_id")
    currency: str
    # What moves between the performer and us: more pay, less pay, a debt.
    amount_minor: int = minor_units()
    reason: str
    # Of a claim: its new total of seconds, what that pays at the locked rate, and what was booked
    # for it until now.
    claim_id: UUID | None = link("claim.id", default=None, index=True)
    seconds: int | None = Field(default=None, sa_type=sa.BigInteger)
    pay_minor: int | None = minor_units(default=None)
    booked_minor: int | None = minor_units(default=None)
    state: CorrectionState = state_column(CorrectionState)
    state_reason: str | None = None
    proposed_by: UUID = link("person.id")
    proposed_at: datetime = now_stamp()
    decided_by: UUID | None = link("person.id", default=None)
    decided_at: datetime | None = stamp(default=None)
    # As booked: who bears the difference in pay (negative is given back), and the fee on it.
    client_minor: int | None = minor_units(default=None)
    platform_minor: int | None = minor_units(default=None)
    fee_minor: int | None = minor_units(default=None)
    # The reserve that pays the client's part, or gets it back; null is the client's wallet.
    reservation_id: UUID | None = link("reservation.id", default=None)
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
