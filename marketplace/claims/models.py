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


class ClaimState(StrEnum):
    ACTIVE = "active"  # guaranteed until its deadline
    IN_SESSION = "in_session"  # time has been started; the deadline covers the caps
    SUBMITTED = "submitted"  # handed in; still holds its role
    RETAKE = "retake"  # sent back for a paid retake
    SETTLED = "settled"  # accepted or refused, and done with
    RELEASED = "released"  # given back by the performer
    EXPIRED = "expired"  # its deadline passed


CLAIM_MOVES: Moves[ClaimState] = {
    None: frozenset({ClaimState.ACTIVE}),
    ClaimState.ACTIVE: frozenset({ClaimState.IN_SESSION, ClaimState.RELEASED, ClaimState.EXPIRED}),
    ClaimState.IN_SESSION: frozenset(
        {ClaimState.SUBMITTED, ClaimState.RELEASED, ClaimState.EXPIRED}
    ),
    ClaimState.SUBMITTED: frozenset({ClaimState.RETAKE, ClaimState.SETTLED}),
    ClaimState.RETAKE: frozenset({ClaimState.SUBMITTED, ClaimState.RELEASED, ClaimState.EXPIRED}),
}

# The performer may work in these, and they count against the performer's limit.
WORKING = frozenset({ClaimState.ACTIVE, ClaimState.IN_SESSION, ClaimState.RETAKE})


class Claim(SQLModel, table=True):
    __tablename__ = "claim"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["role_id", "task_id", "job_id", "client_id"],
            ["role.id", "role.task_id", "role.job_id", "role.client_id"],
            name="fk_claim_role",
        ),
        sa.ForeignKeyConstraint(
            ["job_id", "client_id", "lineage_id"],
            ["job.id", "job.client_id", "job.lineage_id"],
            name="fk_claim_lineage",
        ),
        sa.ForeignKeyConstraint(
            ["reservation_id", "client_id", "currency"],
            ["reservation.id", "reservation.client_id", "reservation.currency"],
            name="fk_claim_reservation",
        ),
        # The price of this claim is that of one rate row, and of nothing else: these columns are
        # copied from it, tied to it, and the application's login may not change them.
        sa.ForeignKeyConstraint(
            ["rate_id", "lineage_id", "currency", "rate_minor_per_hour"],
            ["rate.id", "rate.lineage_id", "rate.currency", "rate.rate_minor_per_hour"],
            name="fk_claim_rate",
        ),
        sa.UniqueConstraint(
            "id",
            "performer_id",
            "rate_id",
            "rate_minor_per_hour",
            "fee_basis_points",
            "currency",
            name="uq_claim_price",
        ),
        sa.UniqueConstraint("id", "performer_id"),
        # One chance per person and task; it also keeps one person from both roles of a scene.
        sa.UniqueConstraint("performer_id", "task_id"),
        Index(
            "uq_claim_live_role",
            "role_id",
            unique=True,
            postgresql_where=text("state IN ('active', 'in_session', 'submitted', 'retake')"),
        ),
        Index("ix_claim_performer", "performer_id", "id"),
        Index("ix_claim_performer_job", "performer_id", "job_id"),
        Index("ix_claim_job_id", "job_id", "id"),
        Index(
            "ix_claim_deadline",
            "deadline",
            postgresql_where=text("state IN ('active', 'in_session', 'retake')"),
        ),
        Index("ix_claim_pay_due_at", "pay_due_at", postgresql_where=text("pay_due_at IS NOT NULL")),
        sa.CheckConstraint("retakes_granted BETWEEN 0 AND 2", name="retakes_allowed"),
        updatable(
            "state",
            "state_reason",
            "deadline",
            "pay_by",
            "retakes_granted",
            "reservation_id",
            "pay_due_at",
        ),
    )

    id: UUID = key()
    role_id: UUID
    task_id: UUID
    job_id: UUID
    client_id: UUID
    performer_id: UUID = link("performer.person_id")
    state: ClaimState = state_column(ClaimState)
    state_reason: str | None = None
    rate_id: UUID
    lineage_id: UUID
    currency: str
    rate_minor_per_hour: int = minor_units()
    fee_basis_points: int
    consent_grant_id: UUID = link("consent_grant.id", unique=True)
    # Whole seconds.
    claimed_at: datetime = stamp()
    deadline: datetime = stamp()
    # Promised when it was claimed; moves only when a retake is granted.
    pay_by: datetime = stamp()
    retakes_granted: int = 0
    # Set when the claim ended before its pay was decided: its money waits in a reserve of its own.
    reservation_id: UUID | None = None
    # When an undecided pay is decided in the performer's favour.
    pay_due_at: datetime | None = stamp(default=None)


