"""Reading Stripe's lines, and naming each that our books do not hold."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reconciliation.models import LineMark, StripeLine
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
    await _store(sessions, listed, read_to=newest)
    return count


async def _store(
    sessions: Sessions, listed: list[BalanceTransaction], *, read_to: datetime | None = None
) -> None:
    """The mark moves only when the listing came to its end: one that broke off is read again."""
    async with sessions() as session:
        if listed:
            await session.execute(
                sa.dialects.postgresql.insert(StripeLine).on_conflict_do_nothing(),
                [_kept(line) for line in listed],
            )
        if read_to is not None:
            await _mark(session, read_to)
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


async def _mark(session: AsyncSession, read_to: datetime) -> None:
    await session.execute(
        sa.text(
            "INSERT INTO line_mark AS mark (one, read_to) VALUES (1, :read_to)"
            " ON CONFLICT (one) DO UPDATE SET read_to = greatest(mark.read_to, :read_to)"
        ),
        {"read_to": read_to},
    )
