from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from marketplace.accounts.models import Scope
from marketplace.accounts.principals import Principal, client_with
from marketplace.shared.pagination import PageQuery, decode_cursor, encode_cursor
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.schemas import Answer
from marketplace.webhooks import service

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["events"])

EventReader = Annotated[Principal, Depends(client_with(Scope.EVENTS_READ))]


class EventAnswer(Answer):
    position: int = Field(description="1, 2, 3 … without a gap, for your client.", examples=[128])
    type: str = Field(examples=["claim.submitted"])
    subject_type: str = Field(examples=["claim"])
    subject_id: UUID
    from_state: str | None = Field(examples=["in_session"])
    to_state: str = Field(examples=["submitted"])
    reason: str | None = Field(examples=[None])
    at: datetime


class EventPage(Answer):
    items: list[EventAnswer]
    next_cursor: str = Field(
        examples=["WyIxMjgiXQ"],
        description="Keep it and ask again later: it continues where this page ended, even when "
        "the page is empty.",
    )


@router.get("/events")
async def list_events(
    session: Session, client: EventReader, page: Annotated[PageQuery, Query()]
) -> EventPage:
    """Every move of your jobs, roles, claims, recordings and submissions, oldest first.

    And every consent a performer withdraws from you, as `consent_grant.withdrawn`: delete its takes.
    """
    (after,) = decode_cursor(page.cursor, int) or [0]
    found = await service.feed(session, client_id=client.client, after=after, limit=page.limit)
    items = [
        EventAnswer(
            **{name: value for name, value in row.items() if name != "booked_at"},
            type=f"{row['subject_type']}.{row['to_state']}",
            at=row["booked_at"],
        )
        for row in found
    ]
    return EventPage(items=items, next_cursor=encode_cursor(items[-1].position if items else after))
