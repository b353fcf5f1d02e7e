"""Corrections: proposed by one, approved by another, booked at once as a difference.

A new total less the booked total is what is posted; a difference is never rounded. Earned pay is
never taken back from a performer's account: what was overpaid becomes a debt, which two people may
take off what is owed (netted) or give up (written off).
"""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims import settlement
from marketplace.claims.models import Claim
from marketplace.corrections.models import (
    CORRECTION_MOVES,
    Correction,
    CorrectionKind,
    CorrectionState,
)
from marketplace.funding import reserves
from marketplace.jobs.models import RoleState
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts import service as payouts
from marketplace.performers import service as performers
from marketplace.shared import clock
from marketplace.shared.database import row, violated
from marketplace.shared.money import fee_minor, pay_minor
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move, not_allowed


class NothingToCorrect(Conflict):
    """That is what is booked already."""

    code = "nothing_to_correct"


class PayNotDecided(Conflict):
    """The pay of this claim is not decided yet."""

    code = "pay_not_decided"


class CorrectionProposed(Conflict):
    """A correction of this claim is proposed already; it is decided first."""

    code = "correction_proposed"


class BookedOtherwiseSince(Conflict):
    """What is booked for this claim changed since this was proposed; reject it and propose anew."""

    code = "booked_otherwise_since"


class NotThatMuchOwed(Conflict):
    """The performer does not owe that much."""

    code = "not_that_much_owed"


class NotThatMuchPayable(Conflict):
    """Not that much of the performer's pay is free: what is in a payout run is not touched."""

    code = "not_that_much_payable"


@dataclass(frozen=True)
class Booked:
    """What is booked for a claim by its decision and its corrections, in minor units."""

    client_minor: int
    platform_minor: int
    fee_minor: int

    @property
    def pay_minor(self) -> int:
        return self.client_minor + self.platform_minor


async def propose_pay(
    session: AsyncSession, *, claim_id: UUID, seconds: int, reason: str, proposed_by: UUID
) -> Correction:
    """A claim's new total: so many seconds at its locked rate, instead of what is booked."""
    claim = (await settlement.lock(session, claim_id)).claim
    await settlement.require_impartial(session, claim, proposed_by)
    if await settlement.decision_of(session, claim.id) is None:
        raise PayNotDecided
    booked = await _booked(session, claim.id)
    pay = pay_minor(seconds, claim.rate_minor_per_hour)
    if pay == booked.pay_minor:
        raise NothingToCorrect
    correction = Correction(
        kind=CorrectionKind.PAY_CORRECTED,
        performer_id=claim.performer_id,
        currency=claim.currency,
        amount_minor=abs(pay - booked.pay_minor),
        reason=reason,
        claim_id=claim.id,
        seconds=seconds,
        pay_minor=pay,
        booked_minor=booked.pay_minor,
        state=CorrectionState.PROPOSED,
        proposed_by=proposed_by,
    )
    try:
        async with session.begin_nested():
            session.add(correction)
    except sa.exc.IntegrityError as error:
        if violated(error) == "uq_correction_proposed":
            raise CorrectionProposed from error
        raise
    return correction


async def propose(
    session: AsyncSession,
    *,
    kind: CorrectionKind,
    performer_id: UUID,
    currency: str,
    amount_minor: int,
    reason: str,
    proposed_by: UUID,
) -> Correction:
    """An adjustment, or what becomes of a debt."""
    await performers.find(session, performer_id, lock=True)
    _require_other(performer_id, proposed_by)
    correction = Correction(
        kind=kind,
        performer_id=performer_id,
        currency=currency,
        amount_minor=amount_minor,
        reason=reason,
        state=CorrectionState.PROPOSED,
        proposed_by=proposed_by,
    )
    await _require_covered(session, correction)
    session.add(correction)
    await session.flush()
    return correction


async def approve(session: AsyncSession, *, correction_id: UUID, approver: UUID) -> Correction:
    """The second person's yes: the difference is booked at once."""
    correction = await find(session, correction_id)
    if correction.claim_id is not None:
        return await _approve_pay(session, correction, approver)
    await performers.find(session, correction.performer_id, lock=True)
    await session.refresh(correction, with_for_update=True)
    _require_second(correction, approver)
    if correction.kind is CorrectionKind.RECEIVABLE_NETTED:
        # No run is drafted meanwhile: it would pay what is taken off here.
        await payouts.take_turns(session, correction.currency)
    await _require_covered(session, correction)
    is_adjusted = correction.kind is CorrectionKind.PAY_ADJUSTED
    borne = Borne(platform_minor=correction.amount_minor if is_adjusted else 0)
    await _book(session, correction, borne, approver)
    return correction


