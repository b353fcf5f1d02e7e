"""Money that comes back: one person asks, another approves; what Stripe reversed by itself is
explained by two people before it is booked.
"""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts.models import (
    PAYOUT_MOVES,
    REVERSAL_MOVES,
    Payout,
    PayoutState,
    ReversalCause,
    ReversalState,
    TransferReversal,
)
from marketplace.payouts.outcomes import NotProvenAbsent
from marketplace.payouts.service import OwnPayout, find_payout
from marketplace.shared import clock
from marketplace.shared.database import violated
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move, not_allowed
from marketplace.stripe_api.asking import NOT_FOUND
from marketplace.stripe_api.booked_lines import keep_line
from marketplace.stripe_api.gateway_answers import Reversal

PAID = (PayoutState.PAID, PayoutState.PARTLY_REVERSED)
IN_FLIGHT = (ReversalState.SENDING, ReversalState.UNKNOWN)
# Owed again, or a debt of the performer's that is paid.
CREDITED = {
    ReversalCause.WRONG_DESTINATION: AccountKind.PERFORMER_PAYABLE,
    ReversalCause.DUPLICATE: AccountKind.PERFORMER_RECEIVABLE,
    ReversalCause.FRAUD: AccountKind.PERFORMER_RECEIVABLE,
}


class MoreThanWasPaid(Conflict):
    """Not that much is left of this payout: count what came back, and what is asked for already."""

    code = "more_than_was_paid"


class ReversalAtWork(Conflict):
    """Another reversal of this payout is asked for and not over yet."""

    code = "reversal_at_work"


class AskerMayNotApprove(Forbidden):
    """A reversal is approved by somebody other than the person who asked for it."""

    code = "asker_may_not_approve"


async def ask(
    session: AsyncSession,
    *,
    payout_id: UUID,
    amount_minor: int,
    cause: ReversalCause,
    reason: str,
    asked_by: UUID,
) -> TransferReversal:
    """Ask for some of a paid payout, or all of it, to come back. Moves nothing yet."""
    payout = await find_payout(session, payout_id, lock=True)
    _require_other(payout, asked_by)
    if payout.state not in PAID or payout.transfer_id is None:
        raise not_allowed(payout, PAYOUT_MOVES, "Only what was paid can come back.")
    reversal = TransferReversal(
        payout_id=payout.id,
        transfer_id=payout.transfer_id,
        currency=payout.currency,
        amount_minor=amount_minor,
        cause=cause,
        reason=reason,
        state=ReversalState.ASKED,
        asked_by=asked_by,
        asked_at=await clock.now(session),
    )
    try:
        async with session.begin_nested():
            session.add(reversal)
    except sa.exc.IntegrityError as error:
        match violated(error):
            case "uq_transfer_reversal_at_work":
                raise ReversalAtWork from error
            case "transfer_reversal_fits":
                raise MoreThanWasPaid from error
        raise
    return reversal


async def explain(
    session: AsyncSession, *, reversal_id: UUID, cause: ReversalCause, reason: str, asked_by: UUID
) -> TransferReversal:
    """Say what a reversal is that was found at Stripe; somebody else approves that."""
    payout, reversal = await lock(session, reversal_id)
    _require_other(payout, asked_by)
    if reversal.state is not ReversalState.FOUND:
        raise not_allowed(reversal, REVERSAL_MOVES, "Its cause is known.")
    now = await clock.now(session)
    move(reversal, ReversalState.ASKED, REVERSAL_MOVES, reason=f"{cause.value}: {reason}")
    reversal.cause, reversal.reason = cause, reason
    reversal.asked_by, reversal.asked_at = asked_by, now
    await session.flush()
    return reversal


