"""Assigned reviews under a lease, and what a verdict does. The verdict never touches the pay."""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims import service as claims
from marketplace.claims import settlement
from marketplace.reviews.models import (
    SUBMISSION_MOVES,
    Review,
    Submission,
    SubmissionState,
    Verdict,
)
from marketplace.reviews.schemas import NewVerdict
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions, row
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move


class NothingToReview(NotFound):
    """No take waits for you."""

    code = "nothing_to_review"


class LeaseOver(Conflict):
    """Your lease on this review is over, or it is decided; ask for the next one."""

    code = "lease_over"


class NoRetakesLeft(Conflict):
    """This claim has used its retakes; accept or refuse the take."""

    code = "no_retakes_left"


async def assign_next(session: AsyncSession, *, reviewer_id: UUID, lease_seconds: int) -> Review:
    """The take that waits longest, leased to this reviewer; the one in hand if there is one.

    Never their own take, nor one made for a client they act for, nor one they judged before.
    """
    held = await _in_hand(session, reviewer_id)
    if held is not None:
        return held
    found = await row(
        session,
        "SELECT submission.id FROM submission WHERE state = 'in_review'"
        " AND review_due_at > marketplace_now() AND performer_id <> :reviewer"
        " AND NOT EXISTS (SELECT FROM client_member AS member"
        "  WHERE member.person_id = :reviewer AND member.client_id = submission.client_id)"
        " AND NOT EXISTS (SELECT FROM review WHERE review.submission_id = submission.id"
        "  AND (review.reviewer_id = :reviewer AND decided_at IS NOT NULL"
        "   OR decided_at IS NULL AND lease_until > marketplace_now()))"
        " ORDER BY review_due_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
        reviewer=reviewer_id,
    )
    if found is None:
        raise NothingToReview
    return await _lease(session, found["id"], reviewer_id, lease_seconds)


async def _in_hand(session: AsyncSession, reviewer_id: UUID) -> Review | None:
    found = await session.exec(
        select(Review)
        .join(Submission, col(Submission.id) == Review.submission_id)
        .where(Review.reviewer_id == reviewer_id, col(Review.decided_at).is_(None))
        .where(col(Review.lease_until) > sa.func.marketplace_now())
        .where(Submission.state == SubmissionState.IN_REVIEW)
        .limit(1)
    )
    return found.first()


async def _lease(
    session: AsyncSession, submission_id: UUID, reviewer_id: UUID, lease_seconds: int
) -> Review:
    lease_until = await clock.now(session) + timedelta(seconds=lease_seconds)
    found = await session.exec(
        select(Review).where(
            Review.submission_id == submission_id, Review.reviewer_id == reviewer_id
        )
    )
    review = found.first() or Review(
        submission_id=submission_id, reviewer_id=reviewer_id, lease_until=lease_until
    )
    review.lease_until = lease_until
    session.add(review)
    await session.flush()
    return review


async def own_review(session: AsyncSession, review_id: UUID, reviewer_id: UUID) -> Review:
    found = await session.exec(
        select(Review).where(Review.id == review_id, Review.reviewer_id == reviewer_id)
    )
    review = found.first()
    if review is None:
        raise NotFound
    return review


async def decide(session: AsyncSession, review: Review, given: NewVerdict) -> Submission:
    """Record the verdict and let it take effect; a first refusal only asks a second reviewer."""
    submission = await session.get_one(Submission, review.submission_id)
    locked = await settlement.lock(session, submission.claim_id)
    await session.refresh(submission, with_for_update=True)
    await session.refresh(review, with_for_update=True)
    now = await clock.now(session)
    in_review = submission.state is SubmissionState.IN_REVIEW
    if review.decided_at is not None or review.lease_until <= now or not in_review:
        raise LeaseOver
    if given.verdict is Verdict.RETAKE and not claims.retakes_left(locked):
        raise NoRetakesLeft
    second = await needs_second_opinion(session, submission.id)
    review.decided_at = now
    review.verdict = given.verdict
    review.scores = given.scores.model_dump()
    review.flags = [flag.value for flag in given.flags]
    review.reason_code = given.reason_code
    review.comment = given.comment
    await session.flush()
    if given.verdict is Verdict.REFUSE and not second:
        return submission
    await _apply(session, locked, submission, given, review.reviewer_id)
    return submission


