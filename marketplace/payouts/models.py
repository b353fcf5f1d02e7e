from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, Index, SQLModel, text

from marketplace.shared.columns import (
    choice,
    is_one_of,
    json_object,
    key,
    link,
    minor_units,
    now_stamp,
    stamp,
    state_column,
    updatable,
)
from marketplace.shared.states import Moves


class RunState(StrEnum):
    DRAFT = "draft"  # waits for a second person
    APPROVED = "approved"  # frozen; its payouts are sent
    PAUSED = "paused"  # approved, but no new attempt is begun until somebody lets it go on
    DISCARDED = "discarded"  # given up; its lines are free for the next run


RUN_MOVES: Moves[RunState] = {
    None: frozenset({RunState.DRAFT}),
    RunState.DRAFT: frozenset({RunState.APPROVED, RunState.DISCARDED}),
    # An edit after approval voids it: what is not sent yet is approved anew.
    RunState.APPROVED: frozenset({RunState.PAUSED, RunState.DRAFT}),
    RunState.PAUSED: frozenset({RunState.APPROVED, RunState.DRAFT}),
}


class PayoutState(StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"  # may be sent
    # The account is restricted or changed since approval, or Stripe has a transfer that our books
    # do not: a person decides.
    HELD = "held"
    SENDING = "sending"  # an attempt is committed; Stripe may or may not have it
    UNKNOWN = "unknown"  # Stripe gave no answer that proves anything; only the same key may ask
    PAID = "paid"  # the transfer exists at Stripe
    PARTLY_REVERSED = "partly_reversed"  # some of it came back
    REVERSED = "reversed"  # all of it came back
    REFUSED = "refused"  # Stripe refused this attempt for good; nothing moved
    RELEASED = "released"  # given up; its lines are free for the next run


PAYOUT_MOVES: Moves[PayoutState] = {
    None: frozenset({PayoutState.DRAFT}),
    PayoutState.DRAFT: frozenset({PayoutState.APPROVED, PayoutState.RELEASED}),
    PayoutState.APPROVED: frozenset(
        {PayoutState.SENDING, PayoutState.HELD, PayoutState.RELEASED, PayoutState.DRAFT}
    ),
    PayoutState.HELD: frozenset({PayoutState.APPROVED, PayoutState.RELEASED}),
    PayoutState.SENDING: frozenset({PayoutState.PAID, PayoutState.REFUSED, PayoutState.UNKNOWN}),
    PayoutState.UNKNOWN: frozenset({PayoutState.PAID, PayoutState.REFUSED}),
    PayoutState.REFUSED: frozenset({PayoutState.APPROVED, PayoutState.HELD, PayoutState.RELEASED}),
    PayoutState.PAID: frozenset({PayoutState.PARTLY_REVERSED, PayoutState.REVERSED}),
    PayoutState.PARTLY_REVERSED: frozenset({PayoutState.REVERSED}),
}
# The transfer was made, whatever came back of it since.
PAID_STATES = frozenset({PayoutState.PAID, PayoutState.PARTLY_REVERSED, PayoutState.REVERSED})


class ReversalState(StrEnum):
    ASKED = "asked"  # waits for a second person
    REJECTED = "rejected"  # the second person said no
    APPROVED = "approved"  # may be sent
    SENDING = "sending"  # the intent is committed; Stripe may or may not have it
    UNKNOWN = "unknown"  # Stripe gave no answer that proves anything; only the same key may ask
    REVERSED = "reversed"  # the money came back
    REFUSED = "refused"  # Stripe refused it for good; nothing came back
    # Stripe has it, but nobody here asked for it: two people say what it is before it is booked.
    FOUND = "found"


REVERSAL_MOVES: Moves[ReversalState] = {
    None: frozenset({ReversalState.ASKED, ReversalState.FOUND}),
    ReversalState.ASKED: frozenset(
        {
            ReversalState.APPROVED,
            ReversalState.REJECTED,
            # What was found at Stripe: booked, or looked at again.
            ReversalState.REVERSED,
            ReversalState.FOUND,
        }
    ),
    ReversalState.APPROVED: frozenset({ReversalState.SENDING, ReversalState.REFUSED}),
    ReversalState.SENDING: frozenset(
        {ReversalState.REVERSED, ReversalState.REFUSED, ReversalState.UNKNOWN}
    ),
    ReversalState.UNKNOWN: frozenset({ReversalState.REVERSED, ReversalState.REFUSED}),
    ReversalState.FOUND: frozenset({ReversalState.ASKED}),
}


class ReversalCause(StrEnum):
    """Why money comes back; what a performer earned is never taken back for another reason."""

    WRONG_DESTINATION = "wrong_destination"  # it is owed again, and the next run pays it
    DUPLICATE = "duplicate"  # paid twice: the performer's debt is paid with it
    FRAUD = "fraud"


class PayoutRun(SQLModel, table=True):
    """What is owed in one currency at a moment, for finance to approve as a whole."""

    __tablename__ = "payout_run"
    __table_args__ = (
        # One run per scheduled slot, whatever number of schedulers tick.
        sa.UniqueConstraint("currency", "slot_at"),
        sa.CheckConstraint("approved_by <> prepared_by", name="second_person"),
        sa.CheckConstraint(
            "(state IN ('approved', 'paused')) = (approved_by IS NOT NULL)",
            name="approved_by_somebody",
        ),
        updatable("state", "state_reason", "approved_by", "approved_at", "edited_by"),
    )

    id: UUID = key()
    currency: str
    state: RunState = state_column(RunState)
    state_reason: str | None = None
    # The scheduled moment it belongs to; null when a person asked for it.
    slot_at: datetime | None = stamp(default=None)
    # Earnings booked until then are in it.
    cut_off_at: datetime = stamp()
    # Null when the scheduler prepared it.
    prepared_by: UUID | None = link("person.id", default=None)
    prepared_at: datetime = now_stamp()
    approved_by: UUID | None = link("person.id", default=None)
    approved_at: datetime | None = stamp(default=None)
    # Who released or held a payout of it since its last approval; none of them approves what is
    # left. The database keeps each until somebody else approves.
    edited_by: list[UUID] = Field(
        default_factory=list,
        sa_type=ARRAY(sa.Uuid),
        sa_column_kwargs={"server_default": text("'{}'")},
    )


class Payout(SQLModel, table=True):
    """What one performer is paid in one run."""

    __tablename__ = "payout"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "performer_id"),
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        Index("ix_payout_performer_id", "performer_id", "id"),
        Index("ix_payout_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable("state", "state_reason", "due_at", "transfer_id", "tries", "approved_again_by"),
    )

    id: UUID = key()
    run_id: UUID = link("payout_run.id")
    performer_id: UUID = link("performer.person_id")
    currency: str
    amount_minor: int = minor_units()
    # The connected account that finance approves; another one is held, never paid in silence.
    destination: str
    state: PayoutState = state_column(PayoutState)
    state_reason: str | None = None
    # When the sender looks at it next; null while it waits for a person.
    due_at: datetime | None = stamp(default=None)
    # Looks in a row without an answer, for the growing wait between them.
    tries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    # Stripe's transfer, once it is known to exist.
    transfer_id: str | None = Field(default=None, unique=True)
    # Who let it be tried again after it was held or refused, until it is held or refused anew.
    approved_again_by: UUID | None = link("person.id", default=None)


