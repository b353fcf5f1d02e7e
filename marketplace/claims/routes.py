from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.models import Role
from marketplace.accounts.principals import Performer, Principal, Reviewer, person_with
from marketplace.claims import service, settlement, time, undecided, withholdings
from marketplace.claims.models import WORKING, Claim, ClaimRecording, TimeEntry, Withholding
from marketplace.claims.schemas import (
    ClaimAnswer,
    ListedWithholding,
    NewClaim,
    NewWithholding,
    PayDecisionAnswer,
    Release,
    StartTime,
    TimeAnswer,
    TimeEntryAnswer,
    UndecidedClaim,
    WithholdingAnswer,
    WithholdingDecision,
)
from marketplace.consents.service import ConsentWithdrawn, require_consent
from marketplace.jobs.models import Job
from marketplace.recordings import service as recordings
from marketplace.recordings.gates import Tier
from marketplace.recordings.models import Recording
from marketplace.recordings.routes import answer as recording_answer
from marketplace.recordings.schemas import NewRecording, RecordingAnswer
from marketplace.shared.idempotency import IdempotencyKeyReused, key_of, request_hash
from marketplace.shared.money import pay_minor
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import (
    KEY_REQUIRED,
    OWN_KEY,
    Grace,
    Session,
    TransactionalRoute,
)
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["claims"])

PayDecider = Annotated[Principal, Depends(person_with(Role.REVIEWER, Role.OPERATOR))]


@router.post(
    "/claims",
    status_code=201,
    operation_id="make_claim",
    response_model=ClaimAnswer,
    dependencies=[OWN_KEY, KEY_REQUIRED],
    responses=documented(
        NotFound,
        service.NotVetted,
        service.RoleTaken,
        service.ClaimLimitReached,
        service.SpeakerShareReached,
        service.TaskClaimedBefore,
        service.JobNotOpen,
        service.ClaimsPaused,
        IdempotencyKeyReused,
    ),
)
async def make_claim(
    body: NewClaim, request: Request, session: Session, performer: Performer
) -> Response:
    """Claim a role: it is yours until the deadline, at the rate in force now, locked for good.

    By claiming you sign the job's licence as shown on the board.
    """
    claim = await service.make(
        session,
        performer_id=performer.person,
        role_id=body.role_id,
        key=key_of(request) or "",
        request_hash=await request_hash(request),
        request_id=request.state.request_id,
    )
    return Response(claim, 201, media_type="application/json")


@router.get("/claims")
async def list_claims(
    session: Session, performer: Performer, page: Annotated[PageQuery, Query()]
) -> Page[ClaimAnswer]:
    """Your claims, newest first."""
    query = select(Claim).where(Claim.performer_id == performer.person)
    found, next_cursor = await newest_first(session, query, col(Claim.id), page)
    items = [ClaimAnswer.model_validate(row.Claim) for row in found]
    return Page(items=items, next_cursor=next_cursor)


# Before `/claims/{claim_id}`, which would take the word for an id.
@router.get("/claims/undecided")
async def list_undecided_claims(
    session: Session, decider: PayDecider, page: Annotated[PageQuery, Query()]
) -> Page[UndecidedClaim]:
    """Ended claims whose pay you may decide, those due first: pay them, or propose to withhold."""
    found, next_cursor = await undecided.claims(session, decider.person, page)
    items = [_undecided(row.Claim, row.seconds) for row in found]
    return Page(items=items, next_cursor=next_cursor)


def _undecided(claim: Claim, seconds: int) -> UndecidedClaim:
    assert claim.pay_due_at is not None
    return UndecidedClaim(
        claim_id=claim.id,
        performer_id=claim.performer_id,
        state=claim.state,
        state_reason=claim.state_reason,
        seconds=seconds,
        pay_minor=pay_minor(seconds, claim.rate_minor_per_hour),
        currency=claim.currency,
        pay_due_at=claim.pay_due_at,
    )


@router.get("/claims/{claim_id}", responses=documented(NotFound))
async def read_claim(claim_id: UUID, session: Session, performer: Performer) -> ClaimAnswer:
    """One of your claims."""
    claim = await service.own_claim(session, claim_id, performer.person)
    return ClaimAnswer.model_validate(claim)


