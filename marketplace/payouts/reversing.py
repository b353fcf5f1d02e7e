"""Asking Stripe for money back: commit the intent, call Stripe, commit the outcome.

See `stripe_api.asking` for what holds between the steps. Stripe reverses only what the performer's
own balance there covers; else it refuses, and another may be asked for.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts import reversals
from marketplace.payouts.models import REVERSAL_MOVES, ReversalState, TransferReversal
from marketplace.payouts.reversals import IN_FLIGHT
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions, violated
from marketplace.shared.states import move
from marketplace.stripe_api import asking
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Reversal

ACTOR = "sweep:reversals"


@dataclass(frozen=True, kw_only=True)
class Intent(asking.Intent):
    """A committed reversal: exactly what Stripe is asked, however often."""

    reversal_id: UUID
    request: dict[str, Any]


async def reverse_due(sessions: Sessions, gateway: StripeGateway, *, most: int = 100) -> int:
    """Send what is approved and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (reversal := await _take_due(sessions)) is not None:
        with sweeps.one_row("reversals", reversal.id):
            await _reverse(sessions, gateway, reversal)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> TransferReversal | None:
    """Lease one due reversal, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        reversal = (await session.exec(asking.next_due(TransferReversal))).first()
        if reversal is not None:
            now = await clock.now(session)
            reversal.due_at = now + asking.LEASE
            # What is looked for at this moment may be found: nobody may call it absent.
            reversal.not_found_at = None
        await session.commit()
        return reversal


async def _reverse(sessions: Sessions, gateway: StripeGateway, reversal: TransferReversal) -> None:
    """One leased reversal's three steps, from wherever it stands."""
    leased_until = reversal.due_at
    if reversal.state is ReversalState.APPROVED:
        leased_until = await _commit_intent(sessions, reversal)
    intent = await _read_intent(sessions, reversal.id, leased_until) if leased_until else None
    if intent is None:
        return
    outcome = await _ask_stripe(gateway, intent)
    if outcome is not None:
        await _commit_outcome(sessions, intent, outcome)


async def _commit_intent(sessions: Sessions, leased: TransferReversal) -> datetime | None:
    """Step 1. Answers until when the committed intent is leased; None when there is none."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        _, reversal = await reversals.lock(session, leased.id)
        if reversal.state is not ReversalState.APPROVED or reversal.due_at != leased.due_at:
            return None
        now = await clock.now(session)
        try:
            async with session.begin_nested():
                _freeze(reversal, now)
        except sa.exc.IntegrityError as error:
            if violated(error) != "transfer_reversal_fits":
                raise
            await session.refresh(reversal)
            reason = "More would come back than was paid: some of it came back otherwise."
            await reversals.refuse(session, reversal, code="", message=reason, reason=reason)
        await session.commit()
        return reversal.due_at


def _freeze(reversal: TransferReversal, now: datetime) -> None:
    move(reversal, ReversalState.SENDING, REVERSAL_MOVES)
    reversal.idempotency_key = f"reversal-{reversal.id}"
    reversal.request = {
        "transfer_id": reversal.transfer_id,
        "amount_minor": reversal.amount_minor,
        "metadata": {"reversal_id": str(reversal.id)},
    }
    reversal.committed_at = now
    reversal.due_at = now + asking.LEASE
    reversal.tries = 0


async def _read_intent(
    sessions: Sessions, reversal_id: UUID, leased_until: datetime
) -> Intent | None:
    """The intent, right before Stripe is asked; None once the lease is not ours."""
    read_at = time.time()
    async with sessions() as session:
        found = await session.exec(
            select(TransferReversal).where(
                TransferReversal.id == reversal_id,
                col(TransferReversal.state).in_(IN_FLIGHT),
                col(TransferReversal.due_at) == leased_until,
            )
        )
        reversal, now = found.first(), await clock.now(session)
    if reversal is None or now >= leased_until:
        return None
    assert reversal.idempotency_key is not None
    assert reversal.request is not None
    assert reversal.committed_at is not None
    return Intent(
        reversal_id=reversal_id,
        key=reversal.idempotency_key,
        request=reversal.request,
        key_serves=asking.key_serves(reversal.committed_at, now),
        leased_until=leased_until,
        read_at=read_at,
    )


async def _ask_stripe(gateway: StripeGateway, intent: Intent) -> Reversal | asking.Failure | None:
    """Step 2, outside any transaction."""

    async def send() -> Reversal:
        return await gateway.reverse_transfer(**intent.request, idempotency_key=intent.key)

    async def look_up() -> Reversal | None:
        found = await gateway.find_reversals(intent.request["transfer_id"])
        ours = (each for each in found if each.metadata == intent.request["metadata"])
        return next(ours, None)

    return await asking.ask(intent, send=send, look_up=look_up, what="reversal")


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: Reversal | asking.Failure
) -> None:
    """Step 3. A reversal counts whoever saw it; a failure only while the lease is ours."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        payout, reversal = await reversals.lock(session, intent.reversal_id)
        is_open = reversal.state in IN_FLIGHT
        if isinstance(outcome, Reversal) and is_open:
            await reversals.came_back(session, payout, reversal, outcome)
        elif isinstance(outcome, Reversal):
            # It was called absent meanwhile: nobody asks for it again without a look.
            await reversals.note_found(session, transfer_id=reversal.transfer_id, seen=[outcome])
        elif is_open and reversal.due_at == intent.leased_until:
            await _failed(session, reversal, outcome)
        await session.commit()


async def _failed(
    session: AsyncSession, reversal: TransferReversal, failure: asking.Failure
) -> None:
    if failure.refused:
        reason = f"Stripe refused it ({failure.code}): {failure.message}"
        reversal.stripe_request_id = failure.request_id
        await reversals.refuse(
            session, reversal, code=failure.code, message=failure.message, reason=reason
        )
        return
    now = await clock.now(session)
    if reversal.state is ReversalState.SENDING:
        move(reversal, ReversalState.UNKNOWN, REVERSAL_MOVES)
    reversal.state_reason = failure.message[:500]
    reversal.tries += 1
    reversal.due_at = now + asking.wait(reversal.tries)
    if failure.code == asking.NOT_FOUND:
        reversal.not_found_at = now
    await session.flush()
