from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.principals import Finance
from marketplace.claims.settlement import SecondPersonNeeded
from marketplace.corrections import service
from marketplace.corrections.models import Correction, CorrectionKind, CorrectionState
from marketplace.corrections.schemas import (
    CorrectionAnswer,
    CorrectionDecision,
    NewCorrection,
    NewPayCorrection,
)
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["corrections"])


class CorrectionQuery(PageQuery):
    state: CorrectionState | None = None
    performer_id: UUID | None = None


@router.post(
    "/claims/{claim_id}/corrections",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        SecondPersonNeeded,
        ActsForTheClient,
        service.PayNotDecided,
        service.NothingToCorrect,
        service.CorrectionProposed,
    ),
)
async def propose_pay_correction(
    claim_id: UUID, body: NewPayCorrection, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Propose another total for a claim's pay. Somebody else approves it.

    Then the difference is booked.
    """
    correction = await service.propose_pay(
        session,
        claim_id=claim_id,
        seconds=body.seconds,
        reason=body.reason,
        proposed_by=finance.person,
    )
    return CorrectionAnswer.model_validate(correction)


async def _proposed(
    session: Session,
    kind: CorrectionKind,
    performer_id: UUID,
    body: NewCorrection,
    proposed_by: UUID,
) -> CorrectionAnswer:
    correction = await service.propose(
        session,
        kind=kind,
        performer_id=performer_id,
        currency=body.currency,
        amount_minor=body.amount_minor,
        reason=body.reason,
        proposed_by=proposed_by,
    )
    return CorrectionAnswer.model_validate(correction)


@router.post(
    "/performers/{performer_id}/adjustments",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, SecondPersonNeeded),
)
async def propose_adjustment(
    performer_id: UUID, body: NewCorrection, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Propose that the platform pays a performer something more."""
    return await _proposed(session, CorrectionKind.PAY_ADJUSTED, performer_id, body, finance.person)


@router.post(
    "/performers/{performer_id}/nettings",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound, SecondPersonNeeded, service.NotThatMuchOwed, service.NotThatMuchPayable
    ),
)
async def propose_netting(
    performer_id: UUID, body: NewCorrection, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Propose to take a performer's debt off the pay that is in no run yet."""
    return await _proposed(
        session, CorrectionKind.RECEIVABLE_NETTED, performer_id, body, finance.person
    )


@router.post(
    "/performers/{performer_id}/write-offs",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, SecondPersonNeeded, service.NotThatMuchOwed),
)
async def propose_write_off(
    performer_id: UUID, body: NewCorrection, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Propose to give a performer's debt up."""
    return await _proposed(
        session, CorrectionKind.RECEIVABLE_WRITTEN_OFF, performer_id, body, finance.person
    )


@router.get("/corrections")
async def list_corrections(
    session: Session, finance: Finance, query: Annotated[CorrectionQuery, Query()]
) -> Page[CorrectionAnswer]:
    """Corrections, newest first."""
    wanted = select(Correction)
    if query.state is not None:
        wanted = wanted.where(Correction.state == query.state)
    if query.performer_id is not None:
        wanted = wanted.where(Correction.performer_id == query.performer_id)
    found, next_cursor = await newest_first(session, wanted, col(Correction.id), query)
    items = [CorrectionAnswer.model_validate(row.Correction) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/corrections/{correction_id}", responses=documented(NotFound))
async def read_correction(
    correction_id: UUID, session: Session, finance: Finance
) -> CorrectionAnswer:
    """One correction: what it changes, why, and who decided."""
    return CorrectionAnswer.model_validate(await service.find(session, correction_id))


@router.post(
    "/corrections/{correction_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        SecondPersonNeeded,
        ActsForTheClient,
        service.BookedOtherwiseSince,
        service.NotThatMuchOwed,
        service.NotThatMuchPayable,
    ),
)
async def approve_correction(
    correction_id: UUID, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Approve what somebody else proposed; it is booked at once."""
    correction = await service.approve(
        session, correction_id=correction_id, approver=finance.person
    )
    return CorrectionAnswer.model_validate(correction)


@router.post(
    "/corrections/{correction_id}/reject",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, SecondPersonNeeded, ActsForTheClient),
)
async def reject_correction(
    correction_id: UUID, body: CorrectionDecision, session: Session, finance: Finance
) -> CorrectionAnswer:
    """Say no to what somebody else proposed."""
    correction = await service.reject(
        session, correction_id=correction_id, reason=body.reason, rejecter=finance.person
    )
    return CorrectionAnswer.model_validate(correction)
