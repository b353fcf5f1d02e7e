"""What becomes of a withdrawal: on its way, arrived, returned, refused, or not known."""

import logging
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.bank import withdrawals
from marketplace.bank.models import WITHDRAWAL_MOVES, Withdrawal, WithdrawalState
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import clock
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.asking import NOT_FOUND, Failure, wait
from marketplace.stripe_api.booked_lines import LineBookedOtherwise, keep_line, post_with_line

log = logging.getLogger(__name__)

IN_FLIGHT = (WithdrawalState.SENDING, WithdrawalState.UNKNOWN)
LOOK_IN_TRANSIT = timedelta(hours=1)
LOOK_ARRIVED = timedelta(hours=12)
# Banks send back within days; what comes later comes by event and among Stripe's lines.
WATCHED_AFTER_ARRIVAL = timedelta(days=30)

CAPITAL = (AccountKind.PLATFORM_CAPITAL, None)
IN_TRANSIT = (AccountKind.BANK_IN_TRANSIT, None)
AVAILABLE = (AccountKind.STRIPE_AVAILABLE, None)
# Debit, credit.
SIDES = {
    TransactionKind.WITHDRAWAL_SENT: (CAPITAL, IN_TRANSIT),
    TransactionKind.WITHDRAWAL_CONFIRMED: (IN_TRANSIT, AVAILABLE),
    TransactionKind.WITHDRAWAL_REFUSED: (IN_TRANSIT, CAPITAL),
    TransactionKind.WITHDRAWAL_RETURNED: (AVAILABLE, CAPITAL),
}


async def settle(session: AsyncSession, seen: stripe_answers.BankPayout) -> None:
    """Bring a withdrawal to what Stripe says of its payout now. Repeating this changes nothing."""
    withdrawal = await _withdrawal_of(session, seen)
    if withdrawal is None:
        return
    if withdrawal.state in IN_FLIGHT:
        await _confirm(session, withdrawal, seen)
    if withdrawal.stripe_payout_id != seen.id:
        await _found_too_late(session, withdrawal, seen)
        return
    await _name_line(session, withdrawal, seen)
    if seen.status == "paid" and withdrawal.state is WithdrawalState.IN_TRANSIT:
        move(withdrawal, WithdrawalState.ARRIVED, WITHDRAWAL_MOVES)
    elif seen.status in {"failed", "canceled"} and withdrawal.state is not WithdrawalState.RETURNED:
        await _return(session, withdrawal, seen)
    await _look_again(session, withdrawal, seen)
    await session.flush()


