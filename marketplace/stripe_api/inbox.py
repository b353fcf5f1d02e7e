"""Events from Stripe: store once, answer, apply later from the object fetched anew.

Events come late, twice, out of order or never. Losing every one of them only delays: the pollers
list events and look at what is pending themselves.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import audit
from marketplace.shared.database import Sessions
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.models import StripeEvent

# Fetches what the event speaks of, outside any transaction, and answers what to do inside one.
Effect = Callable[[AsyncSession], Awaitable[None]]
Handler = Callable[[StripeGateway, StripeEvent], Awaitable[Effect]]

LONGEST_WAIT = timedelta(hours=1)
# Stripe does not promise that events are listed in the order they were created.
OVERLAP = timedelta(minutes=10)


async def store(session: AsyncSession, event: Mapping[str, Any]) -> None:
    """Keep an event; a second delivery of it changes nothing."""
    await session.execute(
        sa.dialects.postgresql.insert(StripeEvent)
        .values(
            id=event["id"],
            type=event["type"],
            account=event.get("account"),
            object_id=event["data"]["object"].get("id", ""),
            created=datetime.fromtimestamp(event["created"], UTC),
            payload=event,
        )
        .on_conflict_do_nothing()
    )


async def apply_due(
    sessions: Sessions, gateway: StripeGateway, handlers: Mapping[str, Handler], *, most: int = 50
) -> int:
    """Apply what is due; one event's failure is kept with it and never stops the others."""
    async with sessions() as session:
        due = (
            await session.exec(
                select(StripeEvent)
                .where(col(StripeEvent.handled_at).is_(None))
                .where(col(StripeEvent.due_at) <= sa.func.marketplace_now())
                .order_by(col(StripeEvent.due_at))
                .limit(most)
            )
        ).all()
    for event in due:
        await _apply(sessions, gateway, handlers, event)
    return len(due)


async def _apply(
    sessions: Sessions, gateway: StripeGateway, handlers: Mapping[str, Handler], event: StripeEvent
) -> None:
    try:
        handler = handlers.get(event.type)
        effect = await handler(gateway, event) if handler else None
        async with sessions() as session:
            if await _take(session, event):
                if effect:
                    await effect(session)
                await _mark_handled(session, event)
            await session.commit()
    except Exception as error:  # noqa: BLE001 - kept with the event, tried again, shown to finance
        await _postpone(sessions, event, error)


async def _take(session: AsyncSession, event: StripeEvent) -> bool:
    """Lock the event, unless another process has it or has handled it."""
    await audit.act_as(session, f"stripe:{event.id}")
    found = await session.exec(
        select(StripeEvent.id)
        .where(StripeEvent.id == event.id, col(StripeEvent.handled_at).is_(None))
        .with_for_update(skip_locked=True)
    )
    return found.first() is not None


async def _mark_handled(session: AsyncSession, event: StripeEvent) -> None:
    await session.execute(
        sa.update(StripeEvent)
        .where(col(StripeEvent.id) == event.id)
        .values(handled_at=sa.func.marketplace_now(), last_error=None)
    )


async def _postpone(sessions: Sessions, event: StripeEvent, error: Exception) -> None:
    wait = min(timedelta(seconds=2 ** min(event.tries, 12)), LONGEST_WAIT)
    async with sessions() as session:
        await session.execute(
            sa.update(StripeEvent)
            .where(col(StripeEvent.id) == event.id, col(StripeEvent.handled_at).is_(None))
            .values(
                tries=StripeEvent.tries + 1,
                due_at=sa.func.marketplace_now() + wait,
                last_error=f"{type(error).__name__}: {error}"[:500],
            )
        )
        await session.commit()


async def poll_events(sessions: Sessions, gateway: StripeGateway) -> int:
    """Store the events that no webhook brought; answers how many were looked at."""
    async with sessions() as session:
        newest = await session.scalar(
            select(sa.func.max(StripeEvent.created)).where(col(StripeEvent.account).is_(None))
        )
    since = newest - OVERLAP if newest else None
    looked_at = 0
    async for event in gateway.list_events(created_from=since):
        async with sessions() as session:
            await store(session, event)
            await session.commit()
        looked_at += 1
    return looked_at
