from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Index, SQLModel, text

from marketplace.claims.models import WithholdingGround
from marketplace.shared.columns import (
    choice,
    is_one_of,
    json_object,
    key,
    link,
    now_stamp,
    stamp,
    state_column,
    texts,
    updatable,
)
from marketplace.shared.states import Moves


class SubmissionState(StrEnum):
    CHECKING = "checking"  # its recordings wait for their checks
    IN_REVIEW = "in_review"  # the review clock runs
    ACCEPTED = "accepted"
    RETAKE = "retake"  # sent back for a paid retake
    REFUSED = "refused"  # not for the dataset; the time is paid all the same


SUBMISSION_MOVES: Moves[SubmissionState] = {
    None: frozenset({SubmissionState.CHECKING}),
    SubmissionState.CHECKING: frozenset(
        {SubmissionState.IN_REVIEW, SubmissionState.RETAKE, SubmissionState.REFUSED}
    ),
    SubmissionState.IN_REVIEW: frozenset(
        {SubmissionState.ACCEPTED, SubmissionState.RETAKE, SubmissionState.REFUSED}
    ),
}


class Submission(SQLModel, table=True):
    """A claim's handed-in work."""

    __tablename__ = "submission"
    __table_args__ = (
        sa.UniqueConstraint("claim_id", "number"),
        Index("ix_submission_client", "client_id", "id"),
        Index("ix_submission_job_id", "job_id"),
        Index("ix_submission_checking", "id", postgresql_where=text("state = 'checking'")),
        Index(
            "ix_submission_review_due_at",
            "review_due_at",
            postgresql_where=text("state = 'in_review'"),
        ),
        updatable("state", "state_reason", "review_due_at", "refuses_itself_because"),
    )

    id: UUID = key()
    claim_id: UUID = link("claim.id")
    # 1, then 2, 3 … for retakes.
    number: int
    client_id: UUID = link("client.id")
    job_id: UUID = link("job.id")
    performer_id: UUID = link("performer.person_id")
    state: SubmissionState = state_column(SubmissionState)
    state_reason: str | None = None
    # What the performer says they conveyed.
    self_labels: dict[str, Any] = json_object()
    submitted_at: datetime = now_stamp()
    # Undecided until then, it decides itself: it is accepted, but for a reason not to. Paid always.
    review_due_at: datetime | None = stamp(default=None)
    refuses_itself_because: str | None = None


class SubmissionRecording(SQLModel, table=True):
    __tablename__ = "submission_recording"
    __table_args__ = updatable()

    recording_id: UUID = link("recording.id", primary_key=True)
    submission_id: UUID = link("submission.id", index=True)


class Verdict(StrEnum):
    ACCEPT = "accept"
    RETAKE = "retake"
    REFUSE = "refuse"


class Flag(StrEnum):
    SAFETY = "safety"
    THIRD_PARTY_DATA = "third_party_data"
    COPYRIGHTED_MUSIC = "copyrighted_music"
    REAL_NAME = "real_name"
    MINORS_VOICE = "minors_voice"


class ReasonCode(StrEnum):
    """Why a take is sent back or refused."""

    BRIEF_NOT_FOLLOWED = "brief_not_followed"
    EMOTION_NOT_CONVEYED = "emotion_not_conveyed"
    NOT_NATURAL = "not_natural"
    TECHNICAL = "technical"
    FLAGGED = "flagged"
    WRONG_LANGUAGE = "wrong_language"


# What another take may mend.
MENDED_BY_A_RETAKE = (ReasonCode.BRIEF_NOT_FOLLOWED, ReasonCode.TECHNICAL)
# What no moment of a take shows more than another.
OF_THE_WHOLE_TAKE = (ReasonCode.EMOTION_NOT_CONVEYED, ReasonCode.WRONG_LANGUAGE)


def _among(codes: Iterable[ReasonCode]) -> str:
    return "reason_code IN ({})".format(", ".join(f"'{code.value}'" for code in codes))


class Review(SQLModel, table=True):
    """One reviewer's assignment and, once decided, their scores and verdict. Decided is final."""

    __tablename__ = "review"
    __table_args__ = (
        sa.UniqueConstraint("submission_id", "reviewer_id"),
        is_one_of("verdict", Verdict),
        is_one_of("reason_code", ReasonCode),
        sa.CheckConstraint("(decided_at IS NULL) = (verdict IS NULL)", name="verdict_when_decided"),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict = 'accept'"
            " OR (reason_code IS NOT NULL AND comment IS NOT NULL)",
            name="has_reason",
        ),
        sa.CheckConstraint(
            f"verdict IS DISTINCT FROM 'retake' OR {_among(MENDED_BY_A_RETAKE)}",
            name="retake_mends_it",
        ),
        sa.CheckConstraint(
            f"verdict IS DISTINCT FROM 'refuse' OR {_among(OF_THE_WHOLE_TAKE)}"
            " OR jsonb_array_length(timestamps) > 0",
            name="refusal_says_where",
        ),
        is_one_of("withhold_ground", WithholdingGround),
        sa.CheckConstraint(
            "(withhold_ground IS NULL) = (withhold_reason IS NULL)"
            " AND (withhold_ground IS NULL OR verdict = 'refuse')",
            name="withholds_with_refusal",
        ),
        updatable(
            "lease_until",
            "decided_at",
            "verdict",
            "scores",
            "flags",
            "reason_code",
            "comment",
            "timestamps",
            "withhold_ground",
            "withhold_reason",
        ),
    )

    id: UUID = key()
    submission_id: UUID = link("submission.id")
    reviewer_id: UUID = link("person.id", index=True)
    assigned_at: datetime = now_stamp()
    # Until then nobody else is assigned.
    lease_until: datetime = stamp()
    decided_at: datetime | None = stamp(default=None)
    verdict: Verdict | None = choice(Verdict, default=None)
    # 0 to 4 for each line of the rubric.
    scores: dict[str, Any] | None = json_object(default=None)
    flags: list[str] = texts(default_factory=list)
    reason_code: ReasonCode | None = choice(ReasonCode, default=None)
    comment: str | None = None
    # The stretches of the take that the comment is about, in seconds from its beginning.
    timestamps: list[dict[str, Any]] = json_object(default_factory=list)
    # Proposed when the take is refused, by this reviewer or by the second one.
    withhold_ground: WithholdingGround | None = choice(WithholdingGround, default=None)
    withhold_reason: str | None = None
