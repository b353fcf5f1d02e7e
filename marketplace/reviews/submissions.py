"""Handing in, and the review clock: it starts when every recording has its final check."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims import service as claims
from marketplace.claims import settlement
from marketplace.claims.models import ClaimRecording
from marketplace.consents.service import require_consent
from marketplace.jobs.specification import SCALE_POINTS
from marketplace.recordings.models import FINAL, USABLE, WITHOUT_BYTES, Recording, RecordingState
from marketplace.reviews.models import (
    SUBMISSION_MOVES,
    Submission,
    SubmissionRecording,
    SubmissionState,
)
from marketplace.reviews.schemas import NewSubmission, SelfLabels
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.problems import Conflict, InvalidField, MoveNotAllowed, NotFound
from marketplace.shared.states import move

FAILED_CHECKS = "Its recording did not pass its checks, and no retake was left."
NEVER_HEARD = "Its recording could not be measured, and nobody judged it by ear in time."


class RecordingNotReady(Conflict):
    """A recording is not uploaded, cannot be read, or was handed in before."""

    code = "recording_not_ready"


async def hand_in(
    session: AsyncSession,
    *,
    claim_id: UUID,
    performer_id: UUID,
    handed_in: NewSubmission,
    grace_seconds: int,
) -> Submission:
    """End the claim's time and start the way to a verdict."""
    locked = await settlement.lock(session, claim_id)
    claim = locked.claim
    if claim.performer_id != performer_id:
        raise NotFound
    if claim.deadline <= await clock.now(session):
        raise MoveNotAllowed("The claim's deadline has passed.", state=claim.state.value)
    await require_consent(session, claim.consent_grant_id)
    _require_asked_for(locked.job.specification["labels"], handed_in.self_labels)
    recordings = await _takes(session, claim_id, handed_in.recording_ids)
    await claims.hand_in(session, claim, grace_seconds=grace_seconds)
    earlier = await session.scalar(
        select(sa.func.count()).select_from(Submission).where(Submission.claim_id == claim_id)
    )
    submission = Submission(
        claim_id=claim.id,
        number=int(earlier or 0) + 1,
        client_id=claim.client_id,
        job_id=claim.job_id,
        performer_id=performer_id,
        state=SubmissionState.CHECKING,
        self_labels=handed_in.self_labels.model_dump(mode="json"),
    )
    session.add(submission)
    await session.flush()
    session.add_all(
        SubmissionRecording(recording_id=recording.id, submission_id=submission.id)
        for recording in recordings
    )
    await session.flush()
    await session.refresh(submission)
    return submission


def _require_asked_for(labels: dict[str, Any], given: SelfLabels) -> None:
    points = SCALE_POINTS[labels["dimension_scale"]]
    for dimension, value in given.dimensions.items():
        field = f"body.self_labels.dimensions.{dimension.value}"
        if dimension.value not in labels["dimensions"]:
            raise InvalidField(field, "this job does not ask for it")
        if value > points:
            raise InvalidField(field, f"goes from 1 to {points} in this job")


async def _takes(
    session: AsyncSession, claim_id: UUID, recording_ids: list[UUID]
) -> list[Recording]:
    if len(set(recording_ids)) != len(recording_ids):
        raise InvalidField("body.recording_ids", "names a recording twice")
    found = await session.exec(
        select(Recording)
        .join(ClaimRecording, col(ClaimRecording.recording_id) == Recording.id)
        .outerjoin(SubmissionRecording, col(SubmissionRecording.recording_id) == Recording.id)
        .where(ClaimRecording.claim_id == claim_id, col(Recording.id).in_(recording_ids))
        .where(col(SubmissionRecording.recording_id).is_(None))
        .where(col(Recording.state).not_in([RecordingState.UPLOADING, *WITHOUT_BYTES]))
    )
    takes = list(found)
    if len(takes) != len(recording_ids):
        ready = {take.id for take in takes}
        missing = sorted(str(each) for each in recording_ids if each not in ready)
        raise RecordingNotReady(recording_ids=missing)
    return takes


async def recordings_of(session: AsyncSession, submission_id: UUID) -> list[Recording]:
    found = await session.exec(
        select(Recording)
        .join(SubmissionRecording, col(SubmissionRecording.recording_id) == Recording.id)
        .where(SubmissionRecording.submission_id == submission_id)
        .order_by(col(Recording.id))
    )
    return list(found)


async def start_reviews(sessions: Sessions) -> int:
    """Submissions whose recordings all have their final check move on."""
    unchecked = (
        sa.select(col(SubmissionRecording.submission_id))
        .join(Recording, col(Recording.id) == SubmissionRecording.recording_id)
        .where(col(SubmissionRecording.submission_id) == Submission.id)
        .where(col(Recording.state).not_in(FINAL))
    )
    ready = (
        select(Submission.id)
        .where(Submission.state == SubmissionState.CHECKING, ~unchecked.exists())
        .order_by(col(Submission.id))
    )
    return await sweeps.each_due(sessions, "reviews", ready, _start_review)


async def _start_review(session: AsyncSession, submission_id: UUID) -> bool:
    submission = await session.get_one(Submission, submission_id)
    locked = await settlement.lock(session, submission.claim_id)
    await session.refresh(submission, with_for_update=True)
    if submission.state is not SubmissionState.CHECKING:
        return False
    recordings = await recordings_of(session, submission.id)
    failing = [recording for recording in recordings if recording.state not in USABLE]
    if failing and claims.retakes_left(locked):
        reason = f"A recording did not pass its checks: {_why(failing[0])}"
        move(submission, SubmissionState.RETAKE, SUBMISSION_MOVES, reason=reason)
        await claims.grant_retake(session, locked, reason=reason)
        return True
    move(submission, SubmissionState.IN_REVIEW, SUBMISSION_MOVES)
    if failing:
        submission.refuses_itself_because = FAILED_CHECKS
    elif any(recording.is_unmeasured for recording in recordings):
        submission.refuses_itself_because = NEVER_HEARD
    now = await clock.now(session)
    submission.review_due_at = now + timedelta(seconds=locked.job.review_seconds)
    await session.flush()
    return True


def _why(recording: Recording) -> str:
    if recording.state_reason:
        return recording.state_reason
    results = (recording.report or {}).get("results", [])
    failed = [result for result in results if result["verdict"] == RecordingState.RETAKE.value]
    return ", ".join(
        f"{result['metric']} is {result['value']} {result['unit']}, must be {result['look_limit']}"
        for result in failed
    )
