"""Disputes: what a payer's bank takes back. Read off Stripe's own object, whoever saw it.

Money moves with Stripe's own lines and once each way; looks that are stale or come in another order
end at the same. Locks: the client's turn and the deposit, then roles, then the wallet.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding.dispute_models import (
    DISPUTE_MOVES,
    Dispute,
    DisputeOutcome,
    DisputeState,
)
from marketplace.funding.models import Deposit, DepositState
from marketplace.funding.reserves import wallet
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions, take_turns
from marketplace.shared.problems import NotFound
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.booked_lines import post_with_line
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.polling import look_at_each

log = logging.getLogger(__name__)

LOOK_AGAIN = timedelta(hours=1)
# As long as Stripe keeps events; older disputes are known by then.
LISTED_FOR = timedelta(days=30)
# A wallet that falls while it is looked at is looked at again.
TRIES = 5
AT_STRIPE: ledger.Account = (AccountKind.STRIPE_AVAILABLE, None)
RECEIVABLE: ledger.Account = (AccountKind.DISPUTES_RECEIVABLE, None)
FEES: ledger.Account = (AccountKind.DISPUTE_FEES, None)
ENDED = (DisputeState.WON, DisputeState.LOST, DisputeState.CLOSED)

# Gives up what is set aside for work that nobody has begun, until so much is in the wallet again;
# answers how much that was.
GiveUp = Callable[[AsyncSession, UUID, str, int], Awaitable[int]]


class DisputeNotOurs(Exception):
    """Stripe disputes a payment that no credited deposit here stands for: finance must look."""


def held(client_id: UUID) -> ledger.Account:
    return (AccountKind.WALLET_DISPUTED, client_id)


async def settle(session: AsyncSession, seen: stripe_answers.Dispute, *, give_up: GiveUp) -> None:
    """Bring a dispute to what Stripe says of it now. Repeating this changes nothing."""
    dispute = await _dispute_of(session, seen)
    if dispute is None or dispute.state in ENDED:
        return
    now = await clock.now(session)
    dispute.answer_by, dispute.due_at = seen.answer_by, now + LOOK_AGAIN
    if seen.status.startswith("warning_"):
        if seen.status == "warning_closed" and dispute.state is DisputeState.INQUIRY:
            _close(dispute, "The bank asked, and asks no more.")
        await session.flush()
        return
    if dispute.state is DisputeState.INQUIRY:
        move(dispute, DisputeState.OPEN, DISPUTE_MOVES)
        await session.flush()
    opened_now = False
    if seen.withdrawn is not None and dispute.opened_transaction_id is None:
        opened_now = await _book_opened(session, dispute, seen.withdrawn)
    if seen.status in set(DisputeOutcome) and dispute.outcome != seen.status:
        dispute.outcome, dispute.outcome_at = DisputeOutcome(seen.status), now
    if seen.status in {"won", "prevented"}:
        await _win(session, dispute, seen)
    elif seen.status == "lost" and opened_now:
        # The wallet is locked by now, and roles are locked before it: the next look ends it.
        dispute.due_at = now
    elif seen.status == "lost":
        await _lose(session, dispute, give_up)
    await session.flush()


async def _dispute_of(session: AsyncSession, seen: stripe_answers.Dispute) -> Dispute | None:
    """The row under its lock; a new one while no refund of the client is being made. None for a
    payment that was given back: its lines are for finance.
    """
    if (dispute := await _locked(session, seen.id)) is not None:
        return dispute
    deposit = await _deposit_of(session, seen)
    if deposit.state is DepositState.EXPIRED:
        log.warning("Stripe disputes %s of deposit %s, given back before", seen.id, deposit.id)
        return None
    await take_turns(session, "refunds of", deposit.client_id)
    if (dispute := await _locked(session, seen.id)) is not None:
        return dispute
    inquiry = seen.status.startswith("warning_")
    dispute = Dispute(
        stripe_dispute_id=seen.id,
        client_id=deposit.client_id,
        deposit_id=deposit.id,
        currency=deposit.currency,
        amount_minor=seen.amount_minor,
        reason=seen.reason,
        opened_at=seen.created_at,
        answer_by=seen.answer_by,
        state=DisputeState.INQUIRY if inquiry else DisputeState.OPEN,
        due_at=await clock.now(session) + LOOK_AGAIN,
    )
    session.add(dispute)
    await session.flush()
    return dispute


async def _locked(session: AsyncSession, stripe_dispute_id: str) -> Dispute | None:
    found = await session.exec(
        select(Dispute)
        .where(Dispute.stripe_dispute_id == stripe_dispute_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return found.first()


async def _deposit_of(session: AsyncSession, seen: stripe_answers.Dispute) -> Deposit:
    """By its payment, or by the id of ours that the payment carries.

    Raises DisputeNotOurs: its event is kept with the error and tried again.
    """
    found = await session.exec(
        select(Deposit).where(
            sa.or_(
                col(Deposit.payment_intent_id) == (seen.payment_intent_id or ""),
                sa.cast(Deposit.id, sa.Text) == seen.payment_metadata.get("deposit_id", ""),
            ),
            sa.or_(
                col(Deposit.state).in_([DepositState.CREDITED, DepositState.AVAILABLE]),
                sa.and_(
                    col(Deposit.state) == DepositState.EXPIRED,
                    col(Deposit.foreign_line_id).is_not(None),
                ),
            ),
            Deposit.currency == seen.currency,
        )
    )
    deposit = found.first()
    if deposit is None:
        raise DisputeNotOurs(f"{seen.id} of {seen.payment_intent_id} in {seen.currency}")
    return deposit


def _close(dispute: Dispute, reason: str) -> None:
    move(dispute, DisputeState.CLOSED, DISPUTE_MOVES, reason=reason)
    dispute.due_at = None


async def _book_opened(
    session: AsyncSession, dispute: Dispute, line: stripe_answers.BalanceTransaction
) -> bool:
    """What Stripe took and its fee; as much as the wallet has is set aside until it is decided."""
    if line.currency != dispute.currency or line.fee_minor < 0:
        dispute.unbookable_line_id = line.id
        dispute.state_reason = f"Finance must look: Stripe took it by {line.id}."
        return False
    for _ in range(TRIES):
        has = await ledger.guarded_balance(
            session, AccountKind.CLIENT_WALLET, dispute.client_id, dispute.currency
        )
        withdrawn = -line.amount_minor
        aside = min(has, withdrawn)
        posting = ledger.Posting(
            kind=TransactionKind.DISPUTE_OPENED,
            source_id=dispute.id,
            currency=dispute.currency,
            moves=(
                (RECEIVABLE, AT_STRIPE, withdrawn),
                (FEES, AT_STRIPE, line.fee_minor),
                (wallet(dispute.client_id), held(dispute.client_id), aside),
            ),
            occurred_at=line.created_at,
        )
        try:
            booked = await post_with_line(session, posting, line.id, net_minor=line.net_minor)
        except ledger.BalanceTooLow:
            continue
        if not booked:
            dispute.unbookable_line_id = line.id
            dispute.state_reason = f"Finance must look: {line.id} is booked by hand already."
            return False
        dispute.opened_transaction_id = posting.id
        dispute.withdrawn_minor, dispute.fee_minor = withdrawn, line.fee_minor
        dispute.held_minor, dispute.state_reason = aside, None
        await session.flush()
        return True
    raise ledger.BalanceTooLow


async def _win(session: AsyncSession, dispute: Dispute, seen: stripe_answers.Dispute) -> None:
    """Stripe gave it back, won or prevented; the wallet has again what was set aside."""
    line = seen.reinstated
    if dispute.withdrawn_minor is None or dispute.held_minor is None:
        _end_unbooked(dispute, seen)
        return
    if line is None:
        dispute.state_reason = f"{seen.status.capitalize()}; not given back by Stripe yet."
        return
    if (line.amount_minor, line.currency) != (dispute.withdrawn_minor, dispute.currency):
        dispute.unbookable_return_line_id = line.id
        dispute.state_reason = f"Finance must look: Stripe gave it back by {line.id}."
        return
    fee_returned = -line.fee_minor
    fee = (AT_STRIPE, FEES, fee_returned) if fee_returned >= 0 else (FEES, AT_STRIPE, -fee_returned)
    posting = ledger.Posting(
        kind=TransactionKind.DISPUTE_WON,
        source_id=dispute.id,
        currency=dispute.currency,
        moves=(
            (AT_STRIPE, RECEIVABLE, dispute.withdrawn_minor),
            fee,
            (held(dispute.client_id), wallet(dispute.client_id), dispute.held_minor),
        ),
        occurred_at=line.created_at,
    )
    if not await post_with_line(session, posting, line.id, net_minor=line.net_minor):
        dispute.unbookable_return_line_id = line.id
        dispute.state_reason = f"Finance must look: {line.id} is booked by hand already."
        return
    move(dispute, DisputeState.WON, DISPUTE_MOVES)
    dispute.ended_transaction_id, dispute.fee_returned_minor = posting.id, fee_returned
    dispute.due_at = None
    await session.flush()


def _end_unbooked(dispute: Dispute, seen: stripe_answers.Dispute) -> None:
    """Nothing is booked of it: it has ended if Stripe took nothing, or gave all of it back."""
    taken, returned = seen.withdrawn, seen.reinstated
    said = seen.status.capitalize()
    if dispute.unbookable_line_id is None:
        _close(dispute, f"{said}; Stripe had taken nothing.")
    elif taken is None or returned is None:
        dispute.state_reason = f"{said}; not given back by Stripe yet."
    elif (taken.currency, -taken.amount_minor) == (returned.currency, returned.amount_minor):
        _close(dispute, f"{said}; Stripe gave back what it had taken.")
    else:
        dispute.unbookable_return_line_id = returned.id
        dispute.state_reason = f"Finance must look: Stripe gave it back by {returned.id}."


async def _lose(session: AsyncSession, dispute: Dispute, give_up: GiveUp) -> None:
    """Out of what was set aside, then out of open roles' reserves; the rest the client owes.

    What is in the wallet by then stays there: finance settles a debt out of it.
    """
    if dispute.withdrawn_minor is None or dispute.held_minor is None:
        dispute.state_reason = dispute.state_reason or "Lost; Stripe has not told its line yet."
        return
    client_id, currency = dispute.client_id, dispute.currency
    needed = dispute.withdrawn_minor - dispute.held_minor
    returned = await give_up(session, client_id, currency, needed) if needed else 0
    from_reserves = min(returned, needed)
    posting = ledger.Posting(
        kind=TransactionKind.DISPUTE_LOST,
        source_id=dispute.id,
        currency=currency,
        moves=(
            (held(client_id), RECEIVABLE, dispute.held_minor),
            (wallet(client_id), RECEIVABLE, from_reserves),
            (
                (AccountKind.CLIENT_RECEIVABLE, client_id),
                RECEIVABLE,
                needed - from_reserves,
            ),
        ),
    )
    await ledger.post(session, posting)
    move(dispute, DisputeState.LOST, DISPUTE_MOVES)
    dispute.ended_transaction_id, dispute.from_reserves_minor = posting.id, from_reserves
    dispute.due_at = None
    await session.flush()


async def poll(sessions: Sessions, gateway: StripeGateway, *, give_up: GiveUp) -> int:
    """Look at the open ones whose event did not come; once an hour, look for new ones."""

    async def note(session: AsyncSession, seen: stripe_answers.Dispute) -> None:
        await settle(session, seen, give_up=give_up)

    async with sessions() as session:
        # Put off before they are looked at: what fails now does not stand in the others' way.
        found = await session.execute(
            sa.text(
                "UPDATE dispute SET due_at = marketplace_now() + :wait WHERE id IN ("
                " SELECT id FROM dispute WHERE due_at <= marketplace_now()"
                " ORDER BY due_at LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED"
                ") RETURNING stripe_dispute_id"
            ),
            {"wait": LOOK_AGAIN},
        )
        due = [stripe_id for (stripe_id,) in found]
        now = await clock.now(session)
        await session.commit()
    looked_at = await look_at_each(sessions, due, gateway.retrieve_dispute, note)
    if await sweeps.take_hour(sessions, "disputes"):
        async for seen in gateway.list_disputes(created_from=now - LISTED_FOR):
            with sweeps.one_row("disputes", seen.id):
                async with sessions() as session:
                    await audit.act_as(session, "sweep:disputes")
                    await note(session, seen)
                    await session.commit()
            looked_at += 1
    return looked_at


async def find(session: AsyncSession, dispute_id: UUID, *, client_id: UUID | None) -> Dispute:
    """`client_id` is the client who asks; None is finance, who may see all."""
    query = select(Dispute).where(Dispute.id == dispute_id)
    if client_id is not None:
        query = query.where(Dispute.client_id == client_id)
    dispute = (await session.exec(query)).first()
    if dispute is None:
        raise NotFound
    return dispute


async def any_open(session: AsyncSession, client_id: UUID) -> bool:
    """Whether a bank takes back something that this client paid."""
    found = await session.exec(
        select(Dispute.id)
        .where(Dispute.client_id == client_id, Dispute.state == DisputeState.OPEN)
        .limit(1)
    )
    return found.first() is not None
