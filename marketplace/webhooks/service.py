from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.database import rows, take_turns

NUMBERED_AT_ONCE = 10_000


async def feed(
    session: AsyncSession, *, client_id: UUID, after: int, limit: int
) -> list[Mapping[str, Any]]:
    """Up to `limit` events after a position, in an order that never changes.

    What performers say when they give a claim back is not for the client.
    """
    await _number(session, client_id)
    return await rows(
        session,
        "SELECT position, subject_type, subject_id, from_state, to_state,"
        " CASE WHEN claim.performer_id::text IS DISTINCT FROM actor THEN reason END AS reason,"
        " booked_at"
        " FROM feed_event JOIN audit_event ON audit_event.id = audit_event_id"
        " LEFT JOIN claim ON claim.id = subject_id AND subject_type = 'claim'"
        " WHERE feed_event.client_id = :client AND position > :after ORDER BY position LIMIT :limit",
        client=client_id,
        after=after,
        limit=limit,
    )


async def _number(session: AsyncSession, client_id: UUID) -> None:
    """Give the client's committed events their places; one reader at a time does so. Who has not come
    for long finds many: the next ones wait for the next time.
    """
    await take_turns(session, "feed", client_id)
    await session.execute(
        sa.text(
            "WITH taken AS (DELETE FROM outbox WHERE audit_event_id IN ("
            "  SELECT audit_event_id FROM outbox WHERE client_id = :client"
            "  ORDER BY audit_event_id LIMIT :most) RETURNING audit_event_id)"
            " INSERT INTO feed_event (client_id, position, audit_event_id)"
            " SELECT :client, row_number() OVER (ORDER BY audit_event_id) + coalesce("
            "  (SELECT max(position) FROM feed_event WHERE client_id = :client), 0),"
            "  audit_event_id FROM taken"
        ),
        {"client": client_id, "most": NUMBERED_AT_ONCE},
    )
