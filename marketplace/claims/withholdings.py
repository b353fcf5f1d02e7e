"""Not paying for time takes a ground, a written reason and two people, in time.

The money waits in the claim's own reserve, and goes back to the client when the time for an appeal
is over.
"""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims import settlement
from marketplace.claims.models import (
    WITHHOLDING_MOVES,
    Claim,
    Withholding,
    WithholdingGround,
    WithholdingState,
)
from marketplace.funding import reserves
from marketplace.funding.models import Reservation
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move

# How long withheld money stays set aside for an appeal.
APPEAL_WITHIN = timedelta(days=30)


async def propose(
    session: AsyncSession,
    locked: settlement.Locked,
    *,
    ground: WithholdingGround,
    reason: str,
    proposed_by: UUID,
) -> Withholding:
    """One person's word that the time of an ended claim should not be paid; needs a second's."""
    claim = locked.claim
    await settlement.require_impartial(session, claim, proposed_by)
    await _require_open_to_decision(session, claim)
    withholding = Withholding(
        claim_id=claim.id,
        state=WithholdingState.PROPOSED,
        ground=ground,
        reason=reason,
        proposed_by=proposed_by,
    )
    session.add(withholding)
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        raise Conflict("Withholding is proposed for this claim already.") from error
    return withholding


async def proposed_for(session: AsyncSession, claim_id: UUID) -> UUID | None:
    """The proposal that waits for a second person, if there is one."""
    found = await session.exec(
        select(Withholding.id).where(
            Withholding.claim_id == claim_id, Withholding.state == WithholdingState.PROPOSED
        )
    )
    return found.first()


async def decide(
    session: AsyncSession, *, withholding_id: UUID, confirm: bool, reason: str, decided_by: UUID
) -> Withholding:
    """The second person's word: confirm, and the time is not paid; reject, and it is paid now."""
    withholding = await session.get(Withholding, withholding_id)
    if withholding is None:
        raise NotFound
    locked = await settlement.lock(session, withholding.claim_id)
    await session.refresh(withholding, with_for_update=True)
    if decided_by == withholding.proposed_by:
        raise settlement.SecondPersonNeeded
    await settlement.require_impartial(session, locked.claim, decided_by)
    to = WithholdingState.CONFIRMED if confirm else WithholdingState.REJECTED
    move(withholding, to, WITHHOLDING_MOVES, reason=reason)
    withholding.decided_by = decided_by
    if confirm:
        await _require_open_to_decision(session, locked.claim)
        await settlement.withhold(session, locked.claim, withholding)
    else:
        await settlement.pay_undecided(session, locked.claim, decided_by=decided_by)
    return withholding


async def _require_open_to_decision(session: AsyncSession, claim: Claim) -> None:
    """Overdue means pay, also in the moments before the sweep comes by."""
    if claim.pay_due_at is None or claim.pay_due_at <= await clock.now(session):
        raise settlement.PayAlreadyDecided("This claim's pay is not open to a decision.")


async def return_unclaimed(sessions: Sessions) -> int:
    """Withheld money goes back to the client when the time for an appeal is over, and nobody proposes
    to pay it after all.
    """
    due = sa.text(
        "SELECT claim.id FROM pay_decision JOIN claim ON claim.id = pay_decision.claim_id"
        " JOIN account_balance ON account_id ="
        "  account_id('job_reserve', claim.reservation_id, claim.currency)"
        " WHERE outcome = 'withhold' AND balance_minor > 0"
        "  AND decided_at <= marketplace_now() - :window"
        "  AND NOT EXISTS (SELECT FROM correction"
        "   WHERE correction.claim_id = claim.id AND correction.state = 'proposed')"
    ).bindparams(window=APPEAL_WITHIN)
    return await sweeps.each_due(sessions, "withheld", due, _return)


async def _return(session: AsyncSession, claim_id: UUID) -> bool:
    locked = await settlement.lock(session, claim_id)
    # What is proposed under this lock was looked for before it.
    proposed = sa.text("SELECT FROM correction WHERE claim_id = :claim AND state = 'proposed'")
    if (await session.execute(proposed, {"claim": claim_id})).first() is not None:
        return False
    reservation = await session.get_one(Reservation, locked.claim.reservation_id)
    await reserves.give_back_what_is_left(session, reservation)
    return True
