"""Events from Stripe: store once, answer, apply later from the object fetched anew.

Events come late, twice, out of order or never. Losing every one of them only delays: the pollers
list events and look at what is pending themselves.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions
from marketplace.shared.problems import BadRequest
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import (
    NO_SUCH_OBJECT,
    StripeMisconfigured,
    StripeRefused,
)
from marketplace.stripe_api.models import PollMark, StripeEvent

log = logging.getLogger(__name__)

# Fetches what the event speaks of, outside any transaction, and answers what to do inside one.
Effect = Callable[[AsyncSession], Awaitable[None]]
Handler = Callable[[Sessions, StripeGateway, StripeEvent], Awaitable[Effect]]

LONGEST_WAIT = timedelta(hours=1)
# Longer than a call to Stripe may take. When an event wants more time than this, two may ask about it,
# and one applies it.
LEASE = timedelta(seconds=60)
# Stripe does not promise that events are listed in the order they were created.
OVERLAP = timedelta(minutes=10)
# Year 9999: what a timestamp of ours can still hold.
LAST_SECOND = 253_370_764_800


class EventUnreadable(BadRequest):
    """This event is not of the shape that Stripe documents; it was not stored."""

    code = "event_unreadable"


class _Object(BaseModel):
    # An event about a balance speaks of an object without an id.
    id: str | None = None


class _Data(BaseModel):
    object: _Object


class _Event(BaseModel):
    """What every event has (https://docs.stripe.com/api/events/object); more is welcome."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=255)]
    type: Annotated[str, Field(min_length=1, max_length=255)]
    account: str | None = None
    created: Annotated[int, Field(ge=0, lt=LAST_SECOND)]
    data: _Data


async def store(session: AsyncSession, event: Mapping[str, Any]) -> None:
    """Keep an event; a second delivery of it changes nothing. Raises EventUnreadable."""
    try:
        told = _Event.model_validate(event)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise EventUnreadable(f"{field}: {error.errors()[0]['msg']}") from error
    await session.execute(
        sa.dialects.postgresql.insert(StripeEvent)
        .values(
            id=told.id,
            type=told.type,
            account=told.account,
            object_id=told.data.object.id or "",
            created=datetime.fromtimestamp(told.created, UTC),
            payload=event,
        )
        .on_conflict_do_nothing()
    )


async def apply_due(
    sessions: Sessions, gateway: StripeGateway, handlers: Mapping[str, Handler], *, most: int = 50
) -> int:
    """Apply what is due; one event's failure is kept with it and never stops the others."""
    applied = 0
    while applied < most and (event := await _take_due(sessions)) is not None:
        await _apply(sessions, gateway, handlers, event)
        applied += 1
    return applied


async def _take_due(sessions: Sessions) -> StripeEvent | None:
    """Lease one due event, so that no other process asks Stripe about it meanwhile."""
    async with sessions() as session:
        found = await session.exec(
            select(StripeEvent)
            .where(col(StripeEvent.handled_at).is_(None))
            .where(col(StripeEvent.due_at) <= sa.func.marketplace_now())
            .order_by(col(StripeEvent.due_at))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        event = found.first()
        if event is not None:
            event.due_at = await clock.now(session) + LEASE
        await session.commit()
        return event


async def _apply(
    sessions: Sessions, gateway: StripeGateway, handlers: Mapping[str, Handler], event: StripeEvent
) -> None:
    try:
        handler = handlers.get(event.type)
        effect = await handler(sessions, gateway, event) if handler else None
        async with sessions() as session:
            if await _is_unhandled(session, event):
                if effect:
                    await effect(session)
                await _mark_handled(session, event)
            await session.commit()
    except (StripeRefused, StripeMisconfigured) as error:
        if error.code in NO_SUCH_OBJECT:
            await _give_up(sessions, event, error)
        else:
            await _postpone(sessions, event, error)
    except Exception as error:  # noqa: BLE001 - kept with the event, tried again, shown to finance
        await _postpone(sessions, event, error)


async def _give_up(sessions: Sessions, event: StripeEvent, error: Exception) -> None:
    """What it speaks of is not there: no repeat will find it. If it is ours, its poller does."""
    log.warning("event %s (%s) is without effect: %s", event.id, event.type, error)
    async with sessions() as session:
        if await _is_unhandled(session, event):
            await _mark_handled(session, event, last_error=_said(error))
        await session.commit()


async def _is_unhandled(session: AsyncSession, event: StripeEvent) -> bool:
    """Lock the event, unless its lease ran out and another process has it or has handled it."""
    await audit.act_as(session, f"stripe:{event.id}")
    found = await session.exec(
        select(StripeEvent.id)
        .where(StripeEvent.id == event.id, col(StripeEvent.handled_at).is_(None))
        .with_for_update(skip_locked=True)
    )
    return found.first() is not None


async def _mark_handled(
    session: AsyncSession, event: StripeEvent, *, last_error: str | None = None
) -> None:
    await session.execute(
        sa.update(StripeEvent)
        .where(col(StripeEvent.id) == event.id)
        .values(handled_at=sa.func.marketplace_now(), last_error=last_error)
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


async def _postpone(sessions: Sessions, event: StripeEvent, error: Exception) -> None:
    wait = min(timedelta(seconds=2 ** min(event.tries, 12)), LONGEST_WAIT)
    async with sessions() as session:
        await session.execute(
            sa.update(StripeEvent)
            .where(col(StripeEvent.id) == event.id, col(StripeEvent.handled_at).is_(None))
            .values(
                tries=StripeEvent.tries + 1,
                due_at=sa.func.marketplace_now() + wait,
                last_error=_said(error),
            )
        )
        await session.commit()


async def poll_events(sessions: Sessions, gateway: StripeGateway) -> int:
    """Store the events that no webhook brought; answers how many were looked at."""
    async with sessions() as session:
        mark = await session.get(PollMark, 1)
    since = mark.events_read_to - OVERLAP if mark else None
    looked_at, newest = 0, 0
    async for event in gateway.list_events(created_from=since):
        looked_at += 1
        try:
            async with sessions() as session:
                await store(session, event)
                await session.commit()
        except (EventUnreadable, sa.exc.DataError):
            # Nothing can keep it. The pollers look at what it may speak of; the others go on.
            log.exception("event %r cannot be stored", event.get("id"))
            continue
        newest = max(newest, event["created"])
    if newest:
        # Only now: a listing that broke off is read again from where the last whole one ended.
        await _mark_read(sessions, datetime.fromtimestamp(newest, UTC))
    return looked_at


async def _mark_read(sessions: Sessions, to: datetime) -> None:
    async with sessions() as session:
        await session.execute(
            sa.text(
                "INSERT INTO poll_mark AS mark (one, events_read_to) VALUES (1, :to)"
                " ON CONFLICT (one) DO UPDATE"
                " SET events_read_to = greatest(mark.events_read_to, :to)"
            ),
            {"to": to},
        )
        await session.commit()
