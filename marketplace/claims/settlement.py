"""From seconds to money: the only place that posts claim pay.

Two decisions, two columns: a verdict judges the take, a pay decision pays the time. Refusing a take
does not unpay it; withholding needs a ground, a written reason and two people, and an undecided
claim is paid when its time for a decision is over.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import acts_or_acted_for, require_no_member
from marketplace.claims.models import (
    WITHHOLDING_MOVES,
    Claim,
    PayDecision,
    PayOutcome,
    Withholding,
    WithholdingState,
)
from marketplace.claims.time import seconds_of
from marketplace.funding import reserves
from marketplace.funding.models import ReserveCause, ReserveMove
from marketplace.jobs import roles
from marketplace.jobs.models import Job, Role
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.performers import service as performers
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.money import fee_minor, pay_minor
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move

# How long an ended claim's time may stay undecided; then it is paid.
DECISION_WITHIN = timedelta(hours=72)


class PayAlreadyDecided(Conflict):
    """The pay of this claim is decided."""

    code = "pay_already_decided"


class SecondPersonNeeded(Forbidden):
    """Somebody else than the proposer must decide this, and not the performer."""

    code = "second_person_needed"


@dataclass(frozen=True)
class Locked:
    """A claim with the rows its end may change, all locked in the one order."""

    claim: Claim
    role: Role
    job: Job


async def lock(session: AsyncSession, claim_id: UUID) -> Locked:
    """Lock order: lineage, job, performer, claim, role."""
    claim = await session.get(Claim, claim_id)
    if claim is None:
        raise NotFound
    job = await roles.lock_job_of(session, claim.job_id)
    await performers.find(session, claim.performer_id, lock=True)
    found = await session.exec(
        select(Claim)
        .where(Claim.id == claim_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return Locked(found.one(), await roles.lock_role(session, claim.role_id), job)


async def require_impartial(session: AsyncSession, claim: Claim, person_id: UUID) -> None:
    """Neither the performer nor anybody who acts for the client that pays."""
    if claim.performer_id == person_id:
        raise SecondPersonNeeded
    await require_no_member(session, claim.client_id, person_id)


def is_impartial(person_id: UUID) -> sa.ColumnElement[bool]:
    """`require_impartial`, as a condition on claims."""
    acts_for_the_client = acts_or_acted_for(Claim.client_id, person_id)
    return sa.and_(col(Claim.performer_id) != person_id, ~acts_for_the_client)


async def pay_and_finish_role(
    session: AsyncSession, locked: Locked, *, decided_by: UUID | None
) -> None:
    """The take was accepted: pay the time, return what is left of the reserve, done."""
    await _decide(session, locked.claim, PayOutcome.PAY, decided_by=decided_by)
    await roles.finish(session, locked.role)


async def pay_and_reopen_role(
    session: AsyncSession, locked: Locked, *, decided_by: UUID | None
) -> None:
    """The take was refused: pay the time all the same, and open the role again."""
    price = await _price(session, locked.claim)
    funded = await _make_up(session, locked, spoken_for=price.total_minor)
    await _decide(session, locked.claim, PayOutcome.PAY, decided_by=decided_by)
    await roles.release(session, locked.job, locked.role, funded=funded)


async def await_decision_and_reopen_role(session: AsyncSession, locked: Locked) -> None:
    """The claim ended without a review: its pay waits in a reserve of its own; the role reopens."""
    price = await _price(session, locked.claim)
    funded = await _make_up(session, locked, spoken_for=price.total_minor)
    if price.seconds:
        await _set_apart(session, locked, price.total_minor)
        locked.claim.pay_due_at = await clock.now(session) + DECISION_WITHIN
    await roles.release(session, locked.job, locked.role, funded=funded)


async def _make_up(session: AsyncSession, locked: Locked, *, spoken_for: int) -> bool:
    if locked.job.state in {"open", "paused"}:
        return await roles.make_up(session, locked.job, locked.role, spoken_for=spoken_for)
    return False


async def _set_apart(session: AsyncSession, locked: Locked, amount_minor: int) -> None:
    claim = locked.claim
    own = (
        await reserves.open_reservations(
            session,
            client_id=claim.client_id,
            currency=claim.currency,
            subject_id=claim.job_id,
        )
    )[0]
    claim.reservation_id = own.id
    if not amount_minor:
        return
    await reserves.move_reserves(
        session,
        [
            ReserveMove(
                client_id=claim.client_id,
                currency=claim.currency,
                from_reservation_id=locked.role.reservation_id,
                to_reservation_id=own.id,
                amount_minor=amount_minor,
                cause=ReserveCause.AWAITING_DECISION,
            )
        ],
    )


@dataclass(frozen=True)
class Price:
    """What a claim's seconds cost at its locked rate, each part rounded once."""

    seconds: int
    pay_minor: int
    fee_minor: int

    @property
    def total_minor(self) -> int:
        return self.pay_minor + self.fee_minor


