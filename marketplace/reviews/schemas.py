from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, Strict, model_validator

from marketplace.claims.models import WithholdingGround
from marketplace.jobs.specification import Dimension, Intensity
from marketplace.recordings.schemas import RecordingAnswer
from marketplace.reviews.models import (
    MENDED_BY_A_RETAKE,
    OF_THE_WHOLE_TAKE,
    Flag,
    ReasonCode,
    SubmissionState,
    Verdict,
)
from marketplace.shared.schemas import Answer, Body, Id, Prose, Reason, Slug

Score = Annotated[int, Field(ge=0, le=4, description="0 not at all, 4 fully", examples=[3])]

LOWEST_MEAN_TO_ACCEPT = 2.5


class SelfLabels(Body):
    """What the performer says the take conveys."""

    emotion: Annotated[Slug, Field(examples=["sadness"])]
    intensity: Annotated[Intensity, Strict(strict=False)]
    dimensions: dict[
        Annotated[Dimension, Strict(strict=False)], Annotated[int, Field(ge=1, le=9)]
    ] = Field(
        default_factory=dict,
        description="Those the job asks for, each on the job's scale.",
        examples=[{"valence": 2, "arousal": 3}],
    )


class NewSubmission(Body):
    recording_ids: Annotated[list[Id], Field(min_length=1, max_length=20)]
    self_labels: SelfLabels


Second = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Stretch(Body):
    """Part of a take, counted from its beginning."""

    from_seconds: Annotated[Second, Field(examples=[12])]
    to_seconds: Annotated[Second, Field(examples=[30.5])]

    @model_validator(mode="after")
    def goes_forward(self) -> Self:
        if self.to_seconds <= self.from_seconds:
            raise ValueError("to_seconds must be later than from_seconds")
        return self


class VerdictTold(Answer):
    """What a reviewer decided about your take, and why. Who it was is not told."""

    verdict: Verdict
    reason_code: ReasonCode | None
    flags: list[Flag]
    comment: str | None = Field(examples=["From 0:12 on it is read, not played."])
    timestamps: list[Stretch]
    decided_at: datetime


class SubmissionAnswer(Answer):
    id: UUID
    claim_id: UUID
    number: int
    state: SubmissionState
    state_reason: str | None
    self_labels: dict[str, Any]
    submitted_at: datetime
    review_due_at: datetime | None = Field(
        description="Undecided until then, the take is accepted by itself, or refused if it failed "
        "its checks or was flagged. Your time is paid in every case."
    )
    verdicts: list[VerdictTold] = Field(
        default_factory=list, description="In the order they were given."
    )


class Scores(Body):
    brief_followed: Score
    emotion_conveyed: Score
    naturalness: Score
    listening: Score
    listenability: Score

    def mean(self) -> float:
        values = self._values()
        return sum(values) / len(values)

    def lowest(self) -> int:
        return min(self._values())

    def _values(self) -> list[int]:
        return list(self.model_dump().values())


class ProposedWithholding(Body):
    ground: Annotated[WithholdingGround, Strict(strict=False)]
    reason: Reason


class NewVerdict(Body):
    verdict: Annotated[Verdict, Strict(strict=False)]
    scores: Scores
    flags: list[Annotated[Flag, Strict(strict=False)]] = Field(default_factory=list)
    reason_code: Annotated[ReasonCode | None, Strict(strict=False)] = None
    comment: Prose | None = Field(default=None, examples=["From 0:12 on it is read, not played."])
    timestamps: list[Stretch] = Field(
        default_factory=list,
        max_length=50,
        description="Where in the take. Needed to refuse, but for a reason of the whole take: "
        f"{', '.join(OF_THE_WHOLE_TAKE)}.",
    )
    withhold: ProposedWithholding | None = Field(
        default=None,
        description="Only with a refusal; proposed when the take is refused, and decided by "
        "somebody else.",
    )

    @model_validator(mode="after")
    def keeps_the_rubric(self) -> Self:
        if self.verdict is Verdict.ACCEPT and not self._may_be_accepted():
            raise ValueError(
                "accept needs no flag, no score of 0, and a mean of at least "
                f"{LOWEST_MEAN_TO_ACCEPT}; choose retake or refuse"
            )
        if self.verdict is not Verdict.ACCEPT and not (self.reason_code and self.comment):
            raise ValueError(f"{self.verdict.value} needs a reason_code and a comment")
        if self.verdict is Verdict.RETAKE and self.reason_code not in MENDED_BY_A_RETAKE:
            raise ValueError(f"retake is for {' or '.join(MENDED_BY_A_RETAKE)}; else refuse")
        if self.verdict is Verdict.REFUSE and not self._says_where():
            raise ValueError(f"refuse needs timestamps, but for {' or '.join(OF_THE_WHOLE_TAKE)}")
        if self.reason_code is ReasonCode.FLAGGED and not self.flags:
            raise ValueError("flagged needs its flags")
        if self.withhold is not None and self.verdict is not Verdict.REFUSE:
            raise ValueError("withhold goes with a refusal only")
        return self

    def _says_where(self) -> bool:
        return bool(self.timestamps) or self.reason_code in OF_THE_WHOLE_TAKE

    def _may_be_accepted(self) -> bool:
        scores = self.scores
        return not self.flags and scores.lowest() > 0 and scores.mean() >= LOWEST_MEAN_TO_ACCEPT


class ReviewAnswer(Answer):
    """A take to judge. Who performed it is not told."""

    id: UUID
    submission_id: UUID
    claim_id: UUID
    state: SubmissionState
    lease_until: datetime
    review_due_at: datetime | None
    job_title: str
    job_brief: str
    scenario: dict[str, Any]
    role_name: str
    role_brief: str
    target: dict[str, Any]
    self_labels: dict[str, Any]
    recordings: list[RecordingAnswer]
    needs_second_opinion: bool = Field(
        description="Another reviewer wants to refuse it; your verdict decides."
    )


class VerdictAnswer(Answer):
    review_id: UUID
    submission_id: UUID
    claim_id: UUID
    verdict: Verdict
    submission_state: SubmissionState = Field(
        description="Still in_review after a first refusal: a second reviewer decides."
    )
    decided_at: datetime
    withholding_id: UUID | None = Field(
        description="What the refusal proposed, for a second person to decide."
    )
