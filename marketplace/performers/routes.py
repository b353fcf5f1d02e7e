from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import col, select

from marketplace.accounts.principals import Finance, Operator, Performer, Reviewer
from marketplace.performers import auditions, payout_accounts, service
from marketplace.performers import models as tables
from marketplace.performers.models import PerformerState
from marketplace.performers.schemas import (
    AuditionAnswer,
    AuditionDecision,
    HandedInAudition,
    NewAudition,
    NewAuditionRate,
    NewClaimsLimit,
    NewPayoutAccount,
    PayoutAccountAnswer,
    PerformerAnswer,
    Profile,
    StateReason,
    WaitingAuditionAnswer,
)
from marketplace.rates import service as rates
from marketplace.recordings import service as recordings
from marketplace.recordings.gates import Tier
from marketplace.recordings.models import Recording
from marketplace.recordings.routes import TAKE, FileStorage, stream_of
from marketplace.recordings.routes import answer as recording_answer
from marketplace.recordings.schemas import NewRecording, RecordingAnswer
from marketplace.shared import clock
from marketplace.shared.etags import SeenVersion, VersionMissing, VersionOutdated, set_etag
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import (
    KEY_REQUIRED,
    OWN_KEY,
    SECRET_ANSWER,
    Grace,
    Session,
    TransactionalRoute,
)
from marketplace.shared.schemas import Page
from marketplace.stripe_api.routes import Gateway, RefusedByStripe, StripeUnavailable

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["performers"])


class PerformerQuery(PageQuery):
    state: PerformerState | None = None


@router.post("/performer", status_code=201, responses=documented(service.AlreadyApplied))
async def apply_as_performer(
    body: Profile, session: Session, performer: Performer, response: Response
) -> PerformerAnswer:
    """Apply with your profile; next comes a paid audition."""
    applied = await service.apply(session, person_id=performer.person, profile=body)
    set_etag(response, applied.version)
    return PerformerAnswer.model_validate(applied)


@router.get("/performer", responses=documented(NotFound))
async def read_own_profile(
    session: Session, performer: Performer, response: Response
) -> PerformerAnswer:
    """Your profile and your state, with its reason."""
    found = await service.find(session, performer.person)
    set_etag(response, found.version)
    return PerformerAnswer.model_validate(found)


@router.put(
    "/performer",
    responses=documented(NotFound, VersionMissing, VersionOutdated),
)
async def edit_own_profile(
    body: Profile,
    session: Session,
    performer: Performer,
    seen: SeenVersion,
    response: Response,
) -> PerformerAnswer:
    """Replace your profile; send the ETag you read as If-Match."""
    edited = await service.edit_profile(
        session, person_id=performer.person, profile=body, seen=seen
    )
    set_etag(response, edited.version)
    return PerformerAnswer.model_validate(edited)


