import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.principals import Finance
from marketplace.exceptions import service
from marketplace.exceptions.models import LineBooking, LineBookingState
from marketplace.exceptions.schemas import (
    LINE,
    ExceptionAnswer,
    LineBookingAnswer,
    LineBookingDecision,
    NewLineBooking,
)
from marketplace.shared.pagination import (
    PageQuery,
    cut,
    decode_cursor,
    encode_cursor,
    newest_first,
)
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["exceptions"])

LINE_ID = r"^[0-9A-Za-z_-]+$"
LineId = Annotated[str, Path(max_length=255, pattern=LINE_ID, examples=[LINE])]


class LineBookingQuery(PageQuery):
    state: LineBookingState | None = None


@router.get("/exceptions")
async def list_exceptions(
    session: Session, finance: Finance, page: Annotated[PageQuery, Query()]
) -> Page[ExceptionAnswer]:
    """What Stripe's lines have and no event of ours explains, oldest first."""
    after = decode_cursor(page.cursor, datetime.fromisoformat, _line_id)
    found = await service.find_open(
        session, most=page.limit + 1, after=(after[0], after[1]) if after else None
    )
    shown, last = cut(found, page.limit)
    items = [
        ExceptionAnswer(**{**row, "line_id": row["id"], "net_minor": row["stripe_net_minor"]})
        for row in shown
    ]
    cursor = encode_cursor(last["created_at"].isoformat(), last["id"]) if last else None
    return Page(items=items, next_cursor=cursor)


def _line_id(text: str) -> str:
    if re.fullmatch(LINE_ID, text) is None:
        raise ValueError(text)
    return text


@router.post(
    "/exceptions/{line_id}/bookings",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        ActsForTheClient,
        service.NoException,
        service.LineWaits,
        service.NotBookableAs,
        service.AlreadyProposed,
    ),
)
async def propose_line_booking(
    line_id: LineId, body: NewLineBooking, session: Session, finance: Finance
) -> LineBookingAnswer:
    """Say what a line is; a second person approves it, and only then it is booked."""
    booking = await service.propose(
        session,
        line_id=line_id,
        booked_as=body.booked_as,
        reason=body.reason,
        proposed_by=finance.person,
    )
    return LineBookingAnswer.model_validate(booking)


@router.get("/line-bookings")
async def list_line_bookings(
    session: Session, finance: Finance, query: Annotated[LineBookingQuery, Query()]
) -> Page[LineBookingAnswer]:
    """What finance said of Stripe's lines, newest first."""
    wanted = select(LineBooking)
    if query.state is not None:
        wanted = wanted.where(LineBooking.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(LineBooking.id), query)
    items = [LineBookingAnswer.model_validate(row.LineBooking) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/line-bookings/{booking_id}", responses=documented(NotFound))
async def read_line_booking(
    booking_id: UUID, session: Session, finance: Finance
) -> LineBookingAnswer:
    """What was said of one line, and by whom."""
    return LineBookingAnswer.model_validate(await service.find(session, booking_id))


@router.post(
    "/line-bookings/{booking_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        service.ProposerMayNotApprove,
        ActsForTheClient,
        service.LineBookedMeanwhile,
        service.LineWaits,
        service.CapitalMissing,
    ),
)
async def approve_line_booking(
    booking_id: UUID, session: Session, finance: Finance
) -> LineBookingAnswer:
    """Book the line as somebody else said."""
    booking = await service.approve(session, booking_id=booking_id, approver=finance.person)
    return LineBookingAnswer.model_validate(booking)


@router.post(
    "/line-bookings/{booking_id}/discard",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed, ActsForTheClient),
)
async def discard_line_booking(
    booking_id: UUID, body: LineBookingDecision, session: Session, finance: Finance
) -> LineBookingAnswer:
    """It is something else; the line waits on."""
    booking = await service.discard(
        session, booking_id=booking_id, reason=body.reason, decided_by=finance.person
    )
    return LineBookingAnswer.model_validate(booking)