@router.post("/claims/{claim_id}/release", responses=documented(NotFound, MoveNotAllowed))
async def release_claim(
    claim_id: UUID, body: Release, session: Session, performer: Performer, grace: Grace
) -> ClaimAnswer:
    """Give a claim back; the time so far is paid, and the task cannot be claimed again."""
    claim = await service.own_claim(session, claim_id, performer.person)
    released = await service.release(session, claim, reason=body.reason, grace_seconds=grace)
    return ClaimAnswer.model_validate(released)


@router.post(
    "/claims/{claim_id}/time",
    status_code=201,
    responses=documented(NotFound, MoveNotAllowed, time.TimeCapReached),
)
async def start_time(
    claim_id: UUID, body: StartTime, session: Session, performer: Performer, grace: Grace
) -> TimeAnswer:
    """Start an activity, or switch to it: every second of it is paid, up to its cap."""
    claim = await service.own_claim(session, claim_id, performer.person)
    entry = await time.start(session, claim, body.activity, grace_seconds=grace)
    return await _time(session, claim, entry)


@router.post(
    "/claims/{claim_id}/heartbeat",
    responses=documented(NotFound, time.NoRunningTime),
)
async def keep_time_alive(
    claim_id: UUID, session: Session, performer: Performer, grace: Grace
) -> TimeAnswer:
    """Say that you are still at it. If the entry had ended, the answer says when and why."""
    claim = await service.own_claim(session, claim_id, performer.person)
    entry = await time.heartbeat(session, claim, grace_seconds=grace)
    return await _time(session, claim, entry)


@router.post(
    "/claims/{claim_id}/time/stop",
    responses=documented(NotFound, time.NoRunningTime),
)
async def stop_time(
    claim_id: UUID, session: Session, performer: Performer, grace: Grace
) -> TimeAnswer:
    """Stop the running time."""
    claim = await service.own_claim(session, claim_id, performer.person)
    entry = await time.stop(session, claim, grace_seconds=grace)
    return await _time(session, claim, entry)


@router.get("/claims/{claim_id}/time", responses=documented(NotFound))
async def read_time(claim_id: UUID, session: Session, performer: Performer) -> TimeAnswer:
    """Your running total, with every entry."""
    claim = await service.own_claim(session, claim_id, performer.person)
    answer = await _time(session, claim, None)
    entries = await time.entries_of(session, claim.id)
    listed = [TimeEntryAnswer.model_validate(entry) for entry in entries]
    return answer.model_copy(update={"entries": listed})


async def _time(session: Session, claim: Claim, entry: TimeEntry | None) -> TimeAnswer:
    spent = await time.spent_in(session, claim)
    return TimeAnswer(
        **spent.__dict__,
        pay_minor=pay_minor(spent.total_seconds, claim.rate_minor_per_hour),
        currency=claim.currency,
        entry=TimeEntryAnswer.model_validate(entry) if entry else None,
    )


@router.post(
    "/claims/{claim_id}/recordings",
    status_code=201,
    responses=documented(
        NotFound,
        MoveNotAllowed,
        ConsentWithdrawn,
        recordings.UploadTooLarge,
        recordings.TooManyUploads,
        recordings.TooManyTakes,
    ),
)
async def declare_recording(
    claim_id: UUID, body: NewRecording, request: Request, session: Session, performer: Performer
) -> RecordingAnswer:
    """Declare a take's size and SHA-256; then upload exactly those bytes."""
    claim = await service.own_claim(session, claim_id, performer.person)
    if claim.state not in WORKING:
        raise MoveNotAllowed(f"The claim is {claim.state.value}.", state=claim.state.value)
    await require_consent(session, claim.consent_grant_id)
    job = await session.get_one(Job, claim.job_id)
    of_the_claim = select(ClaimRecording.recording_id).where(ClaimRecording.claim_id == claim.id)
    recording = await recordings.declare(
        session,
        owner_id=performer.person,
        client_id=claim.client_id,
        size_bytes=body.size_bytes,
        sha256=body.sha256,
        tier=Tier(job.specification["audio"]["tier"]),
        longest_seconds=job.perform_seconds_cap,
        limit_bytes=request.app.state.settings.upload_limit_bytes,
        beside=col(Recording.id).in_(of_the_claim),
        most_takes=recordings.MOST_TAKES * (1 + claim.retakes_granted),
    )
    session.add(
        ClaimRecording(
            recording_id=recording.id,
            claim_id=claim.id,
            consent_grant_id=claim.consent_grant_id,
        )
    )
    await session.flush()
    return recording_answer(recording)


