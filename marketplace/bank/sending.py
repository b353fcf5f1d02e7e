"""Sending a withdrawal: commit the intent, call Stripe, commit the outcome.

See `stripe_api.asking` for what holds between the steps.
"""

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.bank import outcomes
from marketplace.bank.models import WITHDRAWAL_MOVES, Withdrawal, WithdrawalState
from marketplace.bank.withdrawals import find, withdrawable_minor
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions, violated
from marketplace.shared.states import move
from marketplace.stripe_api import asking
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.polling import STRIPE_ERRORS

log = logging.getLogger(__name__)

WAIT_FOR_FUNDS = timedelta(hours=1)
# Between ours and Stripe's, generously.
CLOCKS_DIFFER = timedelta(hours=1)
ACTOR = "sweep:withdrawals"


@dataclass(frozen=True, kw_only=True)
class Intent(asking.Intent):
    """A committed withdrawal: exactly what Stripe is asked, however often."""

    withdrawal_id: UUID
    amount_minor: int
    currency: str
    sent_at: datetime

    @property
    def metadata(self) -> dict[str, str]:
        return {"withdrawal_id": str(self.withdrawal_id)}


async def send_due(sessions: Sessions, gateway: StripeGateway, *, most: int = 100) -> int:
    """Send what is approved, go on with what was interrupted, follow what is on its way."""
    looked_at = 0
    while looked_at < most and (withdrawal := await _take_due(sessions)) is not None:
        with sweeps.one_row("withdrawals", withdrawal.id):
            await send(sessions, gateway, withdrawal)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> Withdrawal | None:
    """Lease one due withdrawal, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        withdrawal = (await session.exec(asking.next_due(Withdrawal))).first()
        if withdrawal is not None:
            withdrawal.due_at = await clock.now(session) + asking.LEASE
            # What is looked for at this moment may be found: nobody may call it absent.
            withdrawal.not_found_at = None
        await session.commit()
        return withdrawal


async def send(sessions: Sessions, gateway: StripeGateway, withdrawal: Withdrawal) -> None:
    """One leased withdrawal's steps, from wherever it stands."""
    if withdrawal.stripe_payout_id is not None:
        await _follow(sessions, gateway, withdrawal.stripe_payout_id)
        return
    if withdrawal.state is WithdrawalState.APPROVED:
        leased_until = await _commit_intent(sessions, gateway, withdrawal)
    else:
        leased_until = withdrawal.due_at
    intent = await _read_intent(sessions, withdrawal.id, leased_until) if leased_until else None
    if intent is None:
        return
    outcome = await _ask_stripe(gateway, intent)
    if outcome is not None:
        await _commit_outcome(sessions, intent, outcome)


async def _follow(sessions: Sessions, gateway: StripeGateway, payout_id: str) -> None:
    try:
        seen = await gateway.retrieve_bank_payout(payout_id)
    except STRIPE_ERRORS as error:
        log.warning("%s could not be looked at: %s", payout_id, error)
        return
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        await outcomes.settle(session, seen)
        await session.commit()


async def _commit_intent(
    sessions: Sessions, gateway: StripeGateway, withdrawal: Withdrawal
) -> datetime | None:
    """Step 1. Look at the balance now; commit what is sent, or say why not.

    Answers until when it is leased.
    """
    try:
        balances = await gateway.balance()
    except STRIPE_ERRORS as error:
        await _wait(sessions, withdrawal, f"Stripe could not be asked: {error}")
        return None
    balance = balances.get(withdrawal.currency, stripe_answers.BalanceAmount())
    try:
        return await _commit_covered(sessions, withdrawal, balance)
    except sa.exc.IntegrityError as error:
        if violated(error) != "withdrawal_covered":
            raise
        # Another one was sent at the same moment.
        await _wait(sessions, withdrawal, "The rest at Stripe is owed to others.")
        return None


async def _commit_covered(
    sessions: Sessions, withdrawal: Withdrawal, balance: stripe_answers.BalanceAmount
) -> datetime | None:
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        locked = await find(session, withdrawal.id, lock=True)
        if locked.state is not WithdrawalState.APPROVED or locked.due_at != withdrawal.due_at:
            return None
        now, leased_until = await clock.now(session), None
        if missing := await _what_is_missing(session, locked, balance):
            locked.state_reason, locked.due_at = missing, now + WAIT_FOR_FUNDS
        else:
            locked.sent_transaction_id = await outcomes.post_sent(session, locked)
            leased_until = now + asking.LEASE
            locked.sent_at, locked.due_at, locked.tries = now, leased_until, 0
            move(locked, WithdrawalState.SENDING, WITHDRAWAL_MOVES)
        await session.commit()
        return leased_until