class Activity(StrEnum):
    """All of them are paid."""

    BRIEF = "brief"
    PREP = "prep"
    WAIT = "wait"
    PERFORM = "perform"
    RETAKE = "retake"


PREPARING = frozenset({Activity.BRIEF, Activity.PREP, Activity.WAIT})


class EndedBy(StrEnum):
    """Why a time entry ended."""

    PERFORMER = "performer"
    SWITCHED = "switched"  # another activity began
    CAP = "cap"
    SILENCE = "silence"  # no heartbeat within the grace
    DEADLINE = "deadline"
    SUBMISSION = "submission"
    RELEASE = "release"


class TimeEntry(SQLModel, table=True):
    """A server-stamped interval of paid activity, in whole seconds, half-open."""

    __tablename__ = "time_entry"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["claim_id", "performer_id"],
            ["claim.id", "claim.performer_id"],
            name="fk_time_entry_claim",
        ),
        is_one_of("activity", Activity),
        is_one_of("ended_by", EndedBy),
        sa.CheckConstraint(
            "(activity = 'retake') = (retake_number IS NOT NULL) AND retake_number > 0",
            name="retake_numbered",
        ),
        sa.CheckConstraint(
            "started_at <= ends_by AND ended_at BETWEEN started_at AND ends_by",
            name="within_limits",
        ),
        sa.CheckConstraint("(ended_at IS NULL) = (ended_by IS NULL)", name="end_has_cause"),
        Index("ix_time_entry_claim_id", "claim_id", "started_at"),
        # Nobody works twice at once: no overlap per performer, without an extension.
        sa.dialects.postgresql.ExcludeConstraint(
            (sa.text("uuidrange(performer_id, performer_id, '[]')"), "&&"),
            (sa.text("tstzrange(started_at, ended_at)"), "&&"),
            name="ex_time_entry_overlap",
        ),
        Index("ix_time_entry_open", "heartbeat_at", postgresql_where=text("ended_at IS NULL")),
        updatable("heartbeat_at", "ended_at", "ended_by"),
    )

    id: UUID = key()
    claim_id: UUID
    performer_id: UUID
    activity: Activity = choice(Activity)
    # Which of the claim's retakes, for each has the cap for itself. The database sets it.
    retake_number: int | None = None
    started_at: datetime = stamp()
    heartbeat_at: datetime = stamp()
    # Where the activity's cap or the claim's deadline ends it at the latest.
    ends_by: datetime = stamp()
    ended_at: datetime | None = stamp(default=None)
    ended_by: EndedBy | None = choice(EndedBy, default=None)


class ClaimRecording(SQLModel, table=True):
    """Which takes were made in a claim, and under which consent."""

    __tablename__ = "claim_recording"
    __table_args__ = updatable()

    recording_id: UUID = link("recording.id", primary_key=True)
    claim_id: UUID = link("claim.id", index=True)
    consent_grant_id: UUID = link("consent_grant.id")
    created_at: datetime = now_stamp()


class PayOutcome(StrEnum):
    PAY = "pay"
    WITHHOLD = "withhold"


