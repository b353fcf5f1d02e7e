"""Reading Stripe's lines, and naming each that our books do not hold."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from marketplace.reconciliation.models import LineMark, StripeLine
from marketplace.shared import clock
from marketplace.shared.database import Sessions
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import BalanceTransaction

# Stripe does not promise that lines are listed the moment they are made.
OVERLAP = timedelta(hours=1)
LINES_AT_ONCE = 500


async def read_lines(sessions: Sessions, gateway: StripeGateway) -> int:
    """Store the lines that are new since the last whole reading; answers how many were listed."""
    async with sessions() as session:
        mark = await session.get(LineMark, 1)
        read_at = await clock.now(session)
    listed: list[BalanceTransaction] = []
    newest, count = None, 0
    async for line in gateway.list_balance_transactions(
        created_from=mark.read_to - OVERLAP if mark else None
    ):
        newest, count = newest or line.created_at, count + 1
        listed.append(line)
        if len(listed) == LINES_AT_ONCE:
            await _store(sessions, listed)
            listed = []
    await _store(sessions, listed)
    await _mark(sessions, newest or (mark.read_to if mark else read_at), read_at)
    return count


async def _store(sessions: Sessions, listed: list[BalanceTransaction]) -> None:
    if not listed:
        return
    async with sessions() as session:
        await session.execute(
            sa.dialects.postgresql.insert(StripeLine).on_conflict_do_nothing(),
            [_kept(line) for line in listed],
        )
        await session.commit()


def _kept(line: BalanceTransaction) -> dict[str, object]:
    return {
        "id": line.id,
        "type": line.type,
        "currency": line.currency,
        "amount_minor": line.amount_minor,
        "fee_minor": line.fee_minor,
        "net_minor": line.net_minor,
        "source_id": line.source_id,
        "description": line.description,
        "created_at": line.created_at,
        "available_on": line.available_on,
    }


async def _mark(sessions: Sessions, read_to: datetime, read_at: datetime) -> None:
    """Only when the listing came to its end: one that broke off is read again."""
    async with sessions() as session:
        await session.execute(
            sa.text(
                "INSERT INTO line_mark AS mark (one, read_to, read_at)"
                " VALUES (1, :read_to, :read_at) ON CONFLICT (one) DO UPDATE"
                " SET read_to = greatest(mark.read_to, :read_to),"
                "  read_at = greatest(mark.read_at, :read_at)"
            ),
            {"read_to": read_to, "read_at": read_at},
        )
        await session.commit()
