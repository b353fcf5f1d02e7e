from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from marketplace.shared.money import Currency, RateMinorPerHour
from marketplace.shared.schemas import Answer, Body, Reason, Time


class RateStatus(StrEnum):
    """Read off the clock, never stored."""

    ANNOUNCED = "announced"
    IN_FORCE = "in_force"
    SUPERSEDED = "superseded"


class NewRate(Body):
    rate_minor_per_hour: RateMinorPerHour
    reason: Reason
    effective_from: Annotated[
        Time | None,
        Field(
            description="Null is in a minute, which only a rise may take; a cut needs 14 days' notice. "
            "At most two years ahead.",
            examples=["2026-12-14T06:00:00Z"],
        ),
    ] = None


class RateAnswer(Answer):
    id: UUID
    lineage_id: UUID
    rate_minor_per_hour: int = Field(examples=[7_400])
    currency: str = Field(examples=["USD"])
    announced_at: datetime
    effective_from: datetime
    reason: str = Field(examples=["Agreed with the performers on the call of 3 November."])
    announced_by: UUID
    status: RateStatus
    previous_rate_minor_per_hour: int | None = Field(
        description="What it follows in order of effect; null for the first."
    )
    change_percent: str | None = Field(
        description="Against the previous rate, exact to two decimals.", examples=["5.71"]
    )


class LineageAnswer(Answer):
    id: UUID
    client_id: UUID | None
    currency: str
    elicitation: str
    languages: list[str]
    role_profile: str
    separation_reason: str | None


class NewMinimumRate(Body):
    currency: Currency
    rate_minor_per_hour: RateMinorPerHour
    reason: Reason


class MinimumRateAnswer(Answer):
    currency: str
    rate_minor_per_hour: int = Field(examples=[1_500])
    effective_from: datetime
    reason: str = Field(examples=["No job may pay less than this."])
