"""What becomes of an attempt: paid, refused, or not known; the books follow what is proven."""

import logging
from datetime import timedelta
from uuid import UUID

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
    RunState,
)
from marketplace.payouts.service import find_payout, find_run, require_second_person
from marketplace.shared import clock
from marketplace.shared.problems import Conflict
from marketplace.shared.states import move, not_allowed
from marketplace.stripe_api.asking import NOT_FOUND, Failure, wait
from marketplace.stripe_api.booked_lines import LineBookedOtherwise, keep_line
from marketplace.stripe_api.gateway_answers import Transfer

log = logging.getLogger(__name__)

WAIT_FOR_FUNDS = timedelta(hours=1)
# Two senders may both have seen enough; this one waits for funds like any other.
NO_FUNDS = "balance_insufficient"


async def conclude(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, outcome: Transfer | Failure
) -> None:
    if isinstance(outcome, Transfer):
        if is_of(outcome, payout):
            await _paid_or_unknown(session, payout, attempt, outcome)
        else:
            await _unknown(session, payout, contradiction(outcome))
    elif outcome.refused:
        reason = f"Stripe refused it ({outcome.code}): {outcome.message}"
        await _refused(session, payout, attempt, outcome, reason=reason)
        run = await find_run(session, payout.run_id)
        if outcome.code == NO_FUNDS and run.state is not RunState.DRAFT:
            await wait_for_funds(session, payout)
    else:
        await _unknown(session, payout, outcome)
        if outcome.code == NOT_FOUND:
            attempt.not_found_at = await clock.now(session)


def is_of(transfer: Transfer, payout: Payout) -> bool:
    """It moved what was approved; the database keeps an attempt's request equal to its payout."""
    return (transfer.amount_minor, transfer.currency, transfer.destination) == (
        payout.amount_minor,
        payout.currency,
        payout.destination,
    )


def contradiction(transfer: Transfer) -> Failure:
    return Failure(
        refused=False,
        code="contradiction",
        message=f"{not_as_approved(transfer)}. "
        "It is looked for again, and once it is gone finance decides.",
    )


def not_as_approved(transfer: Transfer) -> str:
    return f"Stripe's {transfer.id} is not what was approved: reverse it there"


async def found_too_late(session: AsyncSession, payout: Payout, transfer: Transfer) -> None:
    """A transfer of an attempt that was called absent: nobody pays it again without a look."""
    if payout.transfer_id == transfer.id:
        return
    log.error("Stripe has %s of payout %s, which is %s", transfer.id, payout.id, payout.state)
    reason = f"Stripe has {transfer.id} of it after all: {_remedy(payout)}"
    if payout.state in (PayoutState.APPROVED, PayoutState.REFUSED):
        move(payout, PayoutState.HELD, PAYOUT_MOVES)
        payout.due_at = None
    payout.state_reason = reason
    await session.flush()


def _remedy(payout: Payout) -> str:
    booked = "and that one is booked; no other is sent."
    match payout.state:
        case PayoutState.DRAFT:
            return f"approve its run, {booked}"
        case PayoutState.RELEASED:
            return f"reissue this payout, {booked}"
        case PayoutState.SENDING | PayoutState.UNKNOWN:
            return "another one is on its way, so reverse this one there."
        case PayoutState.APPROVED | PayoutState.HELD | PayoutState.REFUSED:
            return f"approve it, {booked}"
    return f"it is paid by {payout.transfer_id} already, so reverse this one there."


async def _paid_or_unknown(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, transfer: Transfer
) -> None:
    try:
        async with session.begin_nested():
            await paid(session, payout, attempt, transfer)
    except LineBookedOtherwise as error:
        await session.refresh(payout)
        await session.refresh(attempt)
        reason = f"Stripe has {transfer.id} of it. {error.detail}"
        await _unknown(session, payout, Failure(refused=False, code=error.code, message=reason))


async def paid(
    session: AsyncSession, payout: Payout, attempt: PayoutAttempt, transfer: Transfer
) -> None:
    """The transfer has moved what the attempt asked for. Raises LineBookedOtherwise."""
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_CONFIRMED,
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
        await keep_line(
            session,
            transfer.balance_transaction_id,
            net_minor=-payout.amount_minor,
            currency=payout.currency,
            booked=posting.id,
        )
    await _close_attempt(session, attempt, AttemptOutcome.SUCCEEDED, posting.id)
    attempt.transfer_id = transfer.id
    attempt.stripe_request_id = transfer.request_id
    await session.flush()
    found = f"Stripe's answer was lost at first; asked again, it has {transfer.id}."
    was_unknown = payout.state is PayoutState.UNKNOWN
    move(payout, PayoutState.PAID, PAYOUT_MOVES, reason=found if was_unknown else None)
    payout.transfer_id = transfer.id
    payout.due_at = None
    await session.flush()


async def _refused(
    session: AsyncSession,
    payout: Payout,
    attempt: PayoutAttempt,
    failure: Failure,
    *,
    reason: str,
) -> None:
    """The attempt moved nothing; what it paid is owed again."""
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_REFUSED,
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
    await session.flush()
    move(payout, PayoutState.REFUSED, PAYOUT_MOVES, reason=reason)
    payout.due_at = None
    await session.flush()


async def wait_for_funds(session: AsyncSession, payout: Payout) -> None:
    due_at = await clock.now(session) + WAIT_FOR_FUNDS
    reason = f"Waits for funds at Stripe; looked at again by {due_at:%Y-%m-%d %H:%M} UTC."
    if payout.state is PayoutState.REFUSED:
        move(payout, PayoutState.APPROVED, PAYOUT_MOVES)
    payout.state_reason, payout.due_at = reason, due_at
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
    payout.due_at = await clock.now(session) + wait(payout.tries)
    await session.flush()


class NotProvenAbsent(Conflict):
    """Stripe is still asked about this payout; decide once a look-up finds no transfer of it."""

    code = "not_proven_absent"


async def decide_absent(
    session: AsyncSession, *, payout_id: UUID, reason: str, decider: UUID
) -> Payout:
    """Finance ends an unknown outcome: Stripe forgot the key and, looked up since, has no transfer.

    Only then may it be approved again, with a new key.
    """
    payout = await find_payout(session, payout_id, lock=True)
    # Who edited the run may say so: their edits were of other payouts, and this approves nothing.
    require_second_person(await find_run(session, payout.run_id), payout, decider)
    if payout.state is not PayoutState.UNKNOWN:
        raise not_allowed(payout, PAYOUT_MOVES, "Only an unknown outcome is decided.")
    found = await session.exec(
        select(PayoutAttempt)
        .where(PayoutAttempt.payout_id == payout.id, col(PayoutAttempt.outcome).is_(None))
        .with_for_update()
    )
    attempt = found.one()
    if attempt.not_found_at is None:
        raise NotProvenAbsent
    failure = Failure(refused=True, code=NOT_FOUND, message=reason)
    await _refused(session, payout, attempt, failure, reason=reason)
    return payout
