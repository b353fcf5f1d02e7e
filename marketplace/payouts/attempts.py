"""Beginning an attempt: its money is in flight before anything is asked; or the payout is held back."""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts.models import PAYOUT_MOVES, Payout, PayoutAttempt, PayoutState
from marketplace.shared import clock
from marketplace.shared.database import Sessions
from marketplace.shared.ids import new_id
from marketplace.shared.states import move
from marketplace.stripe_api import asking

ACTOR = "sweep:payouts"


async def renew_lease(sessions: Sessions, payout: Payout) -> None:
    """Before more is asked than one lease has time for. One that is not ours stays as it is."""
    async with sessions() as session:
        leased_until = await clock.now(session) + asking.LEASE
        await session.execute(
            sa.update(Payout)
            .where(col(Payout.id) == payout.id, col(Payout.due_at) == payout.due_at)
            .values(due_at=leased_until)
        )
        await session.commit()
    payout.due_at = leased_until


def transfer_group(payout_id: UUID) -> str:
    return f"payout-{payout_id}"


async def begin(session: AsyncSession, payout: Payout) -> PayoutAttempt:
    """The next attempt with a key of its own, and its money in flight; the caller holds the lock."""
    earlier = await session.scalar(
        select(sa.func.count())
        .select_from(PayoutAttempt)
        .where(PayoutAttempt.payout_id == payout.id)
    )
    number = int(earlier or 0) + 1
    attempt_id = new_id()
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_SENT,
        source_id=attempt_id,
        currency=payout.currency,
        moves=(
            (
                (AccountKind.PERFORMER_PAYABLE, payout.performer_id),
                (AccountKind.TRANSFERS_IN_FLIGHT, None),
                payout.amount_minor,
            ),
        ),
    )
    await ledger.post(session, posting)
    now = await clock.now(session)
    attempt = PayoutAttempt(
        id=attempt_id,
        payout_id=payout.id,
        number=number,
        idempotency_key=f"payout-{payout.id}-attempt-{number}",
        request={
            "amount_minor": payout.amount_minor,
            "currency": payout.currency,
            "destination": payout.destination,
            "transfer_group": transfer_group(payout.id),
            "metadata": {"payout_id": str(payout.id), "attempt": str(number)},
        },
        committed_at=now,
        in_flight_transaction_id=posting.id,
    )
    session.add(attempt)
    await session.flush()
    move(payout, PayoutState.SENDING, PAYOUT_MOVES)
    payout.due_at = now + asking.LEASE
    payout.tries = 0
    await session.flush()
    return attempt


def hold_back(payout: Payout, reason: str) -> None:
    move(payout, PayoutState.HELD, PAYOUT_MOVES, reason=reason)
    payout.due_at = None
