"""What waits for somebody's word on its pay, as far as the asking person may give it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims.models import Claim, Withholding, WithholdingState
from marketplace.claims.settlement import is_impartial
from marketplace.claims.time import worked_seconds
from marketplace.shared.pagination import (
    PageQuery,
    cut,
    decode_cursor,
    encode_cursor,
    newest_first,
)


class WithholdingQuery(PageQuery):
    state: WithholdingState | None = None


async def claims(
    session: AsyncSession, person_id: UUID, page: PageQuery
) -> tuple[list[Any], str | None]:
    """Ended claims without a pay decision, those due first, with their seconds."""
    place = sa.tuple_(col(Claim.pay_due_at), col(Claim.id))
    query = select(Claim, worked_seconds.label("seconds")).where(
        col(Claim.pay_due_at).is_not(None), is_impartial(person_id)
    )
    after = decode_cursor(page.cursor, _moment, UUID)
    if after is not None:
        query = query.where(place > sa.tuple_(*after))
    query = query.order_by(col(Claim.pay_due_at), col(Claim.id)).limit(page.limit + 1)
    rows, last = cut(list((await session.execute(query)).all()), page.limit)
    return rows, encode_cursor(last.Claim.pay_due_at, last.Claim.id) if last else None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


async def withholdings(
    session: AsyncSession, person_id: UUID, asked: WithholdingQuery
) -> tuple[list[Any], str | None]:
    """Proposals not to pay, newest first, each with its claim and that claim's seconds."""
    query = (
        select(Withholding, Claim, worked_seconds.label("seconds"))
        .join(Claim, col(Claim.id) == Withholding.claim_id)
        .where(is_impartial(person_id))
    )
    if asked.state is not None:
        query = query.where(Withholding.state == asked.state)
    return await newest_first(session, query, col(Withholding.id), asked)
