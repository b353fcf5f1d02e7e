"""Transfers that Stripe made after all, of attempts that were called absent: each is booked, once.

Nothing new is sent for a payout before Stripe was asked what it has of it, and of earlier payouts of
the same earnings.
"""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from marketplace.payouts import outcomes, reversals
from marketplace.payouts.attempts import ACTOR, begin, hold_back, renew_lease, transfer_group
from marketplace.payouts.models import Payout, PayoutAttempt, PayoutLine
from marketplace.payouts.service import find_payout
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions
from marketplace.stripe_api.booked_lines import LineBookedOtherwise
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Transfer


async def standing_transfers(gateway: StripeGateway, payout_id: UUID) -> list[Transfer]:
    """What Stripe has moved for a payout and not taken back."""
    found = await gateway.find_transfers(transfer_group=transfer_group(payout_id))
    return [each for each in found if each.amount_reversed_minor < each.amount_minor]


async def standing_of_earlier(
    sessions: Sessions, gateway: StripeGateway, payout: Payout
) -> list[tuple[UUID, Transfer]]:
    """What Stripe has moved all the same for payouts that were given up, of these same earnings.

    A payout that was given up begins nothing more, so that what was asked before stays asked.
    """
    async with sessions() as session:
        earlier = list(await session.exec(_earlier_attempted(payout.id)))
    found = []
    for each in earlier:
        await renew_lease(sessions, payout)
        found += [(each, standing) for standing in await standing_transfers(gateway, each)]
    return found


def _earlier_attempted(payout_id: UUID) -> SelectOfScalar[UUID]:
    mine, earlier = aliased(PayoutLine), aliased(PayoutLine)
    return (
        select(earlier.payout_id)
        .distinct()
        .join(mine, col(mine.ledger_entry_id) == col(earlier.ledger_entry_id))
        .where(
            col(mine.payout_id) == payout_id,
            col(earlier.payout_id) != payout_id,
            col(earlier.released_at).is_not(None),
            sa.exists().where(col(PayoutAttempt.payout_id) == col(earlier.payout_id)),
        )
        .order_by(col(earlier.payout_id))
    )


async def book_what_was_made(session: AsyncSession, payout: Payout, made: list[Transfer]) -> None:
    """An attempt that was given up has moved the money after all: a second one would pay twice."""
    as_approved = [each for each in made if outcomes.is_of(each, payout)]
    if as_approved:
        await _adopt(session, payout, as_approved[0])
    else:
        again = ", then finance can approve this again."
        hold_back(payout, outcomes.not_as_approved(made[0]) + again)


async def book_what_paid_before(
    session: AsyncSession, payout: Payout, standing: list[tuple[UUID, Transfer]]
) -> None:
    """A payout that was given up has moved the money after all. It is the payment of this one if it
    paid exactly these earnings.
    """
    lines = await _lines(session, payout.id)
    for earlier, transfer in standing:
        if outcomes.is_of(transfer, payout) and await _lines(session, earlier) == lines:
            if await _adopt(session, payout, transfer):
                payout.state_reason = (
                    f"{transfer.id} paid it, which came in late for payout {earlier} that was "
                    "given up."
                )
            return
    earlier, transfer = standing[0]
    reason = (
        f"Stripe has {transfer.id} of earnings of this payout, for payout {earlier} that was given "
        "up. Release this one and reissue that one, then it is booked; or reverse all of it at "
        "Stripe, then finance can approve this again."
    )
    hold_back(payout, reason)


async def _lines(session: AsyncSession, payout_id: UUID) -> set[UUID]:
    own = select(PayoutLine.ledger_entry_id).where(PayoutLine.payout_id == payout_id)
    return set(await session.exec(own))


async def _adopt(session: AsyncSession, payout: Payout, standing: Transfer) -> bool:
    """What stands at Stripe is the payment of this payout: no other is sent. False when finance has
    booked it as something else: then people decide.
    """
    try:
        async with session.begin_nested():
            await outcomes.paid(session, payout, await begin(session, payout), standing)
    except LineBookedOtherwise as error:
        await session.refresh(payout)
        hold_back(payout, f"Stripe has {standing.id} of it. {error.detail}")
        return False
    # What came back of it until now was nobody's when Stripe told of it.
    payout.due_at = await clock.now(session)
    await session.flush()
    return True


async def look_at_what_came_back(
    sessions: Sessions, gateway: StripeGateway, payout: Payout
) -> None:
    """Once what was adopted is committed; from then on Stripe's events find its payout."""
    assert payout.transfer_id is not None
    seen = await gateway.find_reversals(payout.transfer_id)
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        await reversals.note_found(session, transfer_id=payout.transfer_id, seen=seen)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.due_at == payout.due_at:
            locked.due_at = None
        await session.commit()
