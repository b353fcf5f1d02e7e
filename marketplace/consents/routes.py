from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlmodel import col, select

from marketplace.accounts.principals import Performer
from marketplace.consents import service
from marketplace.consents.models import ConsentGrant, ConsentWithdrawal
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.schemas import Answer, Body, Page, Reason

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["consents"])


class Withdrawal(Body):
    reason: Reason | None = None


class ConsentAnswer(Answer):
    id: UUID
    client_id: UUID
    licence_version: str
    licence_sha256: str
    allowed_uses: list[str]
    forbidden_uses: list[str]
    territory: str
    exclusive: bool
    term_ends_at: datetime | None
    consideration: str
    signed_at: datetime
    withdrawn_at: datetime | None = None


@router.get("/consents")
async def list_consents(
    session: Session, performer: Performer, page: Annotated[PageQuery, Query()]
) -> Page[ConsentAnswer]:
    """Every consent you gave, newest first, and whether you took it back."""
    query = (
        select(ConsentGrant, ConsentWithdrawal.withdrawn_at)
        .outerjoin(ConsentWithdrawal, col(ConsentWithdrawal.consent_grant_id) == ConsentGrant.id)
        .where(ConsentGrant.performer_id == performer.person)
    )
    found, next_cursor = await newest_first(session, query, col(ConsentGrant.id), page)
    items = [_answer(row.ConsentGrant, row.withdrawn_at) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.post("/consents/{consent_id}/withdraw", responses=documented(NotFound))
async def withdraw_consent(
    consent_id: UUID, body: Withdrawal, session: Session, performer: Performer
) -> ConsentAnswer:
    """Take a consent back. Downloads of its takes stop at once; your pay stays yours."""
    grant = await service.own_grant(session, consent_id, performer.person)
    withdrawal = await service.withdraw(session, grant, reason=body.reason)
    return _answer(grant, withdrawal.withdrawn_at)


def _answer(grant: ConsentGrant, withdrawn_at: datetime | None) -> ConsentAnswer:
    return ConsentAnswer.model_validate(grant).model_copy(update={"withdrawn_at": withdrawn_at})
