"""Assigned reviews under a lease, and what a verdict does. The verdict never touches the pay."""

from datetime import timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import acts_or_acted_for
from marketplace.claims import service as claims
from marketplace.claims import settlement, withholdings
from marketplace.claims.models import WORKING, Claim, ClaimState
from marketplace.claims.time import seconds_of
from marketplace.consents.models import ConsentWithdrawal
from marketplace.consents.service import require_consent, withdrawal_of
from marketplace.recordings.models import RecordingState
from marketplace.reviews.models import (
    SUBMISSION_MOVES,
    Review,
    Submission,
    SubmissionState,
    Verdict,
)
from marketplace.reviews.schemas import NewVerdict
from marketplace.reviews.submissions import recordings_of
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions, take_turns
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move

CONSENT_WITHDRAWN = "The performer withdrew the consent."
FLAGGED = "A reviewer flagged it, and nobody gave a second opinion in time."


class NothingToReview(NotFound):
    """No take waits for you."""

    code = "nothing_to_review"


class LeaseOver(Conflict):
    """Your lease on this review is over, or it is decided; ask for the next one."""

    code = "lease_over"


class NoRetakesLeft(Conflict):
    """This claim has used its retakes; accept or refuse the take."""

    code = "no_retakes_left"


class TakeUnreadable(Conflict):
    """A recording of this submission cannot be read, so it cannot be accepted."""

    code = "take_unreadable"