async def needs_second_opinion(session: AsyncSession, submission_id: UUID) -> bool:
    found = await session.exec(
        select(Review.id).where(
            Review.submission_id == submission_id, Review.verdict == Verdict.REFUSE
        )
    )
    return found.first() is not None


async def _apply(
    session: AsyncSession,
    locked: settlement.Locked,
    submission: Submission,
    given: NewVerdict,
    reviewer_id: UUID,
) -> None:
    match given.verdict:
        case Verdict.ACCEPT:
            await _accept(session, locked, submission, decided_by=reviewer_id)
        case Verdict.RETAKE:
            reason = given.comment or ""
            move(submission, SubmissionState.RETAKE, SUBMISSION_MOVES, reason=reason)
            await claims.grant_retake(session, locked, reason=reason)
        case Verdict.REFUSE:
            await _refuse(session, locked, submission, given, reviewer_id)


async def _accept(
    session: AsyncSession,
    locked: settlement.Locked,
    submission: Submission,
    *,
    decided_by: UUID | None,
    reason: str | None = None,
) -> None:
    move(submission, SubmissionState.ACCEPTED, SUBMISSION_MOVES, reason=reason)
    claims.settle(locked.claim)
    await session.flush()
    await settlement.pay_and_finish_role(session, locked, decided_by=decided_by)


async def _refuse(
    session: AsyncSession,
    locked: settlement.Locked,
    submission: Submission,
    given: NewVerdict,
    reviewer_id: UUID,
) -> None:
    move(submission, SubmissionState.REFUSED, SUBMISSION_MOVES, reason=given.comment)
    claims.settle(locked.claim, reason="The take was refused.")
    await session.flush()
    if given.withhold is None:
        await settlement.pay_and_reopen_role(session, locked, decided_by=reviewer_id)
        return
    await settlement.await_decision_and_reopen_role(session, locked)
    await settlement.propose_withholding(
        session,
        locked,
        ground=given.withhold.ground,
        reason=given.withhold.reason,
        proposed_by=reviewer_id,
    )


async def decide_overdue(sessions: Sessions) -> int:
    """A take that nobody decided in time is accepted by itself.

    Unless its recording failed its checks and no retake was left: then it is refused, and paid.
    """
    async with sessions() as session:
        overdue = (
            await session.exec(
                select(Submission.id)
                .where(Submission.state == SubmissionState.IN_REVIEW)
                .where(col(Submission.review_due_at) <= sa.func.marketplace_now())
                .order_by(col(Submission.review_due_at))
                .limit(100)
            )
        ).all()
    for submission_id in overdue:
        async with sessions() as session:
            await audit.act_as(session, "sweep:accept")
            await _decide_overdue(session, submission_id)
            await session.commit()
    return len(overdue)


async def _decide_overdue(session: AsyncSession, submission_id: UUID) -> None:
    submission = await session.get_one(Submission, submission_id)
    locked = await settlement.lock(session, submission.claim_id)
    await session.refresh(submission, with_for_update=True)
    if submission.state is not SubmissionState.IN_REVIEW:
        return
    reason = "Nobody decided it in time."
    if submission.accepts_itself:
        await _accept(session, locked, submission, decided_by=None, reason=reason)
        return
    move(
        submission,
        SubmissionState.REFUSED,
        SUBMISSION_MOVES,
        reason="Its recording did not pass its checks, and no retake was left.",
    )
    claims.settle(locked.claim, reason="The take was refused.")
    await session.flush()
    await settlement.pay_and_reopen_role(session, locked, decided_by=None)
