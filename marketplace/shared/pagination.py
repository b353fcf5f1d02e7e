"""Keyset pages: a cursor names the last row seen, so that pages stay right while rows arrive."""

import base64
import json
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.problems import InvalidField

BIGINT = range(-(2**63), 2**63)


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="Rows per page")] = 50
    cursor: Annotated[str | None, Field(max_length=500)] = None


def encode_cursor(*values: Any) -> str:
    text = json.dumps([str(value) for value in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: Any) -> list[Any] | None:
    """The values of `encode_cursor`, each read by its kind; None for the first page."""
    if cursor is None:
        return None
    try:
        return [_read(kind, text) for kind, text in zip(kinds, _texts(cursor), strict=True)]
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise InvalidField("query.cursor", "is not a cursor of this list") from error


def _texts(cursor: str) -> list[str]:
    padded = cursor + "=" * (-len(cursor) % 4)
    values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise TypeError("encode_cursor writes a list of texts")
    return values


def _read(kind: Any, text: str) -> Any:
    value = kind(text)
    if isinstance(value, int) and value not in BIGINT:
        raise OverflowError("the database's integers have 64 bits")
    return value


def cut(rows: list[Any], limit: int) -> tuple[list[Any], Any | None]:
    """Of `limit + 1` rows asked for: the page, and its last row if another page follows."""
    page = rows[:limit]
    return page, page[-1] if len(rows) > limit else None


async def newest_first(
    session: AsyncSession, query: Any, id_column: Any, page: PageQuery
) -> tuple[list[Any], str | None]:
    """A page of any query in order of its UUIDv7 ids, newest first, and the next cursor."""
    after = decode_cursor(page.cursor, UUID)
    if after is not None:
        query = query.where(id_column < after[0])
    query = query.add_columns(id_column.label("keyset_id"))
    found = (await session.execute(query.order_by(id_column.desc()).limit(page.limit + 1))).all()
    rows, last = cut(list(found), page.limit)
    return rows, encode_cursor(last.keyset_id) if last is not None else None
