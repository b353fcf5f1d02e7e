"""Sending money: commit the intent, call Stripe, commit the outcome.

See `stripe_api.asking` for what holds between the steps.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts import outcomes, reversals
from marketplace.payouts.destinations import account_at_stripe, reason_to_hold
from marketplace.payouts.models import (
    PAID_STATES,
    PAYOUT_MOVES,
    Payout,
    PayoutAttempt,
    PayoutLine,
    PayoutRun,
    PayoutState,
    RunState,
)
from marketplace.payouts.service import find_payout
from marketplace.performers.payout_accounts import DESTINATION_COOLS
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.ids import new_id
from marketplace.shared.states import move
from marketplace.stripe_api import asking
from marketplace.stripe_api.booked_lines import LineBookedOtherwise
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Transfer
from marketplace.stripe_api.polling import STRIPE_ERRORS

IN_FLIGHT = (PayoutState.SENDING, PayoutState.UNKNOWN)
ACTOR = "sweep:payouts"


@dataclass(frozen=True, kw_only=True)
class Intent(asking.Intent):
    """A committed attempt: exactly what Stripe is asked, however often."""

    attempt_id: UUID
    payout_id: UUID
    request: dict[str, Any]


async def send_due(
    sessions: Sessions,
    gateway: StripeGateway,
    *,
    most: int = 100,
    cooling: timedelta = DESTINATION_COOLS,
) -> int:
    """Send what is approved and go on with what was interrupted; answers how many were looked at."""
    looked_at = 0
    while looked_at < most and (payout := await _take_due(sessions)) is not None:
        with sweeps.one_row("payouts", payout.id):
            await send(sessions, gateway, payout, cooling)
        looked_at += 1
    return looked_at


async def _take_due(sessions: Sessions) -> Payout | None:
    """Lease one due payout, so that no other process looks at it meanwhile."""
    async with sessions() as session:
        due = asking.next_due(Payout).join(PayoutRun).where(~_waits_for_its_run())
        payout = (await session.exec(due)).first()
        if payout is not None:
            payout.due_at = await clock.now(session) + asking.LEASE
            # What is looked for at this moment may be found: nobody may call it absent.
            await session.execute(
                sa.update(PayoutAttempt)
                .where(_is_open(payout.id), col(PayoutAttempt.not_found_at).is_not(None))
                .values(not_found_at=None)
            )
        await session.commit()
        return payout


def _waits_for_its_run() -> sa.ColumnElement[bool]:
    """Nothing new is begun while the run is paused; what is on its way goes on."""
    return sa.and_(
        col(Payout.state) == PayoutState.APPROVED, col(PayoutRun.state) != RunState.APPROVED
    )


async def send(
    sessions: Sessions, gateway: StripeGateway, payout: Payout, cooling: timedelta
) -> None:
    """One leased payout's three steps, from wherever it stands."""
    if payout.state in PAID_STATES:
        await _look_at_what_came_back(sessions, gateway, payout)
        return
    if payout.state is PayoutState.APPROVED:
        leased_until = await _commit_intent(sessions, gateway, payout, cooling)
    else:
        leased_until = payout.due_at
    intent = await _read_intent(sessions, payout.id, leased_until) if leased_until else None
    if intent is None:
        return
    outcome = await _ask_stripe(gateway, intent)
    if outcome is not None:
        await _commit_outcome(sessions, intent, outcome)


async def _commit_intent(
    sessions: Sessions, gateway: StripeGateway, payout: Payout, cooling: timedelta
) -> datetime | None:
    """Step 1. Look at the balance and the account now; commit the attempt, or say why not.

    Answers until when the committed attempt is leased.
    """
    try:
        available = await gateway.available_balance(payout.currency)
        account = await account_at_stripe(gateway, payout.destination)
        await _renew_lease(sessions, payout)
        made = await _standing_transfers(gateway, payout.id)
        paid_before = await _standing_of_earlier(sessions, gateway, payout)
    except STRIPE_ERRORS as error:
        await _postpone(sessions, payout, f"Stripe could not be asked: {error}")
        return None
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        run = await _share_run(session, payout.run_id)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.state is not PayoutState.APPROVED or locked.due_at != payout.due_at:
            return None
        if run.state is not RunState.APPROVED:
            return None
        leased_until = None
        if made:
            await _book_what_was_made(session, locked, made)
        elif paid_before:
            await _book_what_paid_before(session, locked, paid_before)
        elif hold := await reason_to_hold(session, locked, account, cooling):
            _hold(locked, hold)
        elif available < locked.amount_minor:
            await outcomes.wait_for_funds(session, locked)
        else:
            await _new_attempt(session, locked)
            leased_until = locked.due_at
        await session.commit()
        return leased_until


