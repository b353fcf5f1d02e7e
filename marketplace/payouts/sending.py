"""Sending money: commit the intent, call Stripe, commit the outcome.

A kill between any two steps leaves a row that says what to do: the same attempt is asked again with
the same key. After an unknown outcome there is never a new key. Stripe is never called inside a
transaction.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts.models import (
    PAYOUT_MOVES,
    AttemptOutcome,
    Payout,
    PayoutAttempt,
    PayoutState,
)
from marketplace.payouts.service import find_payout
from marketplace.performers.models import PayoutAccount, TransfersCapability
from marketplace.shared import audit, clock
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
from marketplace.stripe_api.models import BookedBalanceTransaction

# Stripe may forget a key after 24 h; after this a transfer is looked up instead of asked for.
KEY_SERVES = timedelta(hours=23)
# Longer than a call to Stripe may take; after it another process may go on.
LEASE = timedelta(seconds=60)
LONGEST_WAIT = timedelta(hours=1)
WAIT_FOR_FUNDS = timedelta(hours=1)
IN_FLIGHT = (PayoutState.SENDING, PayoutState.UNKNOWN)
ACTOR = "sweep:payouts"


@dataclass(frozen=True)
class Intent:
    """A committed attempt: exactly what Stripe is asked, however often."""

    attempt_id: UUID
    payout_id: UUID
    key: str
    amount_minor: int
    currency: str
    destination: str
    committed_at: datetime
    now: datetime

    @property
    def key_serves(self) -> bool:
        return self.now - self.committed_at < KEY_SERVES


@dataclass(frozen=True)
class Failure:
    """Why there is no transfer: definitively refused, or not known."""

    refused: bool
    code: str
    message: str
    request_id: str | None = None
    # Null: no use in asking again; a person must look.
    ask_again: bool = True


async def send_due(sessions: Sessions, gateway: StripeGateway, *, most: int = 100) -> int:
    """Send what is approved and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (payout := await _take_due(sessions)) is not None:
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
            locked.due_at = await clock.now(session) + WAIT_FOR_FUNDS
            locked.state_reason = (
                f"Waits for funds at Stripe; looked at again by {locked.due_at:%Y-%m-%d %H:%M} UTC."
            )
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
        source_type="payout_attempt",
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
        amount_minor=attempt.request["amount_minor"],
        currency=attempt.request["currency"],
        destination=attempt.request["destination"],
        committed_at=attempt.committed_at,
        now=now,
    )


async def _ask_stripe(gateway: StripeGateway, intent: Intent) -> Transfer | Failure:
    """Step 2, outside any transaction. Younger than 23 h: the same key; older: look it up."""
    try:
        if not intent.key_serves:
            return await _look_up(gateway, intent)
        transfer = await gateway.send_transfer(
            amount_minor=intent.amount_minor,
            currency=intent.currency,
            destination=intent.destination,
            transfer_group=f"payout-{intent.payout_id}",
            metadata=_metadata(intent),
            idempotency_key=intent.key,
        )
    except StripeRefused as error:
        return Failure(
            refused=True, code=error.code, message=error.message, request_id=error.request_id
        )
    except (StripeBusy, StripeMisconfigured, StripeOutcomeUnknown) as error:
        return Failure(refused=False, code=type(error).__name__, message=str(error))
    return transfer


def _metadata(intent: Intent) -> dict[str, str]:
    return {"payout_id": str(intent.payout_id), "attempt": intent.key.rpartition("-")[2]}


async def _look_up(gateway: StripeGateway, intent: Intent) -> Transfer | Failure:
    for transfer in await gateway.find_transfers(transfer_group=f"payout-{intent.payout_id}"):
        if transfer.metadata == _metadata(intent):
            return transfer
    return Failure(
        refused=False,
        code="not_found",
        message="Stripe has no such transfer, and its key is too old to ask again: finance decides.",
        ask_again=False,
    )