async def assign_next(session: AsyncSession, *, reviewer_id: UUID, lease_seconds: int) -> Review:
    """The take that waits longest, leased to this reviewer; the one in hand if there is one.

    Never their own take, nor one made for a client they act or acted for, nor one they judged before.
    """
    # One assignment at a time per reviewer: asking twice at once must not lease two takes.
    await take_turns(session, "review", reviewer_id)
    held = await _in_hand(session, reviewer_id)
    if held is not None:
        return held
    judged_or_in_hand = select(Review.id).where(
        Review.submission_id == Submission.id,
        sa.or_(
            sa.and_(col(Review.reviewer_id) == reviewer_id, col(Review.decided_at).is_not(None)),
            sa.and_(
                col(Review.decided_at).is_(None),
                col(Review.lease_until) > sa.func.marketplace_now(),
            ),
        ),
    )
    found = await session.scalar(
        select(Submission.id)
        .where(
            Submission.state == SubmissionState.IN_REVIEW,
            col(Submission.review_due_at) > sa.func.marketplace_now(),
            Submission.performer_id != reviewer_id,
            ~acts_or_acted_for(Submission.client_id, reviewer_id),
            ~judged_or_in_hand.exists(),
        )
        .order_by(col(Submission.review_due_at), col(Submission.id))
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    if found is None:
        raise NothingToReview
    return await _lease(session, found, reviewer_id, lease_seconds)


async def _in_hand(session: AsyncSession, reviewer_id: UUID) -> Review | None:
    found = await session.exec(
        select(Review)
        .join(Submission, col(Submission.id) == Review.submission_id)
        .where(Review.reviewer_id == reviewer_id, col(Review.decided_at).is_(None))
        .where(col(Review.lease_until) > sa.func.marketplace_now())
        .where(Submission.state == SubmissionState.IN_REVIEW)
        .where(~acts_or_acted_for(Submission.client_id, reviewer_id))
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
    await settlement.require_impartial(session, locked.claim, review.reviewer_id)
    await require_consent(session, locked.claim.consent_grant_id)
    await session.refresh(submission, with_for_update=True)
    await session.refresh(review, with_for_update=True)
    now = await clock.now(session)
    in_review = submission.state is SubmissionState.IN_REVIEW
    if review.decided_at is not None or review.lease_until <= now or not in_review:
        raise LeaseOver
    if given.verdict is Verdict.RETAKE and not claims.retakes_left(locked):
        raise NoRetakesLeft
    if given.verdict is Verdict.ACCEPT:
        await _require_readable(session, submission.id)
    second = await needs_second_opinion(session, submission.id)
    review.decided_at = now
    review.verdict = given.verdict
    review.scores = given.scores.model_dump()
    review.flags = [flag.value for flag in given.flags]
    review.reason_code = given.reason_code
    review.comment = given.comment
    review.timestamps = [stretch.model_dump() for stretch in given.timestamps]
    if given.withhold is not None:
        review.withhold_ground = given.withhold.ground
        review.withhold_reason = given.withhold.reason
    await session.flush()
    if given.verdict is Verdict.REFUSE and not second:
        if given.flags:
            submission.refuses_itself_because = FLAGGED
        return submission
    await _apply(session, locked, submission, given, review.reviewer_id)
    return submission


async def _require_readable(session: AsyncSession, submission_id: UUID) -> None:
    unreadable = [
        str(recording.id)
        for recording in await recordings_of(session, submission_id)
        if recording.state is RecordingState.UNREADABLE
    ]
    if unreadable:
        raise TakeUnreadable(recording_ids=unreadable)


async def needs_second_opinion(session: AsyncSession, submission_id: UUID) -> bool:
    found = await session.exec(
        select(Review.id).where(
            Review.submission_id == submission_id, Review.verdict == Verdict.REFUSE
        )
    )
    return found.first() is not None


async def verdicts_on(session: AsyncSession, submission_id: UUID) -> list[Review]:
    found = await session.exec(
        select(Review)
        .where(Review.submission_id == submission_id, col(Review.decided_at).is_not(None))
        .order_by(col(Review.decided_at), col(Review.id))
    )
    return list(found)


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
    proposer = await _first_to_withhold(session, submission.id)
    if proposer is None or not await seconds_of(session, locked.claim.id):
        await settlement.pay_and_reopen_role(session, locked, decided_by=reviewer_id)
        return
    assert proposer.withhold_ground is not None
    assert proposer.withhold_reason is not None
    await settlement.await_decision_and_reopen_role(session, locked)
    await withholdings.propose(
        session,
        locked,
        ground=proposer.withhold_ground,
        reason=proposer.withhold_reason,
        proposed_by=proposer.reviewer_id,
    )


async def _first_to_withhold(session: AsyncSession, submission_id: UUID) -> Review | None:
    """A proposal counts whichever of the two reviewers made it."""
    found = await session.exec(
        select(Review)
        .join(Submission, col(Submission.id) == Review.submission_id)
        .where(Review.submission_id == submission_id, col(Review.withhold_ground).is_not(None))
        # Who joined the client since has lost their word on its money.
        .where(~acts_or_acted_for(Submission.client_id, Review.reviewer_id))
        .order_by(col(Review.decided_at), col(Review.id))
        .limit(1)
    )
    return found.first()


async def decide_overdue(sessions: Sessions) -> int:
    """A take that nobody decided in time is accepted by itself.

    Unless there is a reason not to (failed checks without a retake left, a recording nobody could
    measure, a flag): then it is refused, and paid.
    """
    overdue = (
        select(Submission.id)
        .where(Submission.state == SubmissionState.IN_REVIEW)
        .where(col(Submission.review_due_at) <= sa.func.marketplace_now())
        .order_by(col(Submission.review_due_at))
    )
    return await sweeps.each_due(sessions, "accept", overdue, _decide_overdue)


async def _decide_overdue(session: AsyncSession, submission_id: UUID) -> bool:
    submission = await session.get_one(Submission, submission_id)
    locked = await settlement.lock(session, submission.claim_id)
    await session.refresh(submission, with_for_update=True)
    if submission.state is not SubmissionState.IN_REVIEW:
        return False
    if await withdrawal_of(session, locked.claim.consent_grant_id) is not None:
        return False  # `end_withdrawn` ends it
    because = submission.refuses_itself_because
    if because is None:
        reason = "Nobody decided it in time."
        await _accept(session, locked, submission, decided_by=None, reason=reason)
        return True
    move(submission, SubmissionState.REFUSED, SUBMISSION_MOVES, reason=because)
    claims.settle(locked.claim, reason="The take was refused.")
    await session.flush()
    await settlement.pay_and_reopen_role(session, locked, decided_by=None)
    return True


async def end_withdrawn(sessions: Sessions, *, grace_seconds: int) -> int:
    """Work under a withdrawn consent ends: its time is paid, its role opens for somebody else."""
    due = (
        select(Claim.id)
        .join(ConsentWithdrawal, col(ConsentWithdrawal.consent_grant_id) == Claim.consent_grant_id)
        .where(col(Claim.state).in_([*WORKING, ClaimState.SUBMITTED]))
        .order_by(col(Claim.id))
    )
    end = partial(_end_withdrawn, grace_seconds=grace_seconds)
    return await sweeps.each_due(sessions, "withdrawn", due, end)


async def _end_withdrawn(session: AsyncSession, claim_id: UUID, *, grace_seconds: int) -> bool:
    locked = await settlement.lock(session, claim_id)
    if locked.claim.state in WORKING:
        await claims.release(
            session, locked.claim, reason=CONSENT_WITHDRAWN, grace_seconds=grace_seconds
        )
        return True
    if locked.claim.state is not ClaimState.SUBMITTED:
        return False
    found = await session.exec(
        select(Submission)
        .where(Submission.claim_id == claim_id)
        .where(col(Submission.state).in_([SubmissionState.CHECKING, SubmissionState.IN_REVIEW]))
        .with_for_update()
    )
    move(found.one(), SubmissionState.REFUSED, SUBMISSION_MOVES, reason=CONSENT_WITHDRAWN)
    claims.settle(locked.claim, reason=CONSENT_WITHDRAWN)
    await session.flush()
    await settlement.pay_and_reopen_role(session, locked, decided_by=None)
    return True
