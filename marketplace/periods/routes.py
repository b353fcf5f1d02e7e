from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from marketplace.accounts.principals import Finance
from marketplace.periods import service
from marketplace.periods.schemas import (
    Journal,
    Month,
    PeriodAnswer,
    PeriodSummary,
    Reopening,
    answer,
    first_day_of,
)
from marketplace.reports.routes import report_of
from marketplace.reports.tables import Format, respond
from marketplace.shared import clock
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["periods"])

AsFormat = Annotated[Format, Query(alias="format")]


@router.get("/periods")
async def list_periods(session: Session, finance: Finance) -> Page[PeriodSummary]:
    """Every month since the first booking, newest first."""
    months = await service.months(session)
    items = [PeriodSummary(month=f"{day:%Y-%m}", state=state) for day, state in months]
    return Page(items=items, next_cursor=None)


@router.get("/periods/{month}", responses=documented(NotFound))
async def read_period(month: Month, session: Session, finance: Finance) -> PeriodAnswer:
    """The month's books beside Stripe's, and what is in the way of closing it. Closed: as found."""
    period = await service.find(session, first_day_of(month))
    found = period.findings if period.closed_at else None
    return answer(period, found or await service.look_through(session, period))


@router.post(
    "/periods/{month}/close",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.PeriodNotOver,
        service.EarlierPeriodOpen,
        service.BooksNotInOrder,
    ),
)
async def start_closing_period(month: Month, session: Session, finance: Finance) -> PeriodAnswer:
    """Find a month in order; a second person then confirms it closed."""
    period = await service.lock(session, first_day_of(month))
    period = await service.start_closing(session, period, closing_by=finance.person)
    assert period.findings is not None
    return answer(period, period.findings)


@router.post(
    "/periods/{month}/confirm",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.CloserMayNotConfirm,
        service.EarlierPeriodOpen,
        service.BooksNotInOrder,
    ),
)
async def confirm_closed_period(month: Month, session: Session, finance: Finance) -> PeriodAnswer:
    """Close a month that somebody else found in order. Nothing is booked into it any more."""
    period = await service.lock(session, first_day_of(month))
    period = await service.close(session, period, closed_by=finance.person)
    assert period.findings is not None
    return answer(period, period.findings)


@router.post("/periods/{month}/reopen", responses=documented(NotFound, MoveNotAllowed))
async def reopen_period(
    month: Month, body: Reopening, session: Session, finance: Finance
) -> PeriodAnswer:
    """Send a month that waits for its confirmation back; a closed one stays closed."""
    period = await service.lock(session, first_day_of(month))
    period = await service.reopen(session, period, reason=body.reason)
    return answer(period, await service.look_through(session, period))


async def settled_moment(session: Session, finance: Finance) -> datetime:
    """Now, when nothing stamped earlier is still on its way."""
    return await clock.settle_writes(session)


@router.get(
    "/periods/{month}/journal",
    response_class=Response,
    responses={**report_of(Journal), **documented(NotFound)},
)
async def read_journal(
    month: Month,
    session: Session,
    finance: Finance,
    now: Annotated[datetime, Depends(settled_moment)],
    format_: AsFormat = Format.JSON,
) -> Response:
    """Every entry of a month, debits and credits, and the accrual of what was not decided yet."""
    period = await service.find(session, first_day_of(month))
    return respond(await service.journal(session, period, now), format_)