@router.get("/performers")
async def list_performers(
    session: Session, operator: Operator, query: Annotated[PerformerQuery, Query()]
) -> Page[PerformerAnswer]:
    """Performers, newest first."""
    wanted = select(tables.Performer)
    if query.state is not None:
        wanted = wanted.where(tables.Performer.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(tables.Performer.person_id), query)
    items = [PerformerAnswer.model_validate(row.Performer) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.post("/performers/{person_id}/decline", responses=documented(NotFound, MoveNotAllowed))
async def decline_performer(
    person_id: UUID, body: StateReason, session: Session, operator: Operator
) -> PerformerAnswer:
    """Decline an applicant, with a reason they can read."""
    return await _change(session, person_id, PerformerState.DECLINED, body)


@router.post("/performers/{person_id}/suspend", responses=documented(NotFound, MoveNotAllowed))
async def suspend_performer(
    person_id: UUID, body: StateReason, session: Session, operator: Operator
) -> PerformerAnswer:
    """Suspend a performer: no new claims; live claims finish and are paid."""
    return await _change(session, person_id, PerformerState.SUSPENDED, body)


@router.post("/performers/{person_id}/reinstate", responses=documented(NotFound, MoveNotAllowed))
async def reinstate_performer(
    person_id: UUID, body: StateReason, session: Session, operator: Operator
) -> PerformerAnswer:
    """End a suspension."""
    performer = await service.find(session, person_id)
    if performer.state is not PerformerState.SUSPENDED:
        raise MoveNotAllowed(f"It is {performer.state.value}; only a suspension can be ended.")
    return await _change(session, person_id, PerformerState.VETTED, body)


@router.post("/performers/{person_id}/claims-limit", responses=documented(NotFound))
async def limit_claims(
    person_id: UUID, body: NewClaimsLimit, session: Session, operator: Operator
) -> PerformerAnswer:
    """Set how many claims a performer may have in hand at once; live claims stay."""
    limited = await service.limit_claims(
        session, person_id=person_id, claims_limit=body.claims_limit, reason=body.reason
    )
    return PerformerAnswer.model_validate(limited)


async def _change(
    session: Session, person_id: UUID, to: PerformerState, body: StateReason
) -> PerformerAnswer:
    changed = await service.change_state(session, person_id=person_id, to=to, reason=body.reason)
    return PerformerAnswer.model_validate(changed)


@router.post(
    "/audition-rates",
    status_code=204,
    responses=documented(rates.RateCutNeedsNotice, rates.RateBelowMinimum, rates.TooManyRatesAhead),
)
async def set_audition_rate(body: NewAuditionRate, session: Session, operator: Operator) -> None:
    """Set what an hour of audition pays; its history is kept like every rate's."""
    await auditions.set_rate(
        session,
        currency=body.currency,
        rate_minor_per_hour=body.rate_minor_per_hour,
        reason=body.reason,
        set_by=operator.person,
    )


@router.post(
    "/performers/{person_id}/auditions",
    status_code=201,
    responses=documented(NotFound, auditions.AuditionRateMissing, MoveNotAllowed),
)
async def offer_audition(
    person_id: UUID, body: NewAudition, session: Session, operator: Operator
) -> AuditionAnswer:
    """Offer an applicant a paid audition at the audition rate in force."""
    audition = await auditions.offer(
        session,
        performer_id=person_id,
        brief=body.brief,
        currency=body.currency,
        seconds_cap=body.seconds_cap,
    )
    return AuditionAnswer.model_validate(audition)


@router.get("/audition", responses=documented(NotFound))
async def read_own_audition(session: Session, performer: Performer) -> AuditionAnswer:
    """Your running audition."""
    return AuditionAnswer.model_validate(await auditions.live_audition(session, performer.person))


@router.post(
    "/audition/start", responses=documented(NotFound, MoveNotAllowed, auditions.AuditionOverdue)
)
async def start_audition(session: Session, performer: Performer) -> AuditionAnswer:
    """Start: from now on your time counts while you send heartbeats, up to the cap.

    You have at least a day to hand in.
    """
    return AuditionAnswer.model_validate(
        await auditions.start(session, performer_id=performer.person)
    )


@router.post("/audition/heartbeat", responses=documented(NotFound, auditions.AuditionOverdue))
async def keep_audition_alive(
    session: Session, performer: Performer, grace: Grace
) -> AuditionAnswer:
    """Say that you are still at it. Time without a sign of life is not paid."""
    audition = await auditions.heartbeat(
        session, performer_id=performer.person, grace_seconds=grace
    )
    return AuditionAnswer.model_validate(audition)


@router.post(
    "/audition/recordings",
    status_code=201,
    responses=documented(
        NotFound, recordings.UploadTooLarge, recordings.TooManyUploads, recordings.TooManyTakes
    ),
)
async def declare_audition_recording(
    body: NewRecording, request: Request, session: Session, performer: Performer
) -> RecordingAnswer:
    """Declare the audition's recording; then upload its bytes."""
    audition = await auditions.live_audition(session, performer.person)
    recording = await recordings.declare(
        session,
        owner_id=performer.person,
        client_id=None,
        size_bytes=body.size_bytes,
        sha256=body.sha256,
        tier=Tier.PHONE,
        longest_seconds=audition.seconds_cap,
        limit_bytes=request.app.state.settings.upload_limit_bytes,
        # A performer auditions once.
        beside=col(Recording.client_id).is_(None),
    )
    return recording_answer(recording)


@router.post(
    "/audition/hand-in",
    responses=documented(
        NotFound, MoveNotAllowed, auditions.AuditionOverdue, auditions.RecordingNotUsable
    ),
)
async def hand_in_audition(
    body: HandedInAudition, session: Session, performer: Performer, grace: Grace
) -> AuditionAnswer:
    """Hand the audition in with a recording that passed its checks; your time stops."""
    audition = await auditions.hand_in(
        session,
        performer_id=performer.person,
        recording_id=body.recording_id,
        grace_seconds=grace,
    )
    return AuditionAnswer.model_validate(audition)


@router.get("/auditions")
async def list_waiting_auditions(
    session: Session, reviewer: Reviewer, page: Annotated[PageQuery, Query()]
) -> Page[WaitingAuditionAnswer]:
    """Auditions that wait for a reviewer, oldest first."""
    found, next_cursor = await auditions.waiting(session, reviewer.person, page)
    now = await clock.now(session)
    return Page(items=[_waiting(audition, now) for audition in found], next_cursor=next_cursor)


def _waiting(audition: tables.Audition, now: datetime) -> WaitingAuditionAnswer:
    assert audition.ended_at is not None
    return WaitingAuditionAnswer(
        **audition.model_dump(),
        waiting_since=audition.ended_at,
        late=audition.ended_at + auditions.JUDGED_WITHIN <= now,
    )


@router.get(
    "/auditions/{audition_id}/recording/content",
    response_class=StreamingResponse,
    responses={**TAKE, **documented(NotFound, auditions.OwnAudition)},
)
async def listen_to_audition(
    audition_id: UUID, session: Session, reviewer: Reviewer, storage: FileStorage
) -> StreamingResponse:
    """Listen to an audition that was handed in."""
    recording = await auditions.recording_of(
        session, audition_id=audition_id, reviewer=reviewer.person
    )
    return await stream_of(storage, recording)


@router.post(
    "/auditions/{audition_id}/decision",
    responses=documented(NotFound, MoveNotAllowed, auditions.OwnAudition),
)
async def decide_audition(
    audition_id: UUID, body: AuditionDecision, session: Session, reviewer: Reviewer
) -> AuditionAnswer:
    """Vet or decline; the time is paid either way."""
    audition = await auditions.decide(
        session,
        audition_id=audition_id,
        passed=body.outcome == "passed",
        reason=body.reason,
        reviewer=reviewer.person,
    )
    return AuditionAnswer.model_validate(audition)


@router.post(
    "/payout-account",
    status_code=201,
    dependencies=[OWN_KEY, SECRET_ANSWER],
    responses=documented(
        NotFound, RefusedByStripe, StripeUnavailable, payout_accounts.AccountRetired
    ),
)
async def open_payout_account(
    body: NewPayoutAccount, session: Session, performer: Performer, gateway: Gateway
) -> PayoutAccountAnswer:
    """Get a link to Stripe's page, where you say how you are paid."""
    account, url = await payout_accounts.onboard(
        session, gateway, performer_id=performer.person, return_url=body.return_url
    )
    answered = PayoutAccountAnswer.model_validate(account)
    return answered.model_copy(update={"onboarding_url": url})


@router.get("/payout-account", responses=documented(NotFound))
async def read_payout_account(session: Session, performer: Performer) -> PayoutAccountAnswer:
    """Whether you can be paid, and what Stripe still wants."""
    account = await payout_accounts.read(session, performer.person)
    return PayoutAccountAnswer.model_validate(account)


@router.post(
    "/performers/{person_id}/payout-account/retire",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, payout_accounts.OwnPayoutAccount),
)
async def retire_payout_account(
    person_id: UUID, body: StateReason, session: Session, finance: Finance
) -> PayoutAccountAnswer:
    """Pay nothing to this account any more: the performer opens another one, which cools first."""
    account = await payout_accounts.retire(
        session, performer_id=person_id, reason=body.reason, retired_by=finance.person
    )
    return PayoutAccountAnswer.model_validate(account)