async def approve(session: AsyncSession, *, reversal_id: UUID, approver: UUID) -> TransferReversal:
    """The second person's yes: it is sent from now on, or booked if Stripe has it already."""
    payout, reversal = await lock(session, reversal_id)
    _require_second(payout, reversal, approver)
    if reversal.reversal_id is not None:
        await _book(session, payout, reversal, approver=approver)
        return reversal
    now = await clock.now(session)
    move(reversal, ReversalState.APPROVED, REVERSAL_MOVES)
    reversal.decided_by, reversal.decided_at, reversal.due_at = approver, now, now
    await session.flush()
    return reversal


async def reject(
    session: AsyncSession, *, reversal_id: UUID, reason: str, rejecter: UUID
) -> TransferReversal:
    """The second person's no. One that was found at Stripe waits for another explanation."""
    payout, reversal = await lock(session, reversal_id)
    _require_second(payout, reversal, rejecter)
    now = await clock.now(session)
    if reversal.reversal_id is not None:
        move(reversal, ReversalState.FOUND, REVERSAL_MOVES, reason=reason)
        reversal.cause = reversal.reason = reversal.asked_by = reversal.asked_at = None
    else:
        move(reversal, ReversalState.REJECTED, REVERSAL_MOVES, reason=reason)
        reversal.decided_by = rejecter
        reversal.decided_at = reversal.concluded_at = now
    await session.flush()
    return reversal


async def decide_absent(
    session: AsyncSession, *, reversal_id: UUID, reason: str, decider: UUID
) -> TransferReversal:
    """Finance ends an unknown outcome: Stripe forgot the key and, looked up since, has no such
    reversal. Only then may another be asked for.
    """
    payout, reversal = await lock(session, reversal_id)
    _require_other(payout, decider)
    if reversal.asked_by == decider:
        raise AskerMayNotApprove
    if reversal.state is not ReversalState.UNKNOWN:
        raise not_allowed(reversal, REVERSAL_MOVES, "Only an unknown outcome is decided.")
    if reversal.not_found_at is None:
        raise NotProvenAbsent
    await refuse(session, reversal, code=NOT_FOUND, message=reason, reason=reason)
    return reversal


async def find(session: AsyncSession, reversal_id: UUID) -> TransferReversal:
    reversal = await session.get(TransferReversal, reversal_id)
    if reversal is None:
        raise NotFound
    return reversal