async def reject(
    session: AsyncSession, *, correction_id: UUID, reason: str, rejecter: UUID
) -> Correction:
    correction = await find(session, correction_id)
    # One order of locks for everybody: the claim's or the performer's first.
    locked = await settlement.lock(session, correction.claim_id) if correction.claim_id else None
    await performers.find(session, correction.performer_id, lock=True)
    await session.refresh(correction, with_for_update=True)
    _require_second(correction, rejecter)
    if locked is not None:
        await settlement.require_impartial(session, locked.claim, rejecter)
    now = await clock.now(session)
    move(correction, CorrectionState.REJECTED, CORRECTION_MOVES, reason=reason)
    correction.decided_by, correction.decided_at = rejecter, now
    await session.flush()
    return correction


async def find(session: AsyncSession, correction_id: UUID) -> Correction:
    correction = await session.get(Correction, correction_id)
    if correction is None:
        raise NotFound
    return correction


def _require_other(performer_id: UUID, person: UUID) -> None:
    if performer_id == person:
        raise settlement.SecondPersonNeeded


def _require_second(correction: Correction, person: UUID) -> None:
    if correction.proposed_by == person:
        raise settlement.SecondPersonNeeded
    _require_other(correction.performer_id, person)
    if correction.state is not CorrectionState.PROPOSED:
        raise not_allowed(correction, CORRECTION_MOVES, "It is decided.")


# A claim's pay.


async def _approve_pay(session: AsyncSession, correction: Correction, approver: UUID) -> Correction:
    assert correction.claim_id is not None
    assert correction.pay_minor is not None
    locked = await settlement.lock(session, correction.claim_id)
    await session.refresh(correction, with_for_update=True)
    _require_second(correction, approver)
    await settlement.require_impartial(session, locked.claim, approver)
    booked = await _booked(session, locked.claim.id)
    if booked.pay_minor != correction.booked_minor:
        raise BookedOtherwiseSince
    if correction.pay_minor > booked.pay_minor:
        borne = await _more(session, locked.claim, booked, correction.amount_minor)
    else:
        borne = _less(locked, booked, correction.amount_minor)
    await _book(session, correction, borne, approver, client_id=locked.claim.client_id)
    return correction


@dataclass(frozen=True)
class Borne:
    """Who bears a difference in pay; negative is given back. `reservation_id` is the reserve of the
    client's part, None its wallet.
    """

    client_minor: int = 0
    platform_minor: int = 0
    fee_minor: int = 0
    reservation_id: UUID | None = None


async def _more(session: AsyncSession, claim: Claim, booked: Booked, amount_minor: int) -> Borne:
    """Out of what is still set aside for this very claim; else the platform bears it, without fee.

    A role that opened again is reserved for its next claim: that money is not touched.
    """
    fee = fee_minor(booked.client_minor + amount_minor, claim.fee_basis_points) - booked.fee_minor
    if claim.reservation_id is not None:
        left = await reserves.left_in(session, claim.reservation_id, claim.currency)
        if left >= amount_minor + fee:
            return Borne(amount_minor, 0, fee, claim.reservation_id)
    return Borne(platform_minor=amount_minor)


def _less(locked: settlement.Locked, booked: Booked, amount_minor: int) -> Borne:
    """What the platform bore goes back to it first, the rest and its fee to the client: to a role
    that is still open for more work, else to the wallet.
    """
    claim, role = locked.claim, locked.role
    platform = min(booked.platform_minor, amount_minor)
    client = amount_minor - platform
    fee = booked.fee_minor - fee_minor(booked.client_minor - client, claim.fee_basis_points)
    is_live = claim.reservation_id is None and role.state in {RoleState.OPEN, RoleState.HELD}
    reservation_id = role.reservation_id if is_live and client else None
    return Borne(-client, -platform, -fee, reservation_id)


