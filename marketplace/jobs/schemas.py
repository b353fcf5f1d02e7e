from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, model_validator

from marketplace.jobs.models import JobState, RoleState
from marketplace.jobs.specification import EMOTIONS, Elicitation, NewTask, Specification
from marketplace.rates.schemas import RateAnswer
from marketplace.shared.money import RateMinorPerHour
from marketplace.shared.schemas import Answer, Body, Name, Prose, Reason

HOUR = 3_600
DAY = 24 * HOUR
MOST_TASKS = 10_000


class NewJob(Body):
    title: Annotated[Name, Field(examples=["Grief and relief, en-US"])]
    brief: Prose = Field(examples=["Honest, small, improvised. No melodrama."])
    specification: Specification
    rate_minor_per_hour: RateMinorPerHour
    prep_seconds_cap: Annotated[
        int, Field(ge=0, le=2 * HOUR, description="Paid briefing, preparation and waiting")
    ] = 600
    perform_seconds_cap: Annotated[
        int, Field(ge=1, le=4 * HOUR, description="Paid performing, and again for each retake")
    ] = 2_400
    retakes_max: Annotated[int, Field(ge=0, le=2)] = 1
    claim_window_seconds: Annotated[
        int, Field(ge=60, le=14 * DAY, description="A claim is guaranteed this long at least")
    ] = DAY
    review_seconds: Annotated[
        int,
        Field(ge=HOUR, le=14 * DAY, description="Undecided takes are accepted after this long"),
    ] = 3 * DAY
    tasks: Annotated[list[NewTask], Field(min_length=1, max_length=1_000)]

    @property
    def role_count(self) -> int:
        return sum(task.copies * len(task.roles) for task in self.tasks)

    @model_validator(mode="after")
    def is_not_too_large(self) -> Self:
        if sum(task.copies for task in self.tasks) > MOST_TASKS:
            raise ValueError(f"tasks: at most {MOST_TASKS} tasks, copies included")
        if self.specification.speakers.minimum > self.role_count:
            raise ValueError(
                f"specification.speakers.minimum: {self.role_count} roles cannot be filled by more "
                "people than that"
            )
        return self

    @model_validator(mode="after")
    def casts_as_elicited(self) -> Self:
        partners = {len(task.roles) > 1 for task in self.tasks}
        match self.specification.elicitation:
            case Elicitation.IMPROV_DYAD if False in partners:
                raise ValueError("tasks: improv_dyad is for scenes of two roles or more")
            case Elicitation.IMPROV_SOLO if True in partners:
                raise ValueError("tasks: improv_solo is for scenes of one role")
        return self

    @model_validator(mode="after")
    def keeps_to_the_scheme(self) -> Self:
        labels = self.specification.labels
        known = EMOTIONS.get(labels.scheme)
        asked = {role.target.emotion for task in self.tasks for role in task.roles}
        asked |= {wanted.emotion for wanted in labels.wanted}
        if known is not None and (strange := sorted(asked - known)):
            raise ValueError(
                f"emotion: {', '.join(strange)} is not in {labels.scheme.value}; use "
                f"{', '.join(sorted(known))}"
            )
        return self


class JobAnswer(Answer):
    id: UUID
    state: JobState
    state_reason: str | None
    title: str
    brief: str
    specification: dict[str, Any]
    lineage_id: UUID
    currency: str
    asked_rate_minor_per_hour: int
    rate: RateAnswer | None = Field(description="The rate in force; what a claim made now locks.")
    fee_basis_points: int | None
    prep_seconds_cap: int
    perform_seconds_cap: int
    retakes_max: int
    claim_window_seconds: int
    review_seconds: int
    roles: dict[RoleState, int] = Field(
        description="How many roles are in each state.", examples=[{"open": 3}]
    )
    version: int
    created_at: datetime
    published_at: datetime | None


class JobSummary(Answer):
    id: UUID
    state: JobState
    title: str
    lineage_id: UUID
    currency: str
    created_at: datetime
    published_at: datetime | None


class Quote(Answer):
    """Money in minor units, pay and fee together."""

    currency: str
    rate_minor_per_hour: int = Field(description="What claims would lock.")
    fee_basis_points: int
    roles: int = Field(examples=[3])
    expected_minor: int = Field(
        examples=[21_276],
        description="Each role takes all its preparation and one full performance, no retake.",
    )
    worst_case_minor: int = Field(
        examples=[38_295],
        description="Each role takes every second its caps allow, at the highest announced rate. "
        "This much is reserved; what is not used goes back to your wallet.",
    )
    worst_case_per_role_minor: int = Field(examples=[12_765])
    wallet_minor: int = Field(examples=[100_000])
    roles_covered: int = Field(description="How many roles your wallet covers now.", examples=[3])


class Publication(Body):
    roles: Annotated[
        int | None,
        Field(ge=1, le=MOST_TASKS, description="Reserve and open this many roles; null is all."),
    ] = None


class StateReason(Body):
    reason: Reason | None = None


class RoleAnswer(Answer):
    id: UUID
    task_id: UUID
    task_number: int
    number: int
    name: str = Field(examples=["The one who lost the letter"])
    brief: str = Field(examples=["You find the letter you thought was gone for good."])
    target: dict[str, Any]
    scenario: dict[str, Any]
    state: RoleState
    state_reason: str | None


class BoardItem(Answer):
    """One role you may claim now."""

    role_id: UUID
    task_id: UUID
    job_id: UUID
    title: str
    brief: str
    role_name: str
    role_brief: str
    scenario: dict[str, Any]
    target: dict[str, Any]
    elicitation: Elicitation
    languages: list[str]
    licence: dict[str, Any]
    labels: dict[str, Any] = Field(
        description="The scheme, and the dimensions with the scale that self-labels may use."
    )
    audio: dict[str, Any] = Field(description="The tier of the gates, and the room tone to leave.")
    currency: str
    rate_minor_per_hour: int
    rate_id: UUID
    rate_history: list[dict[str, Any]] = Field(description="Every rate of this kind of job.")
    prep_seconds_cap: int
    perform_seconds_cap: int
    retakes_max: int
    claim_window_seconds: int
    pay_by: datetime = Field(
        description="If you claimed now and took all the time allowed: paid by then."
    )
    fit: int
    fit_reasons: list[dict[str, Any]] = Field(
        description="What the order is made of: factor, what matched, points."
    )