async def _share_run(session: AsyncSession, run_id: UUID) -> PayoutRun:
    """Nobody pauses or edits it while an attempt is begun; other senders may be at it."""
    found = await session.exec(
        select(PayoutRun).where(PayoutRun.id == run_id).with_for_update(read=True)
    )
    return found.one()


async def _standing_transfers(gateway: StripeGateway, payout_id: UUID) -> list[Transfer]:
    """What Stripe has moved for a payout and not taken back."""
    found = await gateway.find_transfers(transfer_group=_group(payout_id))
    return [each for each in found if each.amount_reversed_minor < each.amount_minor]


async def _renew_lease(sessions: Sessions, payout: Payout) -> None:
    """Before more is asked than one lease has time for. One that is not ours stays as it is."""
    async with sessions() as session:
        leased_until = await clock.now(session) + asking.LEASE
        await session.execute(
            sa.update(Payout)
            .where(col(Payout.id) == payout.id, col(Payout.due_at) == payout.due_at)
            .values(due_at=leased_until)
        )
        await session.commit()
    payout.due_at = leased_until


async def _standing_of_earlier(
    sessions: Sessions, gateway: StripeGateway, payout: Payout
) -> list[tuple[UUID, Transfer]]:
    """What Stripe has moved all the same for payouts that were given up, of these same earnings.

    A payout that was given up begins nothing more, so that what was asked before stays asked.
    """
    async with sessions() as session:
        earlier = list(await session.exec(_earlier_attempted(payout.id)))
    found = []
    for each in earlier:
        await _renew_lease(sessions, payout)
        found += [(each, standing) for standing in await _standing_transfers(gateway, each)]
    return found


def _earlier_attempted(payout_id: UUID) -> SelectOfScalar[UUID]:
    mine, earlier = aliased(PayoutLine), aliased(PayoutLine)
    return (
        select(earlier.payout_id)
        .distinct()
        .join(mine, col(mine.ledger_entry_id) == col(earlier.ledger_entry_id))
        .where(
            col(mine.payout_id) == payout_id,
            col(earlier.payout_id) != payout_id,
            col(earlier.released_at).is_not(None),
            sa.exists().where(col(PayoutAttempt.payout_id) == col(earlier.payout_id)),
        )
        .order_by(col(earlier.payout_id))
    )


def _group(payout_id: UUID) -> str:
    return f"payout-{payout_id}"


async def _book_what_was_made(session: AsyncSession, payout: Payout, made: list[Transfer]) -> None:
    """An attempt that was given up has moved the money after all: a second one would pay twice."""
    as_approved = [each for each in made if outcomes.is_of(each, payout)]
    if as_approved:
        await _adopt(session, payout, as_approved[0])
    else:
        again = ", then finance can approve this again."
        _hold(payout, outcomes.not_as_approved(made[0]) + again)


async def _book_what_paid_before(
    session: AsyncSession, payout: Payout, standing: list[tuple[UUID, Transfer]]
) -> None:
    """A payout that was given up has moved the money after all. It is the payment of this one if it
    paid exactly these earnings.
    """
    lines = await _lines(session, payout.id)
    for earlier, transfer in standing:
        if outcomes.is_of(transfer, payout) and await _lines(session, earlier) == lines:
            if await _adopt(session, payout, transfer):
                payout.state_reason = (
                    f"{transfer.id} paid it, which came in late for payout {earlier} that was "
                    "given up."
                )
            return
    earlier, transfer = standing[0]
    reason = (
        f"Stripe has {transfer.id} of earnings of this payout, for payout {earlier} that was given "
        "up. Release this one and reissue that one, then it is booked; or reverse all of it at "
        "Stripe, then finance can approve this again."
    )
    _hold(payout, reason)


async def _lines(session: AsyncSession, payout_id: UUID) -> set[UUID]:
    own = select(PayoutLine.ledger_entry_id).where(PayoutLine.payout_id == payout_id)
    return set(await session.exec(own))


async def _adopt(session: AsyncSession, payout: Payout, standing: Transfer) -> bool:
    """What stands at Stripe is the payment of this payout: no other is sent. False when finance has
    booked it as something else: then people decide.
    """
    try:
        async with session.begin_nested():
            await outcomes.paid(session, payout, await _new_attempt(session, payout), standing)
    except LineBookedOtherwise as error:
        await session.refresh(payout)
        _hold(payout, f"Stripe has {standing.id} of it. {error.detail}")
        return False
    # What came back of it until now was nobody's when Stripe told of it.
    payout.due_at = await clock.now(session)
    await session.flush()
    return True