async def _what_is_missing(
    session: AsyncSession, withdrawal: Withdrawal, balance: stripe_answers.BalanceAmount
) -> str | None:
    """Why it may not be sent now: by Stripe's own balance as well as by the ledger."""
    if balance.available_minor < withdrawal.amount_minor:
        return "Waits for funds at Stripe; looked at again within the hour."
    ledger_minor = await session.scalar(
        sa.text(
            "SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger_entry JOIN account"
            " ON account.id = account_id WHERE account.currency = :currency"
            " AND kind IN ('stripe_pending', 'stripe_available')"
        ),
        {"currency": withdrawal.currency},
    )
    free = await withdrawable_minor(session, withdrawal.currency)
    # What Stripe has taken and nobody has booked yet is missing, too.
    at_stripe = balance.available_minor + balance.pending_minor
    if min(free, free + at_stripe - int(ledger_minor or 0)) < withdrawal.amount_minor:
        return "The rest at Stripe is owed to others; looked at again within the hour."
    return None


async def _wait(sessions: Sessions, withdrawal: Withdrawal, reason: str) -> None:
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        locked = await find(session, withdrawal.id, lock=True)
        if locked.state is WithdrawalState.APPROVED and locked.due_at == withdrawal.due_at:
            now = await clock.now(session)
            locked.tries += 1
            locked.state_reason = reason[:500]
            locked.due_at = now + asking.wait(locked.tries)
        await session.commit()


async def _read_intent(
    sessions: Sessions, withdrawal_id: UUID, leased_until: datetime
) -> Intent | None:
    """What is in flight, right before Stripe is asked; None once the lease is not ours."""
    read_at = time.time()
    async with sessions() as session:
        found = await session.exec(
            select(Withdrawal).where(
                Withdrawal.id == withdrawal_id,
                col(Withdrawal.state).in_(outcomes.IN_FLIGHT),
                col(Withdrawal.due_at) == leased_until,
            )
        )
        withdrawal, now = found.first(), await clock.now(session)
    if withdrawal is None or withdrawal.sent_at is None or now >= leased_until:
        return None
    return Intent(
        withdrawal_id=withdrawal.id,
        key=f"withdrawal-{withdrawal.id}",
        amount_minor=withdrawal.amount_minor,
        currency=withdrawal.currency,
        sent_at=withdrawal.sent_at,
        key_serves=asking.key_serves(withdrawal.sent_at, now),
        leased_until=leased_until,
        read_at=read_at,
    )


async def _ask_stripe(
    gateway: StripeGateway, intent: Intent
) -> stripe_answers.BankPayout | asking.Failure | None:
    """Step 2, outside any transaction."""

    async def send() -> stripe_answers.BankPayout:
        return await gateway.pay_out_to_bank(
            amount_minor=intent.amount_minor,
            currency=intent.currency,
            description="Withdrawal",
            metadata=intent.metadata,
            idempotency_key=intent.key,
        )

    return await asking.ask(
        intent, send=send, look_up=lambda: _look_up(gateway, intent), what="payout"
    )


async def _look_up(gateway: StripeGateway, intent: Intent) -> stripe_answers.BankPayout | None:
    since = intent.sent_at - CLOCKS_DIFFER
    async for payout in gateway.list_bank_payouts(created_from=since):
        as_approved = (payout.amount_minor, payout.currency) == (
            intent.amount_minor,
            intent.currency,
        )
        stands = payout.failure_balance_transaction_id is None
        if payout.metadata == intent.metadata and (as_approved or stands):
            return payout
    return None


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: stripe_answers.BankPayout | asking.Failure
) -> None:
    """Step 3. A payout counts whoever saw it; a failure only while the lease is ours."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        if isinstance(outcome, stripe_answers.BankPayout):
            await outcomes.settle(session, outcome)
        else:
            withdrawal = await find(session, intent.withdrawal_id, lock=True)
            is_ours = withdrawal.due_at == intent.leased_until
            if withdrawal.state in outcomes.IN_FLIGHT and is_ours:
                await outcomes.fail(session, withdrawal, outcome)
        await session.commit()
