"""What finance does with a withdrawal: one asks for it, another approves it, and never more than is
the platform's own.
"""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.bank.models import WITHDRAWAL_MOVES, Withdrawal, WithdrawalState
from marketplace.shared import clock
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move, not_allowed


class NotCovered(Conflict):
    """Less than that is the platform's own at Stripe; the rest is owed to others."""

    code = "withdrawal_not_covered"


class RequesterMayNotDecide(Forbidden):
    """A withdrawal is decided by somebody other than the person who asked for it."""

    code = "requester_may_not_decide"


class WithdrawalNotProvenAbsent(Conflict):
    """Stripe is still asked about this withdrawal; decide once a look-up finds no payout of it."""

    code = "not_proven_absent"


async def withdrawable_minor(session: AsyncSession, currency: str) -> int:
    """What is at Stripe by the ledger beyond all that is owed, or on its way; may be negative."""
    free = await session.scalar(
        sa.text("SELECT withdrawable_minor(:currency)"), {"currency": currency}
    )
    return int(free or 0)


async def request(
    session: AsyncSession, *, amount_minor: int, currency: str, reason: str, requested_by: UUID
) -> Withdrawal:
    await _require_covered(session, amount_minor, currency)
    withdrawal = Withdrawal(
        currency=currency,
        amount_minor=amount_minor,
        reason=reason,
        requested_by=requested_by,
        state=WithdrawalState.REQUESTED,
    )
    session.add(withdrawal)
    await session.flush()
    await session.refresh(withdrawal)
    return withdrawal


async def _require_covered(session: AsyncSession, amount_minor: int, currency: str) -> None:
    """For an answer at once; what binds is looked at again when it is sent."""
    free = await withdrawable_minor(session, currency)
    if amount_minor > free:
        raise NotCovered(withdrawable_minor=max(free, 0), currency=currency)


async def find(session: AsyncSession, withdrawal_id: UUID, *, lock: bool = False) -> Withdrawal:
    query = select(Withdrawal).where(Withdrawal.id == withdrawal_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    withdrawal = (await session.exec(query)).first()
    if withdrawal is None:
        raise NotFound
    return withdrawal


async def approve(session: AsyncSession, *, withdrawal_id: UUID, approver: UUID) -> Withdrawal:
    """Let it be sent."""
    withdrawal = await find(session, withdrawal_id, lock=True)
    if withdrawal.requested_by == approver:
        raise RequesterMayNotDecide
    now = await clock.now(session)
    if withdrawal.state is WithdrawalState.REQUESTED:
        await _require_covered(session, withdrawal.amount_minor, withdrawal.currency)
    move(withdrawal, WithdrawalState.APPROVED, WITHDRAWAL_MOVES)
    withdrawal.approved_by, withdrawal.approved_at, withdrawal.due_at = approver, now, now
    await session.flush()
    return withdrawal


async def discard(session: AsyncSession, *, withdrawal_id: UUID, reason: str) -> Withdrawal:
    """Give it up before it is sent."""
    withdrawal = await find(session, withdrawal_id, lock=True)
    move(withdrawal, WithdrawalState.DISCARDED, WITHDRAWAL_MOVES, reason=reason)
    withdrawal.due_at = None
    await session.flush()
    return withdrawal


async def require_absent(
    session: AsyncSession, *, withdrawal_id: UUID, decider: UUID
) -> Withdrawal:
    """The withdrawal, locked, of which finance may say that Stripe never made it."""
    withdrawal = await find(session, withdrawal_id, lock=True)
    if withdrawal.requested_by == decider:
        raise RequesterMayNotDecide
    if withdrawal.state is not WithdrawalState.UNKNOWN:
        raise not_allowed(withdrawal, WITHDRAWAL_MOVES, "Only an unknown outcome is decided.")
    if withdrawal.not_found_at is None:
        raise WithdrawalNotProvenAbsent
    return withdrawal
