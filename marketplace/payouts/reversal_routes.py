"""Reversals over HTTP: money that comes back of a payout."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlmodel import col, select

from marketplace.accounts.principals import Finance
from marketplace.payouts import outcomes, reversals, service
from marketplace.payouts.models import ReversalState, TransferReversal
from marketplace.payouts.schemas import (
    Decision,
    NewReversal,
    ReversalAnswer,
    ReversalExplanation,
)
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page
from marketplace.stripe_api.booked_lines import LineBookedOtherwise

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["payouts"])


class ReversalQuery(PageQuery):
    state: ReversalState | None = None


@router.post(
    "/payouts/{payout_id}/reversals",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.OwnPayout,
        reversals.MoreThanWasPaid,
        reversals.ReversalAtWork,
    ),
)
async def ask_for_reversal(
    payout_id: UUID, body: NewReversal, session: Session, finance: Finance
) -> ReversalAnswer:
    """Ask for a paid payout, or a part of it, to come back. Somebody else approves it."""
    reversal = await reversals.ask(
        session,
        payout_id=payout_id,
        amount_minor=body.amount_minor,
        cause=body.cause,
        reason=body.reason,
        asked_by=finance.person,
    )
    return ReversalAnswer.model_validate(reversal)


@router.get("/reversals")
async def list_reversals(
    session: Session, finance: Finance, query: Annotated[ReversalQuery, Query()]
) -> Page[ReversalAnswer]:
    """Reversals, newest first; those `found` at Stripe wait for somebody to say what they are."""
    wanted = select(TransferReversal)
    if query.state is not None:
        wanted = wanted.where(TransferReversal.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(TransferReversal.id), query)
    items = [ReversalAnswer.model_validate(row.TransferReversal) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/reversals/{reversal_id}", responses=documented(NotFound))
async def read_reversal(reversal_id: UUID, session: Session, finance: Finance) -> ReversalAnswer:
    """One reversal: who asked, who approved, and what Stripe said."""
    return ReversalAnswer.model_validate(await reversals.find(session, reversal_id))


BY_TWO = documented(NotFound, MoveNotAllowed, service.OwnPayout, reversals.AskerMayNotApprove)


@router.post(
    "/reversals/{reversal_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.OwnPayout,
        reversals.AskerMayNotApprove,
        LineBookedOtherwise,
    ),
)
async def approve_reversal(reversal_id: UUID, session: Session, finance: Finance) -> ReversalAnswer:
    """Approve what somebody else asked for: it is sent, or booked if Stripe has it already."""
    reversal = await reversals.approve(session, reversal_id=reversal_id, approver=finance.person)
    return ReversalAnswer.model_validate(reversal)


@router.post("/reversals/{reversal_id}/reject", dependencies=[KEY_REQUIRED], responses=BY_TWO)
async def reject_reversal(
    reversal_id: UUID, body: Decision, session: Session, finance: Finance
) -> ReversalAnswer:
    """Say no to what somebody else asked for."""
    reversal = await reversals.reject(
        session, reversal_id=reversal_id, reason=body.reason, rejecter=finance.person
    )
    return ReversalAnswer.model_validate(reversal)


@router.post(
    "/reversals/{reversal_id}/explain",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, service.OwnPayout),
)
async def explain_reversal(
    reversal_id: UUID, body: ReversalExplanation, session: Session, finance: Finance
) -> ReversalAnswer:
    """Say what a reversal is that Stripe has and nobody here asked for. Somebody else approves."""
    reversal = await reversals.explain(
        session,
        reversal_id=reversal_id,
        cause=body.cause,
        reason=body.reason,
        asked_by=finance.person,
    )
    return ReversalAnswer.model_validate(reversal)


@router.post(
    "/reversals/{reversal_id}/absent",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.OwnPayout,
        reversals.AskerMayNotApprove,
        outcomes.NotProvenAbsent,
    ),
)
async def decide_reversal_absent(
    reversal_id: UUID, body: Decision, session: Session, finance: Finance
) -> ReversalAnswer:
    """End an unknown outcome that a look-up did not find at Stripe: it counts as refused."""
    reversal = await reversals.decide_absent(
        session, reversal_id=reversal_id, reason=body.reason, decider=finance.person
    )
    return ReversalAnswer.model_validate(reversal)
