"""Deposits through Stripe's hosted Checkout.

The intent is committed, Stripe is called outside any transaction, and the outcome is committed; a
repeat with the same key goes on where the last try stopped. The wallet is credited only when the
charge and its balance transaction are known.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Client
from marketplace.funding.models import DEPOSIT_MOVES, Deposit, DepositState
from marketplace.funding.reserves import wallet
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.idempotency import IdempotencyKeyReused
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.booked_lines import post_with_line
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import StripeRefused
from marketplace.stripe_api.polling import look_at_each

# Stripe may forget an idempotency key after 24 h; an unopened request is given up before.
KEY_SERVES = timedelta(hours=23)
POLL_EVERY = timedelta(minutes=5)
FIRST_POLL = timedelta(seconds=30)
# Of a completed page: a bank debit that bounced.
FAILED_PAYMENT = {"requires_payment_method", "canceled"}


class DepositExpired(Conflict):
    """This deposit was never paid and is closed; make a new one with a new key."""

    code = "deposit_expired"


async def request_deposit(
    session: AsyncSession, *, client_id: UUID, amount_minor: int, success_url: str, key: str
) -> Deposit:
    client = await session.get_one(Client, client_id)
    values: dict[str, Any] = {
        "client_id": client_id,
        "amount_minor": amount_minor,
        "success_url": success_url,
        "idempotency_key": key,
    }
    deposit = Deposit(
        **values,
        currency=client.currency,
        state=DepositState.REQUESTED,
        due_at=await clock.now(session) + KEY_SERVES,
    )
    await session.execute(
        sa.dialects.postgresql.insert(Deposit)
        .values(deposit.model_dump(exclude={"created_at"}))
        .on_conflict_do_nothing(constraint="uq_deposit_client_id_idempotency_key")
    )
    stored = (
        await session.exec(
            select(Deposit).where(Deposit.client_id == client_id, Deposit.idempotency_key == key)
        )
    ).one()
    if any(getattr(stored, name) != value for name, value in values.items()):
        raise IdempotencyKeyReused
    return stored


async def open_checkout(
    session: AsyncSession, gateway: StripeGateway, deposit: Deposit, *, actor: UUID
) -> Deposit:
    """Get the hosted page. Commits before and lets the caller commit after the call to Stripe."""
    if deposit.state is DepositState.EXPIRED:
        raise DepositExpired
    if deposit.state is not DepositState.REQUESTED:
        return deposit
    if await clock.now(session) > deposit.created_at + KEY_SERVES:
        raise DepositExpired
    await session.commit()
    try:
        checkout = await gateway.create_deposit_checkout(
            amount_minor=deposit.amount_minor,
            currency=deposit.currency,
            product_name="Deposit into your wallet",
            client_reference_id=str(deposit.id),
            metadata={"deposit_id": str(deposit.id)},
            success_url=deposit.success_url,
            cancel_url=deposit.success_url,
            idempotency_key=f"deposit-{deposit.id}",
        )
    except StripeRefused as error:
        await _refuse(session, deposit.id, actor=actor, reason=error.message)
        raise
    await audit.act_as(session, str(actor))
    locked = await _locked_deposit(session, deposit.id)
    if locked.state is DepositState.REQUESTED:
        move(locked, DepositState.AWAITING_PAYMENT, DEPOSIT_MOVES)
        locked.checkout_session_id = checkout.id
        locked.checkout_url = checkout.url
        locked.due_at = await clock.now(session) + FIRST_POLL
        await session.flush()
    return locked


async def _refuse(session: AsyncSession, deposit_id: UUID, *, actor: UUID, reason: str) -> None:
    """Commits, for the caller answers with the refusal."""
    await audit.act_as(session, str(actor))
    deposit = await _locked_deposit(session, deposit_id)
    if deposit.state is DepositState.REQUESTED:
        reason = f"Stripe refused it: {reason}"[:500]
        move(deposit, DepositState.EXPIRED, DEPOSIT_MOVES, reason=reason)
        deposit.due_at = None
    await session.commit()


async def credit(session: AsyncSession, payment: stripe_answers.Deposit) -> None:
    """Bring a deposit to what Stripe says of it now. Repeating this changes nothing."""
    found = await session.exec(
        select(Deposit).where(Deposit.checkout_session_id == payment.session_id).with_for_update()
    )
    deposit = found.first()
    if deposit is None or deposit.state is not DepositState.AWAITING_PAYMENT:
        return
    deposit.due_at = await clock.now(session) + POLL_EVERY
    if payment.status == "expired":
        move(deposit, DepositState.EXPIRED, DEPOSIT_MOVES, reason="The page was not completed.")
        deposit.due_at = None
    elif payment.status == "complete" and payment.payment_intent_status in FAILED_PAYMENT:
        move(deposit, DepositState.EXPIRED, DEPOSIT_MOVES, reason="The payment failed.")
        deposit.due_at = None
    elif payment.payment_intent_status == "succeeded":
        await _book_deposit(session, deposit, payment)
    await session.flush()


async def _book_deposit(
    session: AsyncSession, deposit: Deposit, payment: stripe_answers.Deposit
) -> None:
    booked = payment.balance_transaction
    if booked is None:
        deposit.state_reason = "Paid; Stripe has not told its fee yet."
        return
    deposit.payment_intent_id = payment.payment_intent_id
    if (booked.currency, booked.amount_minor) != (deposit.currency, deposit.amount_minor):
        deposit.foreign_line_id = booked.id
        deposit.state_reason = (
            f"Finance must look: Stripe settled {booked.amount_minor} {booked.currency} "
            f"for {deposit.amount_minor} {deposit.currency}."
        )
        return
    posting = ledger.Posting(
        kind=TransactionKind.DEPOSIT_CREDITED,
        source_id=deposit.id,
        currency=deposit.currency,
        moves=(
            ((AccountKind.STRIPE_PENDING, None), wallet(deposit.client_id), booked.net_minor),
            ((AccountKind.STRIPE_FEES, None), wallet(deposit.client_id), booked.fee_minor),
        ),
        occurred_at=booked.created_at,
    )
    if not await post_with_line(session, posting, booked.id, net_minor=booked.net_minor):
        deposit.due_at = None
        deposit.state_reason = (
            f"Finance must look: {booked.id} is booked by hand, and the wallet has nothing of it."
        )
        return
    move(deposit, DepositState.CREDITED, DEPOSIT_MOVES)
    deposit.fee_minor = booked.fee_minor
    deposit.available_on = deposit.due_at = booked.available_on


async def credit_foreign(session: AsyncSession, deposit_id: UUID) -> ledger.Posting:
    """What its client paid, out of the platform's capital, which has got Stripe's line instead.

    Answers what is to be posted together with the booking of that line. The money never was pending
    in the wallet's currency, so the deposit stays `credited`.
    """
    deposit = await _locked_deposit(session, deposit_id)
    move(deposit, DepositState.CREDITED, DEPOSIT_MOVES, reason="Settled otherwise than asked.")
    deposit.fee_minor, deposit.due_at = 0, None
    await session.flush()
    return ledger.Posting(
        kind=TransactionKind.DEPOSIT_CREDITED,
        source_id=deposit.id,
        currency=deposit.currency,
        moves=(
            (
                (AccountKind.PLATFORM_CAPITAL, None),
                wallet(deposit.client_id),
                deposit.amount_minor,
            ),
        ),
    )


async def give_back(session: AsyncSession, deposit_id: UUID, *, reason: str) -> None:
    """Its payer has the money again, from Stripe: nothing is credited."""
    deposit = await _locked_deposit(session, deposit_id)
    move(deposit, DepositState.EXPIRED, DEPOSIT_MOVES, reason=f"Given back at Stripe: {reason}")
    deposit.due_at = None
    await session.flush()


async def make_available(sessions: Sessions) -> int:
    """Deposits whose charge Stripe has let out of pending by its `available_on`."""
    due = (
        select(Deposit.id)
        .where(Deposit.state == DepositState.CREDITED)
        .where(col(Deposit.due_at) <= sa.func.marketplace_now())
        .order_by(col(Deposit.due_at))
    )
    return await sweeps.each_due(sessions, "funds", due, _make_available)


async def _make_available(session: AsyncSession, deposit_id: UUID) -> bool:
    deposit = await _locked_deposit(session, deposit_id)
    if deposit.state is not DepositState.CREDITED:
        return False
    move(deposit, DepositState.AVAILABLE, DEPOSIT_MOVES)
    deposit.due_at = None
    await ledger.post(session, _available(deposit))
    return True


def _available(deposit: Deposit) -> ledger.Posting:
    net = deposit.amount_minor - (deposit.fee_minor or 0)
    return ledger.Posting(
        kind=TransactionKind.FUNDS_AVAILABLE,
        source_id=deposit.id,
        currency=deposit.currency,
        moves=(((AccountKind.STRIPE_AVAILABLE, None), (AccountKind.STRIPE_PENDING, None), net),),
        occurred_at=deposit.available_on,
    )


async def poll(sessions: Sessions, gateway: StripeGateway) -> int:
    """Look at the deposits whose event did not come; give up those whose page never opened."""
    async with sessions() as session:
        await audit.act_as(session, "sweep:poll")
        await session.execute(
            sa.text(
                "UPDATE deposit SET state = 'expired', due_at = NULL,"
                " state_reason = 'Its page was never opened.'"
                " WHERE state = 'requested' AND due_at <= marketplace_now()"
            )
        )
        # Put off before they are looked at: what fails now does not stand in the others' way.
        found = await session.execute(
            sa.text(
                "UPDATE deposit SET due_at = marketplace_now() + :wait WHERE id IN ("
                " SELECT id FROM deposit"
                " WHERE state = 'awaiting_payment' AND due_at <= marketplace_now()"
                " ORDER BY due_at LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED"
                ") RETURNING checkout_session_id"
            ),
            {"wait": POLL_EVERY},
        )
        due = [session_id for (session_id,) in found]
        await session.commit()
    return await look_at_each(sessions, due, gateway.retrieve_deposit, credit)


async def _locked_deposit(session: AsyncSession, deposit_id: UUID) -> Deposit:
    found = await session.exec(
        select(Deposit)
        .where(Deposit.id == deposit_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.one()


async def own_deposit(session: AsyncSession, deposit_id: UUID, client_id: UUID) -> Deposit:
    found = await session.exec(
        select(Deposit).where(Deposit.id == deposit_id, Deposit.client_id == client_id)
    )
    deposit = found.first()
    if deposit is None:
        raise NotFound
    return deposit
