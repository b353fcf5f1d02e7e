from functools import partial
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.principals import Performer, Reviewer
from marketplace.claims import service as claims
from marketplace.claims import settlement, withholdings
from marketplace.claims.models import Claim
from marketplace.consents.service import (
    ConsentWithdrawn,
    require_consent,
    require_consent_now,
)
from marketplace.jobs.models import Job, Role, Task
from marketplace.recordings.models import Recording, RecordingState
from marketplace.recordings.routes import TAKE, FileStorage, stream_of
from marketplace.recordings.routes import answer as recording_answer
from marketplace.reviews import service, submissions
from marketplace.reviews.models import Review, Submission
from marketplace.reviews.schemas import (
    NewSubmission,
    NewVerdict,
    ReviewAnswer,
    SubmissionAnswer,
    VerdictAnswer,
    VerdictTold,
)
from marketplace.shared.problems import InvalidField, MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Grace, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["reviews"])


@router.post(
    "/claims/{claim_id}/submissions",
    status_code=201,
    responses=documented(
        NotFound, MoveNotAllowed, ConsentWithdrawn, submissions.RecordingNotReady, InvalidField
    ),
)
async def submit_claim(
    claim_id: UUID, body: NewSubmission, session: Session, performer: Performer, grace: Grace
) -> SubmissionAnswer:
    """Hand your work in: your time stops, and the takes are checked and reviewed."""
    submission = await submissions.hand_in(
        session,
        claim_id=claim_id,
        performer_id=performer.person,
        handed_in=body,
        grace_seconds=grace,
    )
    return SubmissionAnswer.model_validate(submission)


@router.get("/claims/{claim_id}/submissions", responses=documented(NotFound))
async def list_submissions(
    claim_id: UUID, session: Session, performer: Performer
) -> Page[SubmissionAnswer]:
    """What you handed in for a claim, oldest first, and what became of it."""
    claim = await claims.own_claim(session, claim_id, performer.person)
    found = await session.exec(
        select(Submission).where(Submission.claim_id == claim.id).order_by(col(Submission.number))
    )
    items = [await _told(session, submission) for submission in found]
    return Page(items=items, next_cursor=None)


async def _told(session: Session, submission: Submission) -> SubmissionAnswer:
    given = await service.verdicts_on(session, submission.id)
    verdicts = [VerdictTold.model_validate(review) for review in given]
    return SubmissionAnswer.model_validate(submission).model_copy(update={"verdicts": verdicts})


@router.post("/reviews/next", responses=documented(service.NothingToReview))
async def take_next_review(request: Request, session: Session, reviewer: Reviewer) -> ReviewAnswer:
    """Be assigned the take that waits longest, under a lease. Takes are assigned, not chosen."""
    review = await service.assign_next(
        session,
        reviewer_id=reviewer.person,
        lease_seconds=request.app.state.settings.review_lease_seconds,
    )
    return await _answer(session, review)


@router.get("/reviews/{review_id}", responses=documented(NotFound))
async def read_review(review_id: UUID, session: Session, reviewer: Reviewer) -> ReviewAnswer:
    """A take that was assigned to you."""
    return await _answer(session, await service.own_review(session, review_id, reviewer.person))


@router.get(
    "/reviews/{review_id}/recordings/{recording_id}/content",
    response_class=StreamingResponse,
    responses={**TAKE, **documented(NotFound, ConsentWithdrawn)},
)
async def listen_to_recording(
    review_id: UUID,
    recording_id: UUID,
    request: Request,
    session: Session,
    reviewer: Reviewer,
    storage: FileStorage,
) -> StreamingResponse:
    """Listen to a take that was assigned to you."""
    review = await service.own_review(session, review_id, reviewer.person)
    submission = await session.get_one(Submission, review.submission_id)
    claim = await session.get_one(Claim, submission.claim_id)
    await require_consent(session, claim.consent_grant_id)
    takes = await submissions.recordings_of(session, review.submission_id)
    for take in takes:
        if take.id == recording_id and take.state is not RecordingState.UNREADABLE:
            sessions = request.app.state.sessions
            standing = partial(require_consent_now, sessions, claim.consent_grant_id)
            return await stream_of(storage, take, require=standing)
    raise NotFound


@router.post(
    "/reviews/{review_id}/verdict",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        service.LeaseOver,
        service.NoRetakesLeft,
        service.TakeUnreadable,
        settlement.SecondPersonNeeded,
        ActsForTheClient,
        ConsentWithdrawn,
    ),
)
async def give_verdict(
    review_id: UUID, body: NewVerdict, session: Session, reviewer: Reviewer
) -> VerdictAnswer:
    """Accept, send back for a paid retake, or refuse. The time is paid in every case.

    A refusal takes effect when a second reviewer refuses, too.
    """
    review = await service.own_review(session, review_id, reviewer.person)
    submission = await service.decide(session, review, body)
    assert review.decided_at is not None
    return VerdictAnswer(
        review_id=review.id,
        submission_id=submission.id,
        claim_id=submission.claim_id,
        verdict=body.verdict,
        submission_state=submission.state,
        decided_at=review.decided_at,
        withholding_id=await withholdings.proposed_for(session, submission.claim_id),
    )


async def _answer(session: Session, review: Review) -> ReviewAnswer:
    submission = await session.get_one(Submission, review.submission_id)
    claim = await session.get_one(Claim, submission.claim_id)
    role = await session.get_one(Role, claim.role_id)
    job = await session.get_one(Job, claim.job_id)
    task = await session.get_one(Task, claim.task_id)
    takes: list[Recording] = await submissions.recordings_of(session, submission.id)
    return ReviewAnswer(
        id=review.id,
        submission_id=submission.id,
        claim_id=claim.id,
        state=submission.state,
        lease_until=review.lease_until,
        review_due_at=submission.review_due_at,
        job_title=job.title,
        job_brief=job.brief,
        scenario=task.scenario,
        role_name=role.name,
        role_brief=role.brief,
        target=role.target,
        self_labels=submission.self_labels,
        recordings=[recording_answer(take) for take in takes],
        needs_second_opinion=await service.needs_second_opinion(session, submission.id),
    )