async def _look_at_what_came_back(
    sessions: Sessions, gateway: StripeGateway, payout: Payout
) -> None:
    """Once what was adopted is committed; from then on Stripe's events find its payout."""
    assert payout.transfer_id is not None
    seen = await gateway.find_reversals(payout.transfer_id)
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        await reversals.note_found(session, transfer_id=payout.transfer_id, seen=seen)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.due_at == payout.due_at:
            locked.due_at = None
        await session.commit()


def _hold(payout: Payout, reason: str) -> None:
    move(payout, PayoutState.HELD, PAYOUT_MOVES, reason=reason)
    payout.due_at = None


async def _new_attempt(session: AsyncSession, payout: Payout) -> PayoutAttempt:
    earlier = await session.scalar(
        select(sa.func.count())
        .select_from(PayoutAttempt)
        .where(PayoutAttempt.payout_id == payout.id)
    )
    number = int(earlier or 0) + 1
    attempt_id = new_id()
    posting = ledger.Posting(
        kind=TransactionKind.TRANSFER_SENT,
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
            "transfer_group": _group(payout.id),
            "metadata": {"payout_id": str(payout.id), "attempt": str(number)},
        },
        committed_at=now,
        in_flight_transaction_id=posting.id,
    )
    session.add(attempt)
    await session.flush()
    move(payout, PayoutState.SENDING, PAYOUT_MOVES)
    payout.due_at = now + asking.LEASE
    payout.tries = 0
    await session.flush()
    return attempt


def _is_open(payout_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(col(PayoutAttempt.payout_id) == payout_id, col(PayoutAttempt.outcome).is_(None))


async def _read_intent(
    sessions: Sessions, payout_id: UUID, leased_until: datetime
) -> Intent | None:
    """The attempt in flight, right before Stripe is asked; None once the lease is not ours."""
    read_at = time.time()
    async with sessions() as session:
        found = await session.exec(
            select(PayoutAttempt)
            .join(Payout)
            .where(_is_open(payout_id), col(Payout.due_at) == leased_until)
        )
        attempt, now = found.first(), await clock.now(session)
    if attempt is None or now >= leased_until:
        return None
    return Intent(
        attempt_id=attempt.id,
        payout_id=payout_id,
        key=attempt.idempotency_key,
        request=attempt.request,
        key_serves=asking.key_serves(attempt.committed_at, now),
        leased_until=leased_until,
        read_at=read_at,
    )


async def _ask_stripe(gateway: StripeGateway, intent: Intent) -> Transfer | asking.Failure | None:
    """Step 2, outside any transaction."""

    async def send() -> Transfer:
        return await gateway.send_transfer(**intent.request, idempotency_key=intent.key)

    async def look_up() -> Transfer | None:
        standing = await _standing_transfers(gateway, intent.payout_id)
        ours = (each for each in standing if each.metadata == intent.request["metadata"])
        return next(ours, None)

    return await asking.ask(intent, send=send, look_up=look_up, what="transfer")


async def _commit_outcome(
    sessions: Sessions, intent: Intent, outcome: Transfer | asking.Failure
) -> None:
    """Step 3. A transfer counts whoever saw it; a failure only while the lease is ours."""
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        # What becomes of it depends on its run's approval, which nobody voids meanwhile.
        await _share_run(session, (await find_payout(session, intent.payout_id)).run_id)
        payout = await find_payout(session, intent.payout_id, lock=True)
        attempt = await session.get_one(PayoutAttempt, intent.attempt_id, with_for_update=True)
        is_open = attempt.outcome is None and payout.state in IN_FLIGHT
        if isinstance(outcome, Transfer) and not is_open:
            await outcomes.found_too_late(session, payout, outcome)
        elif is_open and (isinstance(outcome, Transfer) or payout.due_at == intent.leased_until):
            await outcomes.conclude(session, payout, attempt, outcome)
        await session.commit()


async def _postpone(sessions: Sessions, payout: Payout, reason: str) -> None:
    async with sessions() as session:
        await audit.act_as(session, ACTOR)
        locked = await find_payout(session, payout.id, lock=True)
        if locked.state is PayoutState.APPROVED and locked.due_at == payout.due_at:
            locked.tries += 1
            locked.due_at = await clock.now(session) + asking.wait(locked.tries)
            locked.state_reason = reason[:500]
        await session.commit()