async def _booked(session: AsyncSession, claim_id: UUID) -> Booked:
    found = await row(
        session,
        "SELECT (SELECT coalesce(sum(pay_minor), 0) FROM pay_decision WHERE claim_id = :claim)"
        "  + coalesce(sum(client_minor), 0) AS client_minor,"
        " coalesce(sum(platform_minor), 0) AS platform_minor,"
        " (SELECT coalesce(sum(fee_minor), 0) FROM pay_decision WHERE claim_id = :claim)"
        "  + coalesce(sum(fee_minor), 0) AS fee_minor"
        " FROM correction WHERE claim_id = :claim AND state = 'approved'",
        claim=claim_id,
    )
    assert found is not None
    return Booked(**{name: int(minor) for name, minor in found.items()})


# Debts.


async def _require_covered(session: AsyncSession, correction: Correction) -> None:
    """A debt is netted or given up only as far as it goes, and as pay is free for it."""
    netted = correction.kind is CorrectionKind.RECEIVABLE_NETTED
    if not netted and correction.kind is not CorrectionKind.RECEIVABLE_WRITTEN_OFF:
        return
    found = await row(
        session,
        "SELECT receivable_minor(:performer, :currency) AS owed_minor,"
        " free_pay_minor(:performer, :currency) AS free_minor",
        performer=correction.performer_id,
        currency=correction.currency,
    )
    assert found is not None
    if found["owed_minor"] < correction.amount_minor:
        raise NotThatMuchOwed(owed_minor=found["owed_minor"])
    if netted and found["free_minor"] < correction.amount_minor:
        raise NotThatMuchPayable(free_minor=found["free_minor"])


# Booking.


async def _book(
    session: AsyncSession,
    correction: Correction,
    borne: Borne,
    approver: UUID,
    *,
    client_id: UUID | None = None,
) -> None:
    posting = ledger.Posting(
        kind=_transaction_kind(correction, borne),
        source_id=correction.id,
        currency=correction.currency,
        moves=_moves(correction, borne, client_id),
    )
    await ledger.post(session, posting)
    now = await clock.now(session)
    move(correction, CorrectionState.APPROVED, CORRECTION_MOVES)
    correction.decided_by, correction.decided_at = approver, now
    correction.client_minor, correction.platform_minor = borne.client_minor, borne.platform_minor
    correction.fee_minor, correction.reservation_id = borne.fee_minor, borne.reservation_id
    correction.ledger_transaction_id = posting.id
    await session.flush()


def _transaction_kind(correction: Correction, borne: Borne) -> TransactionKind:
    match correction.kind:
        case CorrectionKind.RECEIVABLE_NETTED:
            return TransactionKind.RECEIVABLE_NETTED
        case CorrectionKind.RECEIVABLE_WRITTEN_OFF:
            return TransactionKind.RECEIVABLE_WRITTEN_OFF
    less = borne.client_minor + borne.platform_minor < 0
    return TransactionKind.OVERPAYMENT_FOUND if less else TransactionKind.PAY_ADJUSTED


def _moves(
    correction: Correction, borne: Borne, client_id: UUID | None
) -> tuple[tuple[ledger.Account, ledger.Account, int], ...]:
    payable = (AccountKind.PERFORMER_PAYABLE, correction.performer_id)
    receivable = (AccountKind.PERFORMER_RECEIVABLE, correction.performer_id)
    fees = (AccountKind.PLATFORM_FEES, None)
    expense = (AccountKind.PLATFORM_EXPENSE, None)
    match correction.kind:
        case CorrectionKind.RECEIVABLE_NETTED:
            return ((payable, receivable, correction.amount_minor),)
        case CorrectionKind.RECEIVABLE_WRITTEN_OFF:
            return (((AccountKind.BAD_DEBT, None), receivable, correction.amount_minor),)
    client = (
        (AccountKind.JOB_RESERVE, borne.reservation_id)
        if borne.reservation_id
        else (AccountKind.CLIENT_WALLET, client_id)
    )
    if borne.client_minor + borne.platform_minor > 0:
        return (
            (client, payable, borne.client_minor),
            (client, fees, borne.fee_minor),
            (expense, payable, borne.platform_minor),
        )
    return (
        (receivable, client, -borne.client_minor),
        (fees, client, -borne.fee_minor),
        (receivable, expense, -borne.platform_minor),
    )
