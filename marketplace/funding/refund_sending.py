"""Asking Stripe for refunds: the intent is committed, Stripe is called, the outcome is committed.

See `stripe_api.asking` for what holds between the steps.
"""

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding import refunds
from marketplace.funding.models import Deposit
from marketplace.funding.refund_models import Refund, RefundState
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.stripe_api import asking
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import StripeOutcomeUnknown
from marketplace.stripe_api.polling import STRIPE_ERRORS

log = logging.getLogger(__name__)

ASKED_FOR = (RefundState.SENDING, RefundState.UNKNOWN)
ACTOR = "sweep:refunds"


@dataclass(frozen=True, kw_only=True)
class Intent(asking.Intent):
    """A committed refund: exactly what Stripe is asked, however often."""

    refund_id: UUID
    amount_minor: int
    payment_intent_id: str


async def send_due(sessions: Sessions, gateway: StripeGateway, *, most: int = 100) -> int:
    """Ask for what is due and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (refund := await _take_due(sessions)) is not None:
        with sweeps.one_row("refunds", refund.id):
            await _look_at(sessions, gateway, refund)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> Refund | None:
    """Lease one due refund, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        refund = (await session.exec(asking.next_due(Refund))).first()
        if refund is not None:
            refund.due_at = await clock.now(session) + asking.LEASE
            # What is looked for at this moment may be found: nobody may call it absent.
            refund.not_found_at = None
        await session.commit()
        return refund


async def _look_at(sessions: Sessions, gateway: StripeGateway, refund: Refund) -> None:
    assert refund.due_at is not None
    try:
        if refund.state not in ASKED_FOR:
            await _look_up_known(sessions, gateway, refund)
            return
        payment_intent_id = await _payment_of(sessions, gateway, refund)
    except STRIPE_ERRORS as error:
        # Nothing was asked for; it is due again when the lease ends.
        log.warning("refund %s could not be looked at: %s", refund.id, error)
        return
    intent = await _read_intent(sessions, refund.id, payment_intent_id, refund.due_at)
    outcome = await _ask_stripe(gateway, intent) if intent else None
    if intent is not None and outcome is not None:
        await _commit_outcome(sessions, intent, outcome)


async def _look_up_known(sessions: Sessions, gateway: StripeGateway, refund: Refund) -> None:
    assert refund.stripe_refund_id is not None
    seen = await gateway.retrieve_refund(refund.stripe_refund_id)
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        await refunds.settle(session, seen)
        await session.commit()


async def _payment_of(sessions: Sessions, gateway: StripeGateway, refund: Refund) -> str:
    """Of a deposit from before payments were kept, Stripe tells it; it never changes."""
    async with sessions() as session:
        deposit = await session.get_one(Deposit, refund.deposit_id)
    if deposit.payment_intent_id is not None:
        return deposit.payment_intent_id
    paid = await gateway.retrieve_deposit(deposit.checkout_session_id or "")
    if paid.payment_intent_id is None:
        raise StripeOutcomeUnknown(f"{paid.session_id} names no payment")
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        await session.execute(
            sa.update(Deposit)
            .where(col(Deposit.id) == deposit.id)
            .values(payment_intent_id=paid.payment_intent_id)
        )
        await session.commit()
    return paid.payment_intent_id


async def _read_intent(
    sessions: Sessions, refund_id: UUID, payment_intent_id: str, leased_until: datetime
) -> Intent | None:
    """Right before Stripe is asked; None once the lease is not ours."""
    read_at = time.time()
    async with sessions() as session:
        found = await session.exec(
            select(Refund).where(
                Refund.id == refund_id,
                col(Refund.state).in_(ASKED_FOR),
                col(Refund.due_at) == leased_until,
            )
        )
        refund, now = found.first(), await clock.now(session)
    if refund is None or now >= leased_until:
        return None
    return Intent(
        refund_id=refund_id,
        key=refund.idempotency_key,
        amount_minor=refund.amount_minor,
        payment_intent_id=payment_intent_id,
        key_serves=asking.key_serves(refund.requested_at, now),
        leased_until=leased_until,
        read_at=read_at,
    )


async def _ask_stripe(
    gateway: StripeGateway, intent: Intent
) -> stripe_answers.Refund | asking.Failure | None:
    """Outside any transaction."""
    metadata = {"refund_id": str(intent.refund_id)}

    async def send() -> stripe_answers.Refund:
        return await gateway.create_refund(
            payment_intent_id=intent.payment_intent_id,
            amount_minor=intent.amount_minor,
            metadata=metadata,
            idempotency_key=intent.key,
        )

    async def look_up() -> stripe_answers.Refund | None:
        async for seen in gateway.list_refunds(payment_intent_id=intent.payment_intent_id):
            # What carries our id and is not as asked is another one: its event books it.
            if seen.metadata == metadata and seen.amount_minor == intent.amount_minor:
                return seen
        return None

    return await asking.ask(intent, send=send, look_up=look_up, what="refund")


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: stripe_answers.Refund | asking.Failure
) -> None:
    """A refund counts whoever saw it; a failure only while the lease is ours."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        if isinstance(outcome, asking.Failure):
            await _commit_failure(session, intent, outcome)
        else:
            await refunds.settle(session, outcome)
        await session.commit()


async def _commit_failure(session: AsyncSession, intent: Intent, failure: asking.Failure) -> None:
    refund = await refunds.find(session, intent.refund_id, client_id=None, lock=True)
    if refund.state not in ASKED_FOR or refund.due_at != intent.leased_until:
        return
    if failure.refused:
        reason = f"Stripe refused it ({failure.code}): {failure.message}"
        await refunds.refuse(session, refund, reason=reason, code=failure.code)
    else:
        not_found = failure.code == asking.NOT_FOUND
        await refunds.unknown(session, refund, failure.message, not_found=not_found)
