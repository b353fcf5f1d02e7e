"""Sending money: commit the intent, call Stripe, commit the outcome.

A kill between any two steps leaves a row that says what to do: the same attempt is asked again with
the same key. After an unknown outcome there is never a new key. Stripe is never called inside a
transaction.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts import outcomes
from marketplace.payouts.models import (
    PAYOUT_MOVES,
    Payout,
    PayoutAttempt,
    PayoutState,
)
from marketplace.payouts.service import find_payout
from marketplace.performers.models import PayoutAccount, TransfersCapability
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.ids import new_id
from marketplace.shared.states import move
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import ConnectedAccount, Transfer
from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)

# Stripe may forget a key after 24 h; after this a transfer is looked up instead of asked for.
KEY_SERVES = timedelta(hours=23)
# Longer than a call to Stripe may take; after it another process may go on.
LEASE = timedelta(seconds=60)
IN_FLIGHT = (PayoutState.SENDING, PayoutState.UNKNOWN)
ACTOR = "sweep:payouts"


@dataclass(frozen=True)
class Intent:
    """A committed attempt: exactly what Stripe is asked, however often."""

    attempt_id: UUID
    payout_id: UUID
    key: str
    request: dict[str, Any]
    committed_at: datetime
    now: datetime

    @property
    def key_serves(self) -> bool:
        return self.now - self.committed_at < KEY_SERVES


async def send_due(sessions: Sessions, gateway: StripeGateway, *, most: int = 100) -> int:
    """Send what is approved and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (payout := await _take_due(sessions)) is not None:
        with sweeps.one_row("payouts", payout.id):
            await send(sessions, gateway, payout)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> Payout | None:
    """Lease one due payout, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        found = await session.exec(
            select(Payout)
            .where(col(Payout.due_at) <= sa.func.marketplace_now())
            .order_by(col(Payout.due_at), col(Payout.id))
            .limit(1)
            .with_for_update(skip_locked=True, key_share=True)
        )
        payout = found.first()
        if payout is not None:
            payout.due_at = await clock.now(session) + LEASE
        await session.commit()
        return payout


async def send(sessions: Sessions, gateway: StripeGateway, payout: Payout) -> None:
    """One payout's three steps, from wherever it stands."""
    if payout.state is PayoutState.APPROVED:
        intent = await _commit_intent(sessions, gateway, payout)
    else:
        intent = await _open_intent(sessions, payout.id)
    if intent is None:
        return
    outcome = await _ask_stripe(gateway, intent)
    await _commit_outcome(sessions, intent, outcome)


async def _commit_intent(
    sessions: Sessions, gateway: StripeGateway, payout: Payout
) -> Intent | None:
    """Step 1. Look at the balance and the account now; commit the attempt, or say why not."""
    try:
        available = await gateway.available_balance(payout.currency)
        account = await gateway.retrieve_account(payout.destination)
    except (StripeBusy, StripeMisconfigured, StripeOutcomeUnknown, StripeRefused) as error:
        await _postpone(sessions, payout.id, f"Stripe could not be asked: {error}")
        return None
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.state is not PayoutState.APPROVED:
            return None
        intent = None
        hold = await _reason_to_hold(session, locked, account)
        if hold is not None:
            move(locked, PayoutState.HELD, PAYOUT_MOVES, reason=hold)
            locked.due_at = None
        elif available < locked.amount_minor:
            await outcomes.wait_for_funds(session, locked)
        else:
            intent = await _new_attempt(session, locked)
        await session.commit()
        return intent


async def _reason_to_hold(
    session: AsyncSession, payout: Payout, seen: ConnectedAccount
) -> str | None:
    account = await session.get(PayoutAccount, payout.performer_id)
    if account is None or account.stripe_account_id != payout.destination:
        return "The payout account changed since this run was approved; finance must look."
    if seen.transfers != TransfersCapability.ACTIVE:
        return (
            "Stripe restricts the payout account: complete what it asks for, "
            "then finance can approve this again."
        )
    return None


async def _new_attempt(session: AsyncSession, payout: Payout) -> Intent:
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
            "transfer_group": f"payout-{payout.id}",
            "metadata": {"payout_id": str(payout.id), "attempt": str(number)},
        },
        committed_at=now,
        in_flight_transaction_id=posting.id,
    )
    session.add(attempt)
    move(payout, PayoutState.SENDING, PAYOUT_MOVES)
    payout.due_at = now + LEASE
    payout.tries = 0
    await session.flush()
    return _intent(attempt, now)


async def _open_intent(sessions: Sessions, payout_id: UUID) -> Intent | None:
    """The attempt that a payout in flight was left with."""
    async with sessions() as session:
        found = await session.exec(
            select(PayoutAttempt).where(
                PayoutAttempt.payout_id == payout_id, col(PayoutAttempt.outcome).is_(None)
            )
        )
        attempt = found.first()
        return _intent(attempt, await clock.now(session)) if attempt else None


def _intent(attempt: PayoutAttempt, now: datetime) -> Intent:
    return Intent(
        attempt_id=attempt.id,
        payout_id=attempt.payout_id,
        key=attempt.idempotency_key,
        request=attempt.request,
        committed_at=attempt.committed_at,
        now=now,
    )


async def _ask_stripe(gateway: StripeGateway, intent: Intent) -> Transfer | outcomes.Failure:
    """Step 2, outside any transaction. Younger than 23 h: the same key; older: look it up."""
    try:
        if not intent.key_serves:
            return await _look_up(gateway, intent)
        transfer = await gateway.send_transfer(**intent.request, idempotency_key=intent.key)
    except StripeRefused as error:
        return outcomes.Failure(
            refused=True, code=error.code, message=error.message, request_id=error.request_id
        )
    except (StripeBusy, StripeMisconfigured, StripeOutcomeUnknown) as error:
        return outcomes.Failure(refused=False, code=type(error).__name__, message=str(error))
    return transfer


async def _look_up(gateway: StripeGateway, intent: Intent) -> Transfer | outcomes.Failure:
    group = intent.request["transfer_group"]
    for transfer in await gateway.find_transfers(transfer_group=group):
        if transfer.metadata == intent.request["metadata"]:
            return transfer
    return outcomes.Failure(
        refused=False,
        code=outcomes.NOT_FOUND,
        message="Stripe has no such transfer, and its key is too old to ask again: finance decides.",
    )


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: Transfer | outcomes.Failure
) -> None:
    """Step 3."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        payout = await find_payout(session, intent.payout_id, lock=True)
        attempt = await session.get_one(PayoutAttempt, intent.attempt_id, with_for_update=True)
        if attempt.outcome is None and payout.state in IN_FLIGHT:
            await outcomes.conclude(session, payout, attempt, outcome)
        await session.commit()


async def _postpone(sessions: Sessions, payout_id: UUID, reason: str) -> None:
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        payout = await find_payout(session, payout_id, lock=True)
        if payout.state is PayoutState.APPROVED:
            payout.tries += 1
            wait = min(timedelta(seconds=2 ** min(payout.tries, 12)), outcomes.LONGEST_WAIT)
            payout.due_at = await clock.now(session) + wait
            payout.state_reason = reason[:500]
        await session.commit()
