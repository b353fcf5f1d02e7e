from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlmodel import col, select

from marketplace.accounts.principals import Finance
from marketplace.payouts import edits, outcomes, service
from marketplace.payouts.models import (
    Payout,
    PayoutAttempt,
    PayoutExclusion,
    PayoutRun,
    PayoutState,
)
from marketplace.payouts.schemas import (
    AttemptAnswer,
    Decision,
    ExclusionAnswer,
    NewPayoutRun,
    PayoutAnswer,
    PayoutDetail,
    PayoutRunAnswer,
    PayoutRunSummary,
)
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import Conflict, MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["payouts"])


class PayoutQuery(PageQuery):
    state: PayoutState | None = None


@router.post(
    "/payout-runs",
    status_code=201,
    dependencies=[KEY_REQUIRED],
)
async def draft_payout_run(
    body: NewPayoutRun, request: Request, session: Session, finance: Finance
) -> PayoutRunAnswer:
    """Draft a run of everything owed by now. Somebody else approves it."""
    run = await service.draft(
        session,
        currency=body.currency,
        minimum_minor=request.app.state.settings.minimum_payout_minor,
        prepared_by=finance.person,
    )
    assert run is not None  # only a scheduled slot can be taken
    return await _answer(session, run)


@router.get("/payout-runs")
async def list_payout_runs(
    session: Session, finance: Finance, page: Annotated[PageQuery, Query()]
) -> Page[PayoutRunSummary]:
    """Payout runs, newest first."""
    found, next_cursor = await newest_first(session, select(PayoutRun), col(PayoutRun.id), page)
    items = [PayoutRunSummary.model_validate(row.PayoutRun) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/payout-runs/{run_id}", responses=documented(NotFound))
async def read_payout_run(run_id: UUID, session: Session, finance: Finance) -> PayoutRunAnswer:
    """One run and its totals."""
    return await _answer(session, await service.find_run(session, run_id))


@router.post(
    "/payout-runs/{run_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.PreparerMayNotApprove,
        service.EditorMayNotApprove,
        service.OwnPayout,
    ),
)
async def approve_payout_run(run_id: UUID, session: Session, finance: Finance) -> PayoutRunAnswer:
    """Approve a run somebody else prepared; its payouts are sent from now on."""
    run = await service.approve(session, run_id=run_id, approver=finance.person)
    return await _answer(session, run)