async def _withdrawal_of(
    session: AsyncSession, seen: stripe_answers.BankPayout
) -> Withdrawal | None:
    """By Stripe's id, or, before that is known here, by the id of ours that it carries."""
    found = await session.exec(
        select(Withdrawal)
        .where(
            sa.or_(
                col(Withdrawal.stripe_payout_id) == seen.id,
                sa.cast(Withdrawal.id, sa.Text) == seen.metadata.get("withdrawal_id", ""),
            )
        )
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return found.first()


async def _confirm(
    session: AsyncSession, withdrawal: Withdrawal, seen: stripe_answers.BankPayout
) -> None:
    """It exists: the money has left Stripe's balance, whatever becomes of it at the bank."""
    if (seen.amount_minor, seen.currency) != (withdrawal.amount_minor, withdrawal.currency):
        await unknown(session, withdrawal, _contradiction(seen))
        return
    booked = await _post(session, withdrawal, TransactionKind.WITHDRAWAL_CONFIRMED)
    found = f"Stripe's answer was lost at first; asked again, it has {seen.id}."
    was_unknown = withdrawal.state is WithdrawalState.UNKNOWN
    # All at once: the database takes a state only with what proves it.
    withdrawal.conclusion_transaction_id = booked
    withdrawal.stripe_payout_id = seen.id
    withdrawal.stripe_request_id = seen.request_id
    move(
        withdrawal,
        WithdrawalState.IN_TRANSIT,
        WITHDRAWAL_MOVES,
        reason=found if was_unknown else None,
    )
    withdrawal.tries = 0
    await session.flush()


def _contradiction(seen: stripe_answers.BankPayout) -> Failure:
    return Failure(
        refused=False,
        code="contradiction",
        message=f"Stripe's {seen.id} is not what was approved: {seen.amount_minor} {seen.currency}. "
        "Cancel it there; its lines are among the exceptions.",
    )


async def _found_too_late(
    session: AsyncSession, withdrawal: Withdrawal, seen: stripe_answers.BankPayout
) -> None:
    """A payout of a withdrawal that was called absent: its line waits for finance."""
    if withdrawal.state is WithdrawalState.UNKNOWN:
        return
    log.error("Stripe has %s of withdrawal %s, %s", seen.id, withdrawal.id, withdrawal.state)
    withdrawal.state_reason = (
        f"Stripe has {seen.id} of it after all: book its line as the platform's capital."
    )
    await session.flush()


async def _name_line(
    session: AsyncSession, withdrawal: Withdrawal, seen: stripe_answers.BankPayout
) -> None:
    """Which of Stripe's lines it is, as soon as Stripe says so."""
    booked, line_id = withdrawal.conclusion_transaction_id, seen.balance_transaction_id
    assert booked is not None
    if line_id is None:
        return
    minor, currency = -withdrawal.amount_minor, withdrawal.currency
    try:
        await keep_line(session, line_id, net_minor=minor, currency=currency, booked=booked)
    except LineBookedOtherwise:
        log.exception("Stripe's line %s of withdrawal %s", line_id, withdrawal.id)
        withdrawal.state_reason = f"Finance must look: {line_id} is booked by hand as well."


async def _return(
    session: AsyncSession, withdrawal: Withdrawal, seen: stripe_answers.BankPayout
) -> None:
    """The bank sent it back, or it never left: it is ours at Stripe again."""
    why = seen.failure_message or f"It was {seen.status} at Stripe."
    line_id = seen.failure_balance_transaction_id
    if line_id is None:
        withdrawal.state_reason = f"{why} Stripe has not named its line yet."
        return
    posting = _posting(withdrawal, TransactionKind.WITHDRAWAL_RETURNED)
    if not await post_with_line(session, posting, line_id, net_minor=withdrawal.amount_minor):
        withdrawal.state_reason = f"{why} Finance has booked {line_id} by hand: all is done."
        return
    withdrawal.return_transaction_id = posting.id
    withdrawal.error_code = seen.failure_code
    move(withdrawal, WithdrawalState.RETURNED, WITHDRAWAL_MOVES, reason=why)


async def _look_again(
    session: AsyncSession, withdrawal: Withdrawal, seen: stripe_answers.BankPayout
) -> None:
    withdrawal.arrives_at = seen.arrives_at
    now = await clock.now(session)
    match withdrawal.state:
        case WithdrawalState.IN_TRANSIT:
            withdrawal.due_at = now + LOOK_IN_TRANSIT
        case WithdrawalState.ARRIVED if now < seen.arrives_at + WATCHED_AFTER_ARRIVAL:
            withdrawal.due_at = now + LOOK_ARRIVED
        case _:
            withdrawal.due_at = None


async def fail(session: AsyncSession, withdrawal: Withdrawal, failure: Failure) -> None:
    """Of one that is in flight."""
    if failure.refused:
        reason = f"Stripe refused it ({failure.code}): {failure.message}"
        await refuse(session, withdrawal, failure, reason=reason)
        return
    await unknown(session, withdrawal, failure)
    if failure.code == NOT_FOUND:
        withdrawal.not_found_at = await clock.now(session)
        await session.flush()


async def refuse(
    session: AsyncSession, withdrawal: Withdrawal, failure: Failure, *, reason: str
) -> None:
    """Nothing moved; another withdrawal is another row, with a key of its own."""
    booked = await _post(session, withdrawal, TransactionKind.WITHDRAWAL_REFUSED)
    withdrawal.conclusion_transaction_id = booked
    withdrawal.error_code = failure.code
    withdrawal.stripe_request_id = failure.request_id
    withdrawal.due_at = None
    move(withdrawal, WithdrawalState.REFUSED, WITHDRAWAL_MOVES, reason=reason)
    await session.flush()


async def unknown(session: AsyncSession, withdrawal: Withdrawal, failure: Failure) -> None:
    """Nothing is proven: keep its key, and look again after a growing wait."""
    now = await clock.now(session)
    if withdrawal.state is WithdrawalState.SENDING:
        move(withdrawal, WithdrawalState.UNKNOWN, WITHDRAWAL_MOVES)
    withdrawal.state_reason = failure.message[:500]
    withdrawal.tries += 1
    withdrawal.due_at = now + wait(withdrawal.tries)
    await session.flush()


async def decide_absent(
    session: AsyncSession, *, withdrawal_id: UUID, reason: str, decider: UUID
) -> Withdrawal:
    """Finance ends an unknown outcome: Stripe forgot the key and, looked up since, has no payout."""
    withdrawal = await withdrawals.require_absent(
        session, withdrawal_id=withdrawal_id, decider=decider
    )
    withdrawal.decided_by = decider
    failure = Failure(refused=True, code=NOT_FOUND, message=reason)
    await refuse(session, withdrawal, failure, reason=reason)
    return withdrawal


async def post_sent(session: AsyncSession, withdrawal: Withdrawal) -> UUID:
    return await _post(session, withdrawal, TransactionKind.WITHDRAWAL_SENT)


async def _post(session: AsyncSession, withdrawal: Withdrawal, kind: TransactionKind) -> UUID:
    posting = _posting(withdrawal, kind)
    await ledger.post(session, posting)
    return posting.id


def _posting(withdrawal: Withdrawal, kind: TransactionKind) -> ledger.Posting:
    return ledger.Posting(
        kind=kind,
        source_id=withdrawal.id,
        currency=withdrawal.currency,
        moves=((*SIDES[kind], withdrawal.amount_minor),),
    )
