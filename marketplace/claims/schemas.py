from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, Strict

from marketplace.claims.models import (
    Activity,
    ClaimState,
    EndedBy,
    PayOutcome,
    WithholdingGround,
    WithholdingState,
)
from marketplace.shared.schemas import Answer, Body, Id, Reason


class NewClaim(Body):
    role_id: Id


class ClaimAnswer(Answer):
    id: UUID
    state: ClaimState
    state_reason: str | None
    role_id: UUID
    task_id: UUID
    job_id: UUID
    rate_id: UUID
    rate_minor_per_hour: int = Field(
        description="Locked: nothing else can price this claim.", examples=[7_400]
    )
    currency: str
    consent_grant_id: UUID
    claimed_at: datetime
    deadline: datetime = Field(description="The role is yours at least until then.")
    pay_by: datetime = Field(description="What is approved is paid by then.")
    retakes_granted: int
    pay_due_at: datetime | None = Field(
        description="If your pay is not decided by then, it is decided for you."
    )


class StartTime(Body):
    activity: Annotated[Activity, Strict(strict=False)]


class TimeEntryAnswer(Answer):
    id: UUID
    activity: Activity
    started_at: datetime
    ends_by: datetime = Field(description="The cap or the deadline ends it then at the latest.")
    ended_at: datetime | None
    ended_by: EndedBy | None


class TimeAnswer(Answer):
    """Whole seconds, stamped by the server."""

    total_seconds: int
    pay_minor: int = Field(description="What these seconds pay at the locked rate.")
    currency: str
    preparing_seconds: int
    preparing_cap_seconds: int
    performing_seconds: int
    performing_cap_seconds: int
    retaking_seconds: int = Field(description="In the retake granted last.")
    retaking_cap_seconds: int = Field(description="Each retake has it for itself.")
    entry: TimeEntryAnswer | None = Field(
        default=None, description="The entry this call started, kept alive or ended."
    )
    entries: list[TimeEntryAnswer] | None = Field(
        default=None, description="All entries, oldest first (when reading)."
    )


class Release(Body):
    reason: Reason | None = None


class PayDecisionAnswer(Answer):
    claim_id: UUID
    outcome: PayOutcome
    seconds: int
    rate_id: UUID
    rate_minor_per_hour: int
    currency: str
    pay_minor: int
    reason: str | None = Field(examples=[None])
    decided_at: datetime


class NewWithholding(Body):
    ground: Annotated[WithholdingGround, Strict(strict=False)]
    reason: Reason


class WithholdingDecision(Body):
    confirm: bool
    reason: Reason


class UndecidedClaim(Answer):
    claim_id: UUID
    performer_id: UUID
    state: ClaimState
    state_reason: str | None
    seconds: int
    pay_minor: int = Field(description="What these seconds pay at the locked rate.")
    currency: str
    pay_due_at: datetime = Field(description="Undecided until then, it is paid.")


class WithholdingAnswer(Answer):
    id: UUID
    claim_id: UUID
    state: WithholdingState
    state_reason: str | None
    ground: WithholdingGround
    reason: str = Field(examples=["The take is a recording of another person."])
    proposed_by: UUID
    decided_by: UUID | None


class ListedWithholding(WithholdingAnswer):
    created_at: datetime
    seconds: int
    pay_minor: int = Field(description="What is at stake: these seconds at the locked rate.")
    currency: str
    pay_due_at: datetime | None = Field(description="Undecided until then, the time is paid.")
