"""What becomes of performers' money between Stripe and their bank.

Stripe pays connected accounts out by its own schedule. We only watch, and tell whoever must act:
by event, and by listing what each account was paid out when the event did not come.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.bank.models import BANK_PAYOUT_MOVES, BankPayout, BankPayoutState
from marketplace.performers.models import PayoutAccount
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.ids import new_id
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.polling import look_at_each

LOOK_EVERY = timedelta(hours=12)
LOOK_AFTER_FAILURE = timedelta(minutes=5)
# Banks send back within days, seldom within weeks.
LOOK_BACK = timedelta(days=45)


@dataclass(frozen=True)
class Seen:
    """A connected account's payout, as Stripe told it to who asked at a moment of our clock."""

    payout: stripe_answers.BankPayout
    account_id: str
    asked_at: datetime


async def look_at(
    sessions: Sessions, gateway: StripeGateway, account_id: str, payout_id: str
) -> Seen:
    async with sessions() as session:
        asked_at = await clock.now(session)
    payout = await gateway.retrieve_bank_payout(payout_id, account_id=account_id)
    return Seen(payout, account_id, asked_at)


async def note(session: AsyncSession, seen: Seen) -> None:
    """Bring our copy to what Stripe said then, unless it was seen since. A stranger's is left.

    What is known of an account that was retired since goes on.
    """
    found = await session.exec(
        select(PayoutAccount.performer_id).where(PayoutAccount.stripe_account_id == seen.account_id)
    )
    if (performer_id := found.first()) is not None:
        await _insert(session, seen, performer_id)
    await _bring_up_to_date(session, seen)


async def _insert(session: AsyncSession, seen: Seen, performer_id: UUID) -> None:
    payout = seen.payout
    first = BankPayout(
        id=new_id(),
        stripe_payout_id=payout.id,
        performer_id=performer_id,
        stripe_account_id=seen.account_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        automatic=payout.automatic,
        state=BankPayoutState(payout.status),
        state_reason=payout.failure_message,
        failure_code=payout.failure_code,
        arrives_at=payout.arrives_at,
        made_at=payout.created_at,
        seen_at=seen.asked_at,
    )
    await session.execute(
        sa.dialects.postgresql.insert(BankPayout)
        .values(first.model_dump())
        .on_conflict_do_nothing()
    )


async def _bring_up_to_date(session: AsyncSession, seen: Seen) -> None:
    found = await session.exec(
        select(BankPayout)
        .where(BankPayout.stripe_payout_id == seen.payout.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    kept = found.first()
    state = BankPayoutState(seen.payout.status)
    if kept is None or kept.seen_at > seen.asked_at or kept.state is state:
        return
    move(kept, state, BANK_PAYOUT_MOVES, reason=seen.payout.failure_message)
    kept.failure_code = seen.payout.failure_code
    kept.arrives_at, kept.seen_at = seen.payout.arrives_at, seen.asked_at
    await session.flush()


async def poll(sessions: Sessions, gateway: StripeGateway) -> int:
    """Look at the accounts whose events may have been lost."""
    async with sessions() as session:
        # Put off before they are looked at: what fails now does not stand in the others' way.
        found = await session.execute(
            sa.text(
                "UPDATE payout_account SET bank_due_at = marketplace_now() + :wait"
                " WHERE performer_id IN ("
                "  SELECT performer_id FROM payout_account"
                "  WHERE stripe_account_id IS NOT NULL AND bank_due_at <= marketplace_now()"
                "  ORDER BY bank_due_at LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED"
                " ) RETURNING stripe_account_id"
            ),
            {"wait": LOOK_AFTER_FAILURE},
        )
        due = [account_id for (account_id,) in found]
        await session.commit()
    return await look_at_each(sessions, due, partial(_list, sessions, gateway), _note_all)


@dataclass(frozen=True)
class Listed:
    account_id: str
    asked_at: datetime
    payouts: list[stripe_answers.BankPayout]


async def _list(sessions: Sessions, gateway: StripeGateway, account_id: str) -> Listed:
    async with sessions() as session:
        asked_at = await clock.now(session)
    listing = gateway.list_bank_payouts(created_from=asked_at - LOOK_BACK, account_id=account_id)
    return Listed(account_id, asked_at, [payout async for payout in listing])


async def _note_all(session: AsyncSession, listed: Listed) -> None:
    for payout in reversed(listed.payouts):
        with sweeps.one_row("bank_payouts", payout.id):
            async with session.begin_nested():
                await note(session, Seen(payout, listed.account_id, listed.asked_at))
    await session.execute(
        sa.text(
            "UPDATE payout_account SET bank_due_at = marketplace_now() + :wait"
            " WHERE stripe_account_id = :account"
        ),
        {"wait": LOOK_EVERY, "account": listed.account_id},
    )