class PayoutLine(SQLModel, table=True):
    """One earning (an entry in the performer's payable) in one payout; negative is a debt that two
    people took off it.
    """

    __tablename__ = "payout_line"
    __table_args__ = (
        # No earning is in two payouts: only a released line frees it.
        Index(
            "uq_payout_line_entry",
            "ledger_entry_id",
            unique=True,
            postgresql_where=text("released_at IS NULL"),
        ),
        Index("ix_payout_line_payout_id", "payout_id"),
        # Which payouts of an earning were given up: nobody pays it again without a look at them.
        Index(
            "ix_payout_line_given_up",
            "ledger_entry_id",
            postgresql_where=text("released_at IS NOT NULL"),
        ),
        sa.CheckConstraint("amount_minor <> 0", name="not_zero"),
        updatable("released_at"),
    )

    id: UUID = key()
    payout_id: UUID = link("payout.id")
    ledger_entry_id: UUID = link("ledger_entry.id")
    amount_minor: int = minor_units()
    released_at: datetime | None = stamp(default=None)


class ExclusionReason(StrEnum):
    NO_ACCOUNT = "no_account"
    WRONG_DESTINATION = "wrong_destination"
    ACCOUNT_NOT_ACTIVE = "account_not_active"
    BELOW_MINIMUM = "below_minimum"


class PayoutExclusion(SQLModel, table=True):
    """Why a performer who is owed money is not in a run. The money goes on accumulating."""

    __tablename__ = "payout_exclusion"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "performer_id"),
        is_one_of("reason", ExclusionReason),
        updatable(),
    )

    id: UUID = key()
    run_id: UUID = link("payout_run.id")
    performer_id: UUID = link("performer.person_id", index=True)
    amount_minor: int = minor_units()
    reason: ExclusionReason = choice(ExclusionReason)
    # What the performer can do about it.
    remedy: str
    next_run_at: datetime = stamp()


class AttemptOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    REFUSED = "refused"


