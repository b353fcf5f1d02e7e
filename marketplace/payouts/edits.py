"""What finance may change of a run: a payout is given up or kept back before it is sent.

After the run's approval that voids it: what is not sent yet is approved anew, by somebody else than
who prepared the run and who edited it since. What is sent stays.
"""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import (
    PAYOUT_MOVES,
    RUN_MOVES,
    Payout,
    PayoutLine,
    PayoutState,
    RunState,
)
from marketplace.payouts.service import OwnPayout, find_payout, find_run
from marketplace.shared.states import move

EDITED = "Edited since its approval; approve it again."
VOIDED = "Its run was edited since its approval; it waits to be approved again."


async def release(session: AsyncSession, *, payout_id: UUID, reason: str, editor: UUID) -> Payout:
    """Give one payout up before it is sent; its earnings are free for the next run."""
    payout = await _lock_to_edit(session, payout_id, editor)
    move(payout, PayoutState.RELEASED, PAYOUT_MOVES, reason=reason)
    payout.due_at = None
    await session.execute(
        sa.update(PayoutLine)
        .where(col(PayoutLine.payout_id) == payout.id)
        .values(released_at=sa.func.marketplace_now())
    )
    await session.flush()
    await _void_approval(session, payout.run_id, editor)
    return payout


async def hold(session: AsyncSession, *, payout_id: UUID, reason: str, editor: UUID) -> Payout:
    """Keep one payout back before it is sent, until somebody approves it again."""
    payout = await _lock_to_edit(session, payout_id, editor)
    move(payout, PayoutState.HELD, PAYOUT_MOVES, reason=reason)
    payout.due_at = None
    await session.flush()
    await _void_approval(session, payout.run_id, editor)
    return payout


async def _lock_to_edit(session: AsyncSession, payout_id: UUID, editor: UUID) -> Payout:
    """The run first, then its payouts: one order for everybody."""
    await find_run(session, (await find_payout(session, payout_id)).run_id, lock=True)
    payout = await find_payout(session, payout_id, lock=True)
    if payout.performer_id == editor:
        raise OwnPayout
    return payout


async def _void_approval(session: AsyncSession, run_id: UUID, editor: UUID) -> None:
    """What two people agreed on has changed: what is not sent yet is approved anew, by somebody
    else than who changed it. What is sent stays.
    """
    run = await find_run(session, run_id, lock=True)
    is_all_sent = await _is_all_sent(session, run_id)
    # In one flush: who edits it may be who approved it.
    run.edited_by = sorted({*run.edited_by, editor})
    if is_all_sent:
        await session.flush()
        return
    if run.state is not RunState.DRAFT:
        # Whoever approves it again is told that it was paused, and why.
        paused = f" It was paused: {run.state_reason}" if run.state is RunState.PAUSED else ""
        move(run, RunState.DRAFT, RUN_MOVES, reason=EDITED + paused)
        run.approved_by = run.approved_at = None
    await session.flush()
    await session.execute(
        sa.update(Payout)
        .where(col(Payout.run_id) == run_id, col(Payout.state) == PayoutState.APPROVED)
        .values(state=PayoutState.DRAFT, due_at=None, state_reason=VOIDED)
        .execution_options(synchronize_session=False)
    )


async def _is_all_sent(session: AsyncSession, run_id: UUID) -> bool:
    """Nothing waits for its first or next attempt by this approval."""
    unsent = select(Payout.id).where(
        Payout.run_id == run_id,
        col(Payout.state).in_((PayoutState.DRAFT, PayoutState.APPROVED)),
    )
    return (await session.exec(unsent)).first() is None
