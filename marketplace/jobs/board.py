"""The board: what this performer may claim now, and why it stands in that order."""

from typing import Annotated
from uuid import UUID

from pydantic import Field
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.jobs.specification import Elicitation
from marketplace.shared.database import rows, statement
from marketplace.shared.pagination import PageQuery, cut, decode_cursor, encode_cursor
from marketplace.shared.schemas import LanguageTag


class BoardQuery(PageQuery):
    job_id: UUID | None = None
    language: LanguageTag | None = None
    elicitation: Elicitation | None = None
    minimum_rate_minor_per_hour: Annotated[int | None, Field(gt=0, le=10**8)] = None


async def page_as_json(session: AsyncSession, *, performer_id: UUID, query: BoardQuery) -> str:
    """A page of board items, built by PostgreSQL and passed through."""
    after = decode_cursor(query.cursor, int, UUID, UUID) or [None, None, None]
    found = await rows(
        session,
        statement("marketplace.jobs", "board.sql"),
        performer=performer_id,
        job=query.job_id,
        language=query.language,
        elicitation=query.elicitation.value if query.elicitation else None,
        minimum_rate=query.minimum_rate_minor_per_hour,
        after_fit=after[0],
        after_job=after[1],
        after_role=after[2],
        rows=query.limit + 1,
    )
    page, last = cut(found, query.limit)
    cursor = encode_cursor(last["fit"], last["job_id"], last["role_id"]) if last else None
    items = ",".join(row["item"] for row in page)
    next_cursor = f'"{cursor}"' if cursor else "null"
    return f'{{"items":[{items}],"next_cursor":{next_cursor}}}'