class PayoutAttempt(SQLModel, table=True):
    """One try at Stripe under one idempotency key, committed before anything is sent."""

    __tablename__ = "payout_attempt"
    __table_args__ = (
        sa.UniqueConstraint("payout_id", "number"),
        is_one_of("outcome", AttemptOutcome),
        sa.CheckConstraint("(outcome IS NULL) = (concluded_at IS NULL)", name="concluded"),
        # After an unknown outcome never a new key: one open attempt at a time.
        Index(
            "uq_payout_attempt_open",
            "payout_id",
            unique=True,
            postgresql_where=text("outcome IS NULL"),
        ),
        updatable(
            "outcome",
            "concluded_at",
            "transfer_id",
            "not_found_at",
            "error_code",
            "error_message",
            "stripe_request_id",
            "conclusion_transaction_id",
        ),
    )

    id: UUID = key()
    payout_id: UUID = link("payout.id")
    number: int
    idempotency_key: str = Field(unique=True)
    # Exactly what is sent, now and at every repeat.
    request: dict[str, Any] = json_object()
    committed_at: datetime = now_stamp()
    in_flight_transaction_id: UUID = link("ledger_transaction.id", unique=True)
    outcome: AttemptOutcome | None = choice(AttemptOutcome, default=None)
    concluded_at: datetime | None = stamp(default=None)
    transfer_id: str | None = Field(default=None, unique=True)
    # When Stripe was last looked through for a transfer of an expired key, in vain.
    not_found_at: datetime | None = stamp(default=None)
    error_code: str | None = None
    error_message: str | None = None
    stripe_request_id: str | None = None
    conclusion_transaction_id: UUID | None = link(
        "ledger_transaction.id", default=None, unique=True
    )


def _is_in_state(*states: ReversalState) -> str:
    return f"state IN ({', '.join(repr(state.value) for state in states)})"


UNDECIDED = _is_in_state(ReversalState.FOUND, ReversalState.ASKED)
AT_WORK = _is_in_state(
    ReversalState.ASKED, ReversalState.APPROVED, ReversalState.SENDING, ReversalState.UNKNOWN
)
OVER = _is_in_state(ReversalState.REVERSED, ReversalState.REFUSED, ReversalState.REJECTED)


class TransferReversal(SQLModel, table=True):
    """Money of a paid payout that comes back from its performer's account at Stripe."""

    __tablename__ = "transfer_reversal"
    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="positive"),
        is_one_of("cause", ReversalCause),
        sa.CheckConstraint("decided_by <> asked_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'found') = (cause IS NULL) AND (cause IS NULL) = (reason IS NULL)"
            " AND (cause IS NULL) = (asked_by IS NULL) AND (cause IS NULL) = (asked_at IS NULL)",
            name="asked_by_somebody",
        ),
        sa.CheckConstraint(
            f"({UNDECIDED}) = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="decided_by_somebody",
        ),
        sa.CheckConstraint(
            "(idempotency_key IS NULL) = (request IS NULL)"
            " AND (idempotency_key IS NULL) = (committed_at IS NULL)",
            name="committed",
        ),
        sa.CheckConstraint(
            "(state = 'reversed') = (ledger_transaction_id IS NOT NULL)"
            " AND (state NOT IN ('reversed', 'found') OR reversal_id IS NOT NULL)",
            name="booked_as_stripe_has_it",
        ),
        sa.CheckConstraint(f"({OVER}) = (concluded_at IS NOT NULL)", name="concluded"),
        # What is asked of Stripe for one payout is asked one after the other.
        Index(
            "uq_transfer_reversal_at_work",
            "payout_id",
            unique=True,
            postgresql_where=text(f"reversal_id IS NULL AND {AT_WORK}"),
        ),
        Index("ix_transfer_reversal_payout_id", "payout_id", "id"),
        Index("ix_transfer_reversal_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            *("cause", "reason", "asked_by", "asked_at", "state", "state_reason"),
            *("decided_by", "decided_at", "due_at", "tries"),
            *("idempotency_key", "request", "committed_at"),
            *("reversal_id", "balance_transaction_id", "reversed_at"),
            *("not_found_at", "error_code", "error_message", "stripe_request_id"),
            *("ledger_transaction_id", "concluded_at"),
        ),
    )

    id: UUID = key()
    payout_id: UUID = link("payout.id")
    # Stripe's transfer, of which it takes a part or all.
    transfer_id: str
    currency: str
    amount_minor: int = minor_units()
    cause: ReversalCause | None = choice(ReversalCause, default=None)
    reason: str | None = None
    state: ReversalState = state_column(ReversalState)
    state_reason: str | None = None
    asked_by: UUID | None = link("person.id", default=None)
    asked_at: datetime | None = stamp(default=None)
    decided_by: UUID | None = link("person.id", default=None)
    decided_at: datetime | None = stamp(default=None)
    # When the sender looks at it next; null while it waits for a person.
    due_at: datetime | None = stamp(default=None)
    tries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    # The intent: exactly what is sent, now and at every repeat. Null for one that was found.
    idempotency_key: str | None = Field(default=None, unique=True)
    request: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    committed_at: datetime | None = stamp(default=None)
    # As Stripe has it.
    reversal_id: str | None = Field(default=None, unique=True)
    balance_transaction_id: str | None = Field(default=None, unique=True)
    reversed_at: datetime | None = stamp(default=None)
    # When Stripe was last looked through for one whose key had expired, in vain.
    not_found_at: datetime | None = stamp(default=None)
    error_code: str | None = None
    error_message: str | None = None
    stripe_request_id: str | None = None
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
    concluded_at: datetime | None = stamp(default=None)
    created_at: datetime = now_stamp()