async def _commit_outcome(sessions: Sessions, intent: Intent, outcome: Transfer | Failure) -> None:
    """Step 3."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        payout = await find_payout(session, intent.payout_id, lock=True)
        attempt = await session.get_one(PayoutAttempt, intent.attempt_id, with_for_update=True)
        if attempt.outcome is None and payout.state in IN_FLIGHT:
            await _conclude(session, payout, attempt, outcome)
        await session.commit()


async def _conclude(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, outcome: Transfer | Failure
) -> None:
    if isinstance(outcome, Transfer):
        if _is_ours(outcome, attempt):
            await _paid(session, payout, attempt, outcome)
        else:
            await _unknown(session, payout, _contradiction(outcome))
    elif outcome.refused:
        await _refused(session, payout, attempt, outcome)
    else:
        await _unknown(session, payout, outcome)


def _is_ours(transfer: Transfer, attempt: PayoutAttempt) -> bool:
    asked = attempt.request
    return (transfer.amount_minor, transfer.currency, transfer.destination) == (
        asked["amount_minor"],
        asked["currency"],
        asked["destination"],
    )


def _contradiction(transfer: Transfer) -> Failure:
    return Failure(
        refused=False,
        code="contradiction",
        message=f"Stripe's {transfer.id} is not what was asked for: finance must look.",
        ask_again=False,
    )


async def _paid(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, transfer: Transfer
) -> None:
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_CONFIRMED,
        source_type="payout_attempt",
        source_id=attempt.id,
        currency=payout.currency,
        moves=(
            (
                (AccountKind.TRANSFERS_IN_FLIGHT, None),
                (AccountKind.STRIPE_AVAILABLE, None),
                payout.amount_minor,
            ),
        ),
        occurred_at=transfer.created_at,
    )
    await ledger.post(session, posting)
    if transfer.balance_transaction_id:
        session.add(
            BookedBalanceTransaction(
                id=transfer.balance_transaction_id,
                net_minor=-payout.amount_minor,
                currency=payout.currency,
                ledger_transaction_id=posting.id,
            )
        )
    await _close_attempt(session, attempt, AttemptOutcome.SUCCEEDED, posting.id)
    attempt.transfer_id = transfer.id
    attempt.stripe_request_id = transfer.request_id
    move(payout, PayoutState.PAID, PAYOUT_MOVES)
    payout.transfer_id = transfer.id
    payout.due_at = None
    await session.flush()


async def _refused(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, failure: Failure
) -> None:
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_REFUSED,
        source_type="payout_attempt",
        source_id=attempt.id,
        currency=payout.currency,
        moves=(
            (
                (AccountKind.TRANSFERS_IN_FLIGHT, None),
                (AccountKind.PERFORMER_PAYABLE, payout.performer_id),
                payout.amount_minor,
            ),
        ),
    )
    await ledger.post(session, posting)
    await _close_attempt(session, attempt, AttemptOutcome.REFUSED, posting.id)
    attempt.error_code = failure.code
    attempt.error_message = failure.message
    attempt.stripe_request_id = failure.request_id
    move(
        payout,
        PayoutState.REFUSED,
        PAYOUT_MOVES,
        reason=f"Stripe refused it ({failure.code}): {failure.message}",
    )
    payout.due_at = None
    await session.flush()


async def _close_attempt(
    session: AsyncSession, attempt: PayoutAttempt, outcome: AttemptOutcome, posting_id: UUID
) -> None:
    # First of all: reading the clock flushes what is set so far, and a concluded attempt is final.
    now = await clock.now(session)
    attempt.outcome, attempt.concluded_at = outcome, now
    attempt.conclusion_transaction_id = posting_id


async def _unknown(session: AsyncSession, payout: Payout, failure: Failure) -> None:
    """Nothing is proven: keep the attempt and its key, and look again after a growing wait."""
    if payout.state is PayoutState.SENDING:
        move(payout, PayoutState.UNKNOWN, PAYOUT_MOVES)
    payout.state_reason = failure.message[:500]
    payout.tries += 1
    wait = min(timedelta(seconds=2 ** min(payout.tries, 12)), LONGEST_WAIT)
    payout.due_at = await clock.now(session) + wait if failure.ask_again else None
    await session.flush()


async def _postpone(sessions: Sessions, payout_id: UUID, reason: str) -> None:
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        payout = await find_payout(session, payout_id, lock=True)
        if payout.state is PayoutState.APPROVED:
            payout.tries += 1
            wait = min(timedelta(seconds=2 ** min(payout.tries, 12)), LONGEST_WAIT)
            payout.due_at = await clock.now(session) + wait
            payout.state_reason = reason[:500]
        await session.commit()