@router.get("/claims/{claim_id}/recordings", responses=documented(NotFound))
async def list_claim_recordings(
    claim_id: UUID, session: Session, performer: Performer
) -> Page[RecordingAnswer]:
    """The takes of one of your claims, oldest first, with their checks."""
    claim = await service.own_claim(session, claim_id, performer.person)
    found = await session.exec(
        select(Recording)
        .join(ClaimRecording, col(ClaimRecording.recording_id) == Recording.id)
        .where(ClaimRecording.claim_id == claim.id)
        .order_by(col(Recording.id))
    )
    return Page(items=[recording_answer(recording) for recording in found], next_cursor=None)


@router.get("/claims/{claim_id}/pay", responses=documented(NotFound))
async def read_pay_decision(
    claim_id: UUID, session: Session, performer: Performer
) -> PayDecisionAnswer:
    """What the claim's time is paid, and why; 404 while it is not decided."""
    claim = await service.own_claim(session, claim_id, performer.person)
    decision = await settlement.decision_of(session, claim.id)
    if decision is None:
        raise NotFound("The pay of this claim is not decided yet.")
    return PayDecisionAnswer.model_validate(decision)


@router.post(
    "/claims/{claim_id}/pay",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        settlement.PayAlreadyDecided,
        settlement.SecondPersonNeeded,
        ActsForTheClient,
    ),
)
async def pay_claim(claim_id: UUID, session: Session, decider: PayDecider) -> PayDecisionAnswer:
    """Pay the time of a claim that expired or was released, before its due time does."""
    locked = await settlement.lock(session, claim_id)
    await settlement.require_impartial(session, locked.claim, decider.person)
    decision = await settlement.pay_undecided(session, locked.claim, decided_by=decider.person)
    return PayDecisionAnswer.model_validate(decision)


@router.post(
    "/claims/{claim_id}/withholdings",
    status_code=201,
    responses=documented(
        NotFound,
        settlement.PayAlreadyDecided,
        settlement.SecondPersonNeeded,
        ActsForTheClient,
    ),
)
async def propose_withholding(
    claim_id: UUID, body: NewWithholding, session: Session, reviewer: Reviewer
) -> WithholdingAnswer:
    """Propose not to pay an ended claim's time. A second person decides; undecided is paid."""
    locked = await settlement.lock(session, claim_id)
    withholding = await withholdings.propose(
        session, locked, ground=body.ground, reason=body.reason, proposed_by=reviewer.person
    )
    return WithholdingAnswer.model_validate(withholding)


@router.get("/withholdings")
async def list_withholdings(
    session: Session,
    decider: PayDecider,
    query: Annotated[undecided.WithholdingQuery, Query()],
) -> Page[ListedWithholding]:
    """Proposals not to pay, newest first; with `state=proposed` those that wait for a second person."""
    found, next_cursor = await undecided.withholdings(session, decider.person, query)
    items = [_listed(row.Withholding, row.Claim, row.seconds) for row in found]
    return Page(items=items, next_cursor=next_cursor)


def _listed(withholding: Withholding, claim: Claim, seconds: int) -> ListedWithholding:
    return ListedWithholding(
        **WithholdingAnswer.model_validate(withholding).model_dump(),
        created_at=withholding.created_at,
        seconds=seconds,
        pay_minor=pay_minor(seconds, claim.rate_minor_per_hour),
        currency=claim.currency,
        pay_due_at=claim.pay_due_at,
    )


@router.post(
    "/withholdings/{withholding_id}/decision",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        settlement.PayAlreadyDecided,
        settlement.SecondPersonNeeded,
        ActsForTheClient,
    ),
)
async def decide_withholding(
    withholding_id: UUID, body: WithholdingDecision, session: Session, decider: PayDecider
) -> WithholdingAnswer:
    """Confirm or reject a withholding somebody else proposed."""
    withholding = await withholdings.decide(
        session,
        withholding_id=withholding_id,
        confirm=body.confirm,
        reason=body.reason,
        decided_by=decider.person,
    )
    return WithholdingAnswer.model_validate(withholding)
