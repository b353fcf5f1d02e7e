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
    texts,
    updatable,
)
from marketplace.shared.states import Moves


class PerformerState(StrEnum):
    APPLIED = "applied"  # wants to work here
    AUDITIONING = "auditioning"  # has a paid audition to do, or to be judged
    VETTED = "vetted"  # sees the board and may claim
    SUSPENDED = "suspended"  # may not claim; live claims finish
    DECLINED = "declined"


PERFORMER_MOVES: Moves[PerformerState] = {
    None: frozenset({PerformerState.APPLIED}),
    PerformerState.APPLIED: frozenset({PerformerState.AUDITIONING, PerformerState.DECLINED}),
    PerformerState.AUDITIONING: frozenset({PerformerState.VETTED, PerformerState.DECLINED}),
    PerformerState.VETTED: frozenset({PerformerState.SUSPENDED}),
    PerformerState.SUSPENDED: frozenset({PerformerState.VETTED}),
}


class AgeBand(StrEnum):
    """Self-described and optional."""

    A18_24 = "18-24"
    A25_34 = "25-34"
    A35_44 = "35-44"
    A45_54 = "45-54"
    A55_64 = "55-64"
    A65_UP = "65+"


class Performer(SQLModel, table=True):
    __tablename__ = "performer"
    __table_args__ = (
        is_one_of("age_band", AgeBand),
        sa.CheckConstraint("live_claims >= 0", name="live_claims_not_negative"),
        sa.CheckConstraint("claims_limit > 0", name="claims_limit_positive"),
        updatable(
            "state",
            "state_reason",
            "languages",
            "accents",
            "skills",
            "age_band",
            "time_zone",
            "work_country",
            "claims_limit",
            "version",
        ),
    )

    person_id: UUID = link("person.id", primary_key=True)
    state: PerformerState = state_column(PerformerState)
    state_reason: str | None = None
    languages: list[str] = texts()
    accents: list[str] = texts()
    skills: list[str] = texts()
    age_band: AgeBand | None = choice(AgeBand, default=None)
    time_zone: str
    # ISO 3166-1 alpha-2: where the work is done, which decides the tax form.
    work_country: str
    claims_limit: int = 3
    # Claims that are active, in session or in a retake. Kept by the database's trigger alone.
    live_claims: int = 0
    version: int = 1
    applied_at: datetime = now_stamp()

    @property
    def id(self) -> UUID:
        return self.person_id


class TransfersCapability(StrEnum):
    """Stripe's word for whether the account can be paid."""

    UNREQUESTED = "unrequested"
    PENDING = "pending"
    INACTIVE = "inactive"
    ACTIVE = "active"


class PayoutAccount(SQLModel, table=True):
    """A performer's connected account at Stripe, as last seen there. Only `active` is paid."""

    __tablename__ = "payout_account"
    __table_args__ = (
        is_one_of("transfers", TransfersCapability),
        Index("ix_payout_account_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index(
            "ix_payout_account_bank_due_at",
            "bank_due_at",
            postgresql_where=text("stripe_account_id IS NOT NULL"),
        ),
        updatable(
            "key_number",
            "asked_email",
            "asked_country",
            "stripe_account_id",
            "transfers",
            "requirement",
            "seen_at",
            "due_at",
            "bank_due_at",
        ),
    )

    performer_id: UUID = link("performer.person_id", primary_key=True)
    # Stripe is asked under one key for one and the same; a refusal is final for its key.
    key_number: int = 1
    # What it is asked while its answer is not known, whatever the profile says by now.
    asked_email: str | None = None
    asked_country: str | None = None
    stripe_account_id: str | None = Field(default=None, unique=True)
    # When another account took the place of an earlier one; the database sets it.
    destination_changed_at: datetime | None = stamp(default=None)
    transfers: TransfersCapability = choice(TransfersCapability)
    # What Stripe still wants, in its words.
    requirement: str | None = None
    seen_at: datetime | None = stamp(default=None)
    # When the poller looks next.
    due_at: datetime | None = stamp(default=None)
    # When it looks next for payouts of the account to its bank.
    bank_due_at: datetime = now_stamp()
    created_at: datetime = now_stamp()


class AuditionState(StrEnum):
    OFFERED = "offered"  # waits for the performer to start
    STARTED = "started"  # its time counts
    SUBMITTED = "submitted"  # waits for a reviewer
    PASSED = "passed"
    FAILED = "failed"


AUDITION_MOVES: Moves[AuditionState] = {
    None: frozenset({AuditionState.OFFERED}),
    AuditionState.OFFERED: frozenset({AuditionState.STARTED, AuditionState.FAILED}),
    AuditionState.STARTED: frozenset({AuditionState.SUBMITTED, AuditionState.FAILED}),
    AuditionState.SUBMITTED: frozenset({AuditionState.PASSED, AuditionState.FAILED}),
}


class Audition(SQLModel, table=True):
    """A try-out paid by the hour from the platform's own money, whatever its outcome."""

    __tablename__ = "audition"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["rate_id", "lineage_id", "currency", "rate_minor_per_hour"],
            ["rate.id", "rate.lineage_id", "rate.currency", "rate.rate_minor_per_hour"],
            name="fk_audition_rate",
        ),
        sa.CheckConstraint("seconds_cap BETWEEN 60 AND 7200", name="cap_sensible"),
        sa.CheckConstraint("ended_at >= started_at", name="ends_after_start"),
        sa.CheckConstraint(
            "pay_minor = (2 * paid_seconds * rate_minor_per_hour + 3600) / 7200", name="pay_exact"
        ),
        sa.CheckConstraint(
            "worked_seconds BETWEEN 0 AND coalesce("
            "extract(epoch FROM coalesce(ended_at, seen_at) - started_at), 0)",
            name="worked_no_longer_than_it_took",
        ),
        sa.CheckConstraint("paid_seconds = least(worked_seconds, seconds_cap)", name="paid_exact"),
        Index(
            "uq_audition_live",
            "performer_id",
            unique=True,
            postgresql_where=text("state IN ('offered', 'started', 'submitted')"),
        ),
        Index("ix_audition_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable(
            "state",
            "state_reason",
            "due_at",
            "started_at",
            "seen_at",
            "ended_at",
            "worked_seconds",
            "recording_id",
            "decided_by",
            "paid_seconds",
            "pay_minor",
            "ledger_transaction_id",
        ),
    )

    id: UUID = key()
    performer_id: UUID = link("performer.person_id", index=True)
    state: AuditionState = state_column(AuditionState)
    state_reason: str | None = None
    brief: str
    rate_id: UUID
    lineage_id: UUID
    currency: str
    rate_minor_per_hour: int = minor_units()
    seconds_cap: int
    offered_at: datetime = now_stamp()
    # The last moment to hand it in; then, when the next alarm says that nobody has judged it.
    due_at: datetime | None = stamp(default=None)
    # Whole seconds; `seen_at` is the last sign of life.
    started_at: datetime | None = stamp(default=None)
    seen_at: datetime | None = stamp(default=None)
    ended_at: datetime | None = stamp(default=None)
    # What the signs of life prove; paid up to the cap.
    worked_seconds: int = Field(default=0, sa_column_kwargs={"server_default": sa.text("0")})
    recording_id: UUID | None = link("recording.id", default=None)
    decided_by: UUID | None = link("person.id", default=None)
    paid_seconds: int | None = None
    pay_minor: int | None = minor_units(default=None)
    ledger_transaction_id: UUID | None = link("ledger_transaction.id", default=None, unique=True)