async def _price(session: AsyncSession, claim: Claim) -> Price:
    seconds = await seconds_of(session, claim.id)
    pay = pay_minor(seconds, claim.rate_minor_per_hour)
    return Price(seconds, pay, fee_minor(pay, claim.fee_basis_points))


async def _decide(
    session: AsyncSession,
    claim: Claim,
    outcome: PayOutcome,
    *,
    decided_by: UUID | None,
    confirmed_by: UUID | None = None,
    reason: str | None = None,
) -> PayDecision:
    """Book the decision. The database's own checks recompute it from the claim and its entries."""
    if await decision_of(session, claim.id) is not None:
        raise PayAlreadyDecided
    price = await _price(session, claim)
    paid = outcome is PayOutcome.PAY
    decision = PayDecision(
        claim_id=claim.id,
        performer_id=claim.performer_id,
        outcome=outcome,
        seconds=price.seconds,
        rate_id=claim.rate_id,
        rate_minor_per_hour=claim.rate_minor_per_hour,
        fee_basis_points=claim.fee_basis_points,
        currency=claim.currency,
        pay_minor=price.pay_minor if paid else 0,
        fee_minor=price.fee_minor if paid else 0,
        decided_by=decided_by,
        confirmed_by=confirmed_by,
        reason=reason,
    )
    if paid:
        decision.ledger_transaction_id = await _book(session, claim, decision)
    session.add(decision)
    claim.pay_due_at = None
    await session.flush()
    return decision


async def _book(session: AsyncSession, claim: Claim, decision: PayDecision) -> UUID | None:
    if not decision.pay_minor:
        return None
    source = reserves.reserve(await _reservation_id(session, claim))
    posting = ledger.Posting(
        kind=TransactionKind.CLAIM_PAID,
        source_id=decision.id,
        currency=claim.currency,
        moves=(
            (source, (AccountKind.PERFORMER_PAYABLE, claim.performer_id), decision.pay_minor),
            (source, (AccountKind.PLATFORM_FEES, None), decision.fee_minor),
        ),
    )
    await ledger.post(session, posting)
    return posting.id


async def _reservation_id(session: AsyncSession, claim: Claim) -> UUID:
    if claim.reservation_id is not None:
        return claim.reservation_id
    role = await session.get_one(Role, claim.role_id)
    assert role.reservation_id is not None
    return role.reservation_id


async def decision_of(session: AsyncSession, claim_id: UUID) -> PayDecision | None:
    """The latest pay decision of a claim."""
    found = await session.exec(
        select(PayDecision)
        .where(PayDecision.claim_id == claim_id)
        .order_by(col(PayDecision.number).desc())
        .limit(1)
    )
    return found.first()


async def withhold(session: AsyncSession, claim: Claim, withholding: Withholding) -> None:
    """Two people agree that the time is not paid: who proposed it, and who confirms it now."""
    await _decide(
        session,
        claim,
        PayOutcome.WITHHOLD,
        decided_by=withholding.proposed_by,
        confirmed_by=withholding.decided_by,
        reason=f"{withholding.ground.value}: {withholding.reason}",
    )


async def pay_undecided(
    session: AsyncSession, claim: Claim, *, decided_by: UUID | None
) -> PayDecision:
    """Pay an ended claim's time from its own reserve."""
    if claim.pay_due_at is None:
        raise PayAlreadyDecided
    decision = await _decide(session, claim, PayOutcome.PAY, decided_by=decided_by)
    found = await session.exec(
        select(Withholding)
        .where(Withholding.claim_id == claim.id, Withholding.state == WithholdingState.PROPOSED)
        .with_for_update()
    )
    for withholding in found:
        _reject(withholding, decided_by)
    await session.flush()
    return decision


def _reject(withholding: Withholding, decided_by: UUID | None) -> None:
    if decided_by is None:
        reason = "Nobody confirmed it in time."
    elif decided_by == withholding.proposed_by:
        # In the performer's favour, so that no second person is needed; nor does one decide it.
        reason, decided_by = "Who proposed it took it back: the time was paid.", None
    else:
        reason = "The time was paid."
    move(withholding, WithholdingState.REJECTED, WITHHOLDING_MOVES, reason=reason)
    withholding.decided_by = decided_by


async def pay_overdue(sessions: Sessions) -> int:
    """Overdue means pay."""
    overdue = (
        select(Claim.id)
        .where(col(Claim.pay_due_at) <= sa.func.marketplace_now())
        .order_by(col(Claim.pay_due_at))
    )
    return await sweeps.each_due(sessions, "pay", overdue, _pay_overdue)


async def _pay_overdue(session: AsyncSession, claim_id: UUID) -> bool:
    claim = (await lock(session, claim_id)).claim
    if claim.pay_due_at is None or claim.pay_due_at > await clock.now(session):
        return False
    await pay_undecided(session, claim, decided_by=None)
    return True
