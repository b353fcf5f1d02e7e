"""Sending money: commit the intent, call Stripe, commit the outcome.

See `stripe_api.asking` for what holds between the steps.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts import attempts, late_transfers, outcomes
from marketplace.payouts.destinations import account_at_stripe, reason_to_hold
from marketplace.payouts.models import (
    PAID_STATES,
    Payout,
    PayoutAttempt,
    PayoutRun,
    PayoutState,
    RunState,
)
from marketplace.payouts.service import find_payout
from marketplace.performers.payout_accounts import DESTINATION_COOLS
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.stripe_api import asking
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Transfer
from marketplace.stripe_api.polling import STRIPE_ERRORS

IN_FLIGHT = (PayoutState.SENDING, PayoutState.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Intent(asking.Intent):
    """A committed attempt: exactly what Stripe is asked, however often."""

    attempt_id: UUID
    payout_id: UUID
    request: dict[str, Any]


async def send_due(
    sessions: Sessions,
    gateway: StripeGateway,
    *,
    most: int = 100,
    cooling: timedelta = DESTINATION_COOLS,
) -> int:
    """Send what is approved and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (payout := await _take_due(sessions)) is not None:
        with sweeps.one_row("payouts", payout.id):
            await send(sessions, gateway, payout, cooling)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> Payout | None:
    """Lease one due payout, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        due = asking.next_due(Payout).join(PayoutRun).where(~_waits_for_its_run())
        payout = (await session.exec(due)).first()
        if payout is not None:
            payout.due_at = await clock.now(session) + asking.LEASE
            # What is looked for at this moment may be found: nobody may call it absent.
            await session.execute(
                sa.update(PayoutAttempt)
                .where(_is_open(payout.id), col(PayoutAttempt.not_found_at).is_not(None))
                .values(not_found_at=None)
            )
        await session.commit()
        return payout


def _waits_for_its_run() -> sa.ColumnElement[bool]:
    """Nothing new is begun while the run is paused; what is on its way goes on."""
    return sa.and_(
        col(Payout.state) == PayoutState.APPROVED, col(PayoutRun.state) != RunState.APPROVED
    )


async def send(
    sessions: Sessions, gateway: StripeGateway, payout: Payout, cooling: timedelta
) -> None:
    """One leased payout's three steps, from wherever it stands."""
    if payout.state in PAID_STATES:
        await late_transfers.look_at_what_came_back(sessions, gateway, payout)
        return
    if payout.state is PayoutState.APPROVED:
        leased_until = await _commit_intent(sessions, gateway, payout, cooling)
    else:
        leased_until = payout.due_at
    intent = await _read_intent(sessions, payout.id, leased_until) if leased_until else None
    if intent is None:
        return
    outcome = await _ask_stripe(gateway, intent)
    if outcome is not None:
        await _commit_outcome(sessions, intent, outcome)


async def _commit_intent(
    sessions: Sessions, gateway: StripeGateway, payout: Payout, cooling: timedelta
) -> datetime | None:
    """Step 1. Look at the balance and the account now; commit the attempt, or say why not.

    Answers until when the committed attempt is leased.
    """
    try:
        available = await gateway.available_balance(payout.currency)
        account = await account_at_stripe(gateway, payout.destination)
        await attempts.renew_lease(sessions, payout)
        made = await late_transfers.standing_transfers(gateway, payout.id)
        paid_before = await late_transfers.standing_of_earlier(sessions, gateway, payout)
    except STRIPE_ERRORS as error:
        await _postpone(sessions, payout, f"Stripe could not be asked: {error}")
        return None
    async with sessions() as session:
        await audit.act_as(session, attempts.ACTOR)
        run = await _share_run(session, payout.run_id)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.state is not PayoutState.APPROVED or locked.due_at != payout.due_at:
            return None
        if run.state is not RunState.APPROVED:
            return None
        leased_until = None
        if made:
            await late_transfers.book_what_was_made(session, locked, made)
        elif paid_before:
            await late_transfers.book_what_paid_before(session, locked, paid_before)
        elif hold := await reason_to_hold(session, locked, account, cooling):
            attempts.hold_back(locked, hold)
        elif available < locked.amount_minor:
            await outcomes.wait_for_funds(session, locked)
        else:
            await attempts.begin(session, locked)
            leased_until = locked.due_at
        await session.commit()
        return leased_until


async def _share_run(session: AsyncSession, run_id: UUID) -> PayoutRun:
    """Nobody pauses or edits it while an attempt is begun; other senders may be at it."""
    found = await session.exec(
        select(PayoutRun).where(PayoutRun.id == run_id).with_for_update(read=True)
    )
    return found.one()


def _is_open(payout_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(col(PayoutAttempt.payout_id) == payout_id, col(PayoutAttempt.outcome).is_(None))


async def _read_intent(
    sessions: Sessions, payout_id: UUID, leased_until: datetime
) -> Intent | None:
    """The attempt in flight, right before Stripe is asked; None once the lease is not ours."""
    read_at = time.time()
    async with sessions() as session:
        found = await session.exec(
            select(PayoutAttempt)
            .join(Payout)
            .where(_is_open(payout_id), col(Payout.due_at) == leased_until)
        )
        attempt, now = found.first(), await clock.now(session)
    if attempt is None or now >= leased_until:
        return None
    return Intent(
        attempt_id=attempt.id,
        payout_id=payout_id,
        key=attempt.idempotency_key,
        request=attempt.request,
        key_serves=asking.key_serves(attempt.committed_at, now),
        leased_until=leased_until,
        read_at=read_at,
    )


async def _ask_stripe(gateway: StripeGateway, intent: Intent) -> Transfer | asking.Failure | None:
    """Step 2, outside any transaction."""

    async def send() -> Transfer:
        return await gateway.send_transfer(**intent.request, idempotency_key=intent.key)

    async def look_up() -> Transfer | None:
        standing = await late_transfers.standing_transfers(gateway, intent.payout_id)
        ours = (each for each in standing if each.metadata == intent.request["metadata"])
        return next(ours, None)

    return await asking.ask(intent, send=send, look_up=look_up, what="transfer")


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: Transfer | asking.Failure
) -> None:
    """Step 3. A transfer counts whoever saw it; a failure only while the lease is ours."""
    async with sessions() as session:
        await audit.act_as(session, attempts.ACTOR)
        # What becomes of it depends on its run's approval, which nobody voids meanwhile.
        await _share_run(session, (await find_payout(session, intent.payout_id)).run_id)
        payout = await find_payout(session, intent.payout_id, lock=True)
        attempt = await session.get_one(PayoutAttempt, intent.attempt_id, with_for_update=True)
        is_open = attempt.outcome is None and payout.state in IN_FLIGHT
        if isinstance(outcome, Transfer) and not is_open:
            await outcomes.found_too_late(session, payout, outcome)
        elif is_open and (isinstance(outcome, Transfer) or payout.due_at == intent.leased_until):
            await outcomes.conclude(session, payout, attempt, outcome)
        await session.commit()


async def _postpone(sessions: Sessions, payout: Payout, reason: str) -> None:
    async with sessions() as session:
        await audit.act_as(session, attempts.ACTOR)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.state is PayoutState.APPROVED and locked.due_at == payout.due_at:
            locked.tries += 1
            locked.due_at = await clock.now(session) + asking.wait(locked.tries)
            locked.state_reason = reason[:500]
        await session.commit()