class PayDecision(SQLModel, table=True):
    """What a claim's time is paid, at its locked rate. The database checks the arithmetic.

    A correction is a later decision with the new total; the difference is what it posts.
    """

    __tablename__ = "pay_decision"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            [
                "claim_id",
                "performer_id",
                "rate_id",
                "rate_minor_per_hour",
                "fee_basis_points",
                "currency",
            ],
            [
                "claim.id",
                "claim.performer_id",
                "claim.rate_id",
                "claim.rate_minor_per_hour",
                "claim.fee_basis_points",
                "claim.currency",
            ],
            name="fk_pay_decision_price",
        ),
        sa.UniqueConstraint("claim_id", "number"),
        is_one_of("outcome", PayOutcome),
        sa.CheckConstraint("seconds >= 0", name="seconds_not_negative"),
        sa.CheckConstraint(
            "pay_minor = CASE outcome WHEN 'pay'"
            " THEN (2 * seconds * rate_minor_per_hour + 3600) / 7200 ELSE 0 END",
            name="pay_exact",
        ),
        sa.CheckConstraint(
            "fee_minor = (2 * pay_minor * fee_basis_points + 10000) / 20000", name="fee_exact"
        ),
        sa.CheckConstraint(
            "outcome = 'pay' OR (reason IS NOT NULL AND decided_by IS NOT NULL"
            " AND confirmed_by IS NOT NULL AND decided_by <> confirmed_by)",
            name="withheld_by_two",
        ),
        updatable(),
    )

    id: UUID = key()
    claim_id: UUID
    performer_id: UUID
    # 1, then 2, 3 … for corrections.
    number: int = 1
    outcome: PayOutcome = choice(PayOutcome)
    seconds: int = Field(sa_type=sa.BigInteger)
    rate_id: UUID
    rate_minor_per_hour: int = minor_units()
    fee_basis_points: int = minor_units()
    currency: str
    pay_minor: int = minor_units()
    fee_minor: int = minor_units()
    # Null when the time for a decision passed.
    decided_by: UUID | None = link("person.id", default=None)
    confirmed_by: UUID | None = link("person.id", default=None)
    reason: str | None = None
    decided_at: datetime = now_stamp()
    # Null when nothing is booked: nothing to pay.
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)


class WithholdingState(StrEnum):
    PROPOSED = "proposed"  # one person's word; needs a second one
    CONFIRMED = "confirmed"
    REJECTED = "rejected"  # by the second person, or by the clock: the time is paid


WITHHOLDING_MOVES: Moves[WithholdingState] = {
    None: frozenset({WithholdingState.PROPOSED}),
    WithholdingState.PROPOSED: frozenset({WithholdingState.CONFIRMED, WithholdingState.REJECTED}),
}


class WithholdingGround(StrEnum):
    """The only grounds on which time is not paid."""

    FRAUD = "fraud"
    NO_WORK = "no_work"
    ANOTHER_PERSONS_WORK = "another_persons_work"


class Withholding(SQLModel, table=True):
    """A proposal not to pay a claim's time. Two people, a ground and a written reason, or it is paid."""

    __tablename__ = "withholding"
    __table_args__ = (
        is_one_of("ground", WithholdingGround),
        sa.CheckConstraint("decided_by <> proposed_by", name="second_person"),
        Index(
            "uq_withholding_proposed",
            "claim_id",
            unique=True,
            postgresql_where=text("state = 'proposed'"),
        ),
        updatable("state", "state_reason", "decided_by"),
    )

    id: UUID = key()
    claim_id: UUID = link("claim.id")
    state: WithholdingState = state_column(WithholdingState)
    state_reason: str | None = None
    ground: WithholdingGround = choice(WithholdingGround)
    reason: str
    proposed_by: UUID = link("person.id")
    decided_by: UUID | None = link("person.id", default=None)
    created_at: datetime = now_stamp()