async def lock(session: AsyncSession, reversal_id: UUID) -> tuple[Payout, TransferReversal]:
    """The payout first, then the reversal: one order for everybody."""
    payout_id = (await find(session, reversal_id)).payout_id
    payout = await find_payout(session, payout_id, lock=True)
    found = await session.exec(
        select(TransferReversal)
        .where(TransferReversal.id == reversal_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return payout, found.one()


def _require_other(payout: Payout, person: UUID) -> None:
    if payout.performer_id == person:
        raise OwnPayout


def _require_second(payout: Payout, reversal: TransferReversal, person: UUID) -> None:
    if reversal.asked_by == person:
        raise AskerMayNotApprove
    _require_other(payout, person)
    if reversal.state is not ReversalState.ASKED:
        raise not_allowed(reversal, REVERSAL_MOVES, "Nobody asks for it now.")


# What becomes of one; the caller holds both locks.


async def came_back(
    session: AsyncSession, payout: Payout, reversal: TransferReversal, seen: Reversal
) -> None:
    """Stripe has it: book it by its cause."""
    reversal.reversal_id = seen.id
    reversal.balance_transaction_id = seen.balance_transaction_id
    reversal.reversed_at = seen.created_at
    reversal.stripe_request_id = seen.request_id
    await _book(session, payout, reversal)


async def _book(
    session: AsyncSession,
    payout: Payout,
    reversal: TransferReversal,
    *,
    approver: UUID | None = None,
) -> None:
    assert reversal.cause is not None
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_REVERSED,
        source_id=reversal.id,
        currency=reversal.currency,
        moves=(
            (
                (AccountKind.STRIPE_AVAILABLE, None),
                (CREDITED[reversal.cause], payout.performer_id),
                reversal.amount_minor,
            ),
        ),
        occurred_at=reversal.reversed_at,
    )
    await ledger.post(session, posting)
    if reversal.balance_transaction_id is not None:
        await keep_line(
            session,
            reversal.balance_transaction_id,
            net_minor=reversal.amount_minor,
            currency=reversal.currency,
            booked=posting.id,
        )
    # Before the rest: reading the clock flushes what is set so far, and what is over is final.
    now = await clock.now(session)
    move(reversal, ReversalState.REVERSED, REVERSAL_MOVES)
    if approver is not None:
        reversal.decided_by, reversal.decided_at = approver, now
    reversal.due_at = None
    reversal.concluded_at, reversal.ledger_transaction_id = now, posting.id
    await session.flush()
    await _tell_payout(session, payout, f"Came back ({reversal.cause}): {reversal.reason}")


async def _tell_payout(session: AsyncSession, payout: Payout, reason: str) -> None:
    returned = await session.scalar(
        select(sa.func.sum(TransferReversal.amount_minor)).where(
            TransferReversal.payout_id == payout.id,
            col(TransferReversal.state) == ReversalState.REVERSED,
        )
    )
    to = PayoutState.REVERSED if returned == payout.amount_minor else PayoutState.PARTLY_REVERSED
    if payout.state is not to:
        move(payout, to, PAYOUT_MOVES)
    payout.state_reason = reason
    await session.flush()


async def refuse(
    session: AsyncSession, reversal: TransferReversal, *, code: str, message: str, reason: str
) -> None:
    """Nothing came back by it; another one may be asked for."""
    now = await clock.now(session)
    move(reversal, ReversalState.REFUSED, REVERSAL_MOVES, reason=reason)
    reversal.due_at = None
    reversal.concluded_at = now
    reversal.error_code, reversal.error_message = code, message
    await session.flush()


class TransferNotBooked(Exception):
    """Its payout is not given up, and no transfer of it is booked yet: it may be this one. Ask
    again once it is known what became of it.
    """


async def note_found(
    session: AsyncSession, *, transfer_id: str, seen: list[Reversal], payout_id: str = ""
) -> None:
    """Take note of what Stripe says came back of a transfer. Repeating this changes nothing.

    One that a sender of ours still waits for is booked; one that nobody asked for is named to
    finance, who say what it is. `payout_id` is what the transfer itself says it is of.
    """
    owner = await session.scalar(select(Payout.id).where(Payout.transfer_id == transfer_id))
    if owner is None:
        await _require_not_adopted_later(session, payout_id)
        return
    payout = await find_payout(session, owner, lock=True)
    rows = await session.exec(
        select(TransferReversal)
        .where(TransferReversal.payout_id == payout.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    ours = list(rows)
    known = {each.reversal_id for each in ours}
    awaited = {str(each.id): each for each in ours if each.state in IN_FLIGHT}
    # Stripe lists the newest first.
    for each in reversed(seen):
        if each.id in known:
            continue
        mine = awaited.get(each.metadata.get("reversal_id", ""))
        if mine is not None and mine.amount_minor == each.amount_minor:
            await came_back(session, payout, mine, each)
        else:
            session.add(_found(payout, each))
            await session.flush()


async def _require_not_adopted_later(session: AsyncSession, payout_id: str) -> None:
    """A transfer that came in late is booked when its payout is looked at before another try."""
    may_be_its = select(Payout.id).where(
        sa.cast(Payout.id, sa.Text) == payout_id,
        col(Payout.transfer_id).is_(None),
        Payout.state != PayoutState.RELEASED,
    )
    if await session.scalar(may_be_its) is not None:
        raise TransferNotBooked


def _found(payout: Payout, seen: Reversal) -> TransferReversal:
    return TransferReversal(
        payout_id=payout.id,
        transfer_id=seen.transfer_id,
        currency=payout.currency,
        amount_minor=seen.amount_minor,
        state=ReversalState.FOUND,
        state_reason=f"Stripe has {seen.id}, which nobody here asked for: say what it is.",
        reversal_id=seen.id,
        balance_transaction_id=seen.balance_transaction_id,
        reversed_at=seen.created_at,
    )