@router.post(
    "/payout-runs/{run_id}/pause",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed),
)
async def pause_payout_run(
    run_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutRunAnswer:
    """Begin no new transfer of an approved run; what is on its way goes on."""
    return await _answer(session, await service.pause(session, run_id=run_id, reason=body.reason))


@router.post(
    "/payout-runs/{run_id}/resume",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.PreparerMayNotApprove,
        service.EditorMayNotApprove,
        service.OwnPayout,
    ),
)
async def resume_payout_run(
    run_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutRunAnswer:
    """Let a paused run go on; whoever may approve it may."""
    run = await service.resume(session, run_id=run_id, reason=body.reason, resumer=finance.person)
    return await _answer(session, run)


@router.post(
    "/payout-runs/{run_id}/discard",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, service.PartlySent),
)
async def discard_payout_run(
    run_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutRunAnswer:
    """Give a draft up of which nothing was sent; what is owed waits for the next run."""
    return await _answer(session, await service.discard(session, run_id=run_id, reason=body.reason))


@router.get("/payout-runs/{run_id}/payouts", responses=documented(NotFound))
async def list_payouts(
    run_id: UUID, session: Session, finance: Finance, query: Annotated[PayoutQuery, Query()]
) -> Page[PayoutAnswer]:
    """A run's payouts, newest first."""
    await service.find_run(session, run_id)
    wanted = select(Payout).where(Payout.run_id == run_id)
    if query.state is not None:
        wanted = wanted.where(Payout.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Payout.id), query)
    items = [PayoutAnswer.model_validate(row.Payout) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/payout-runs/{run_id}/exclusions", responses=documented(NotFound))
async def list_exclusions(
    run_id: UUID, session: Session, finance: Finance, page: Annotated[PageQuery, Query()]
) -> Page[ExclusionAnswer]:
    """Who is owed money but not in the run, why, and what they can do."""
    await service.find_run(session, run_id)
    wanted = select(PayoutExclusion).where(PayoutExclusion.run_id == run_id)
    found, next_cursor = await newest_first(session, wanted, col(PayoutExclusion.id), page)
    items = [ExclusionAnswer.model_validate(row.PayoutExclusion) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/payouts/{payout_id}", responses=documented(NotFound))
async def read_payout(payout_id: UUID, session: Session, finance: Finance) -> PayoutDetail:
    """One payout with every attempt at Stripe."""
    return await _detail(session, await service.find_payout(session, payout_id))


@router.post(
    "/payouts/{payout_id}/release",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, service.OwnPayout),
)
async def release_payout(
    payout_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutDetail:
    """Give one payout up before it is sent; its earnings are free for the next run.

    If others of its run are not sent yet, the run's approval is void: somebody else approves again.
    """
    payout = await edits.release(
        session, payout_id=payout_id, reason=body.reason, editor=finance.person
    )
    return await _detail(session, payout)


@router.post(
    "/payouts/{payout_id}/hold",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, service.OwnPayout),
)
async def hold_payout(
    payout_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutDetail:
    """Keep one approved payout back until somebody approves it again.

    If others of its run are not sent yet, the run's approval is void: somebody else approves again.
    """
    payout = await edits.hold(
        session, payout_id=payout_id, reason=body.reason, editor=finance.person
    )
    return await _detail(session, payout)


@router.post(
    "/payouts/{payout_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.PreparerMayNotApprove,
        service.EditorMayNotApprove,
        service.OwnPayout,
        service.RunNotApproved,
        Conflict,
    ),
)
async def approve_payout_again(
    payout_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutDetail:
    """Let a held or refused payout be tried again."""
    payout = await service.approve_again(
        session, payout_id=payout_id, reason=body.reason, approver=finance.person
    )
    return await _detail(session, payout)


@router.post(
    "/payouts/{payout_id}/absent",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.PreparerMayNotApprove,
        service.OwnPayout,
        outcomes.NotProvenAbsent,
    ),
)
async def decide_payout_absent(
    payout_id: UUID, body: Decision, session: Session, finance: Finance
) -> PayoutDetail:
    """End an unknown outcome that a look-up did not find at Stripe: it counts as refused."""
    payout = await outcomes.decide_absent(
        session, payout_id=payout_id, reason=body.reason, decider=finance.person
    )
    return await _detail(session, payout)


@router.post(
    "/payouts/{payout_id}/reissue",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.OwnPayout,
        service.NeverLost,
        service.EarningsInAnotherPayout,
    ),
)
async def reissue_payout(payout_id: UUID, session: Session, finance: Finance) -> PayoutRunAnswer:
    """Draft a run of one payout, exactly as this one was that was given up. Somebody else approves it.

    For a transfer that Stripe made of it after all: that one is booked, and no other is sent.
    """
    run = await service.reissue(session, payout_id=payout_id, prepared_by=finance.person)
    return await _answer(session, run)


async def _answer(session: Session, run: PayoutRun) -> PayoutRunAnswer:
    totals = await service.totals(session, run.id)
    return PayoutRunAnswer(**run.model_dump(), **totals.__dict__)


async def _detail(session: Session, payout: Payout) -> PayoutDetail:
    found = await session.exec(
        select(PayoutAttempt)
        .where(PayoutAttempt.payout_id == payout.id)
        .order_by(col(PayoutAttempt.number))
    )
    attempts = [AttemptAnswer.model_validate(attempt) for attempt in found]
    return PayoutDetail(**payout.model_dump(), attempts=attempts)
