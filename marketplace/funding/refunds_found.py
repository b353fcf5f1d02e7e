"""Refunds that Stripe has and our books do not: made by hand there, or come late after all.

The money went back to who paid, so it leaves the wallet, and the books say how it came. What the
wallet does not cover, or a dispute forbids, waits with its error for finance.
"""

import logging
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding.models import Deposit, DepositState
from marketplace.funding.refund_bookings import sent
from marketplace.funding.refund_models import Refund, RefundState
from marketplace.ledger import service as ledger
from marketplace.shared import clock
from marketplace.shared.database import take_turns
from marketplace.shared.ids import new_id
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.booked_lines import booked_as

log = logging.getLogger(__name__)


class RefundNotBooked(Exception):
    """Stripe has a refund that cannot be booked here: finance must look."""


async def adopt(
    session: AsyncSession, seen: stripe_answers.Refund, *, asked: Refund | None
) -> Refund | None:
    """A row for it, as if it had just been asked for; None when it never moved anything, and when
    its line is for finance, or booked by hand already.

    `asked` is the refund that was called absent, if it is that one. Raises RefundNotBooked.
    """
    if seen.status in {"failed", "canceled"} and seen.taken is None:
        return None
    if (deposit_id := await _settled_otherwise(session, seen)) is not None:
        log.warning("Stripe has %s of deposit %s: charge its client", seen.id, deposit_id)
        return None
    if seen.taken is not None and await booked_as(session, seen.taken.id) is not None:
        if (known := await _known(session, seen.id)) is None:
            log.error("Stripe has %s, but its line %s is booked by hand", seen.id, seen.taken.id)
        return known
    deposit = await _deposit_of(session, seen)
    await take_turns(session, "refunds of", deposit.client_id)
    if (known := await _known(session, seen.id)) is not None:
        return known
    refund = _row(seen, deposit, asked)
    refund.due_at = await clock.now(session)
    log.warning("Stripe has %s of deposit %s: booked as %s", seen.id, deposit.id, refund.id)
    try:
        async with session.begin_nested():
            # Deposits before wallets, as everybody else locks them.
            await session.execute(
                sa.text("SELECT FROM deposit WHERE id = :id FOR NO KEY UPDATE"), {"id": deposit.id}
            )
            await ledger.post(session, sent(refund))
            session.add(refund)
            await session.flush()
    except (ledger.BalanceTooLow, sa.exc.IntegrityError) as error:
        raise RefundNotBooked(f"{seen.id} of deposit {deposit.id}: {error}") from error
    return refund


async def _settled_otherwise(session: AsyncSession, seen: stripe_answers.Refund) -> UUID | None:
    """The deposit that has no line in its currency: its refunds are finance's to charge."""
    found = await session.exec(
        select(Deposit.id).where(
            Deposit.payment_intent_id == (seen.payment_intent_id or ""),
            col(Deposit.foreign_line_id).is_not(None),
        )
    )
    return found.first()


async def _deposit_of(session: AsyncSession, seen: stripe_answers.Refund) -> Deposit:
    found = await session.exec(
        select(Deposit).where(
            Deposit.payment_intent_id == (seen.payment_intent_id or ""),
            Deposit.currency == seen.currency,
            col(Deposit.state).in_([DepositState.CREDITED, DepositState.AVAILABLE]),
        )
    )
    deposit = found.first()
    if deposit is None:
        raise RefundNotBooked(f"{seen.id} of {seen.payment_intent_id}, which is no deposit here")
    return deposit


async def _known(session: AsyncSession, stripe_refund_id: str) -> Refund | None:
    found = await session.exec(
        select(Refund)
        .where(Refund.stripe_refund_id == stripe_refund_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return found.first()


def _row(seen: stripe_answers.Refund, deposit: Deposit, asked: Refund | None) -> Refund:
    id_: UUID = new_id()
    how = "after it was called absent" if asked else "and nobody here asked for it"
    return Refund(
        id=id_,
        request_id=asked.request_id if asked else new_id(),
        client_id=deposit.client_id,
        deposit_id=deposit.id,
        currency=deposit.currency,
        amount_minor=seen.amount_minor,
        requested_by=asked.requested_by if asked else None,
        idempotency_key=f"refund-{id_}",
        state=RefundState.SENDING,
        state_reason=f"Found at Stripe, {how}.",
        sent_transaction_id=new_id(),
    )
