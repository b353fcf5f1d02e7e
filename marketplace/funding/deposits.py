"""Deposits through Stripe's hosted Checkout, and the platform's own top-ups.

Both commit the intent, call Stripe outside any transaction, and commit the outcome; a repeat with
the same key goes on where the last try stopped. The wallet is credited only when the charge and
its balance transaction are known.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Client
from marketplace.funding.models import (
    DEPOSIT_MOVES,
    TOPUP_MOVES,
    Deposit,
    DepositState,
    Topup,
    TopupState,
)
from marketplace.funding.reserves import wallet
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions
from marketplace.shared.idempotency import IdempotencyKeyReused
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.models import BookedBalanceTransaction
from marketplace.stripe_api.polling import or_later

# Stripe may forget an idempotency key after 24 h; an unopened request is given up before.
KEY_SERVES = timedelta(hours=23)
POLL_EVERY = timedelta(minutes=5)
FIRST_POLL = timedelta(seconds=30)


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
    deposit = Deposit(**values, currency=client.currency, state=DepositState.REQUESTED)
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
    if deposit.state is not DepositState.REQUESTED:
        return deposit
    if await clock.now(session) > deposit.created_at + KEY_SERVES:
        raise DepositExpired
    await session.commit()
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
    await audit.act_as(session, str(actor))
    locked = await _locked_deposit(session, deposit.id)
    if locked.state is DepositState.REQUESTED:
        move(locked, DepositState.AWAITING_PAYMENT, DEPOSIT_MOVES)
        locked.checkout_session_id = checkout.id
        locked.checkout_url = checkout.url
        locked.due_at = await clock.now(session) + FIRST_POLL
        await session.flush()
    return locked


async def credit(session: AsyncSession, *, payment: stripe_answers.Deposit) -> None:
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
    if (booked.currency, booked.amount_minor) != (deposit.currency, deposit.amount_minor):
        deposit.state_reason = (
            f"Finance must look: Stripe settled {booked.amount_minor} {booked.currency} "
            f"for {deposit.amount_minor} {deposit.currency}."
        )
        return
    move(deposit, DepositState.CREDITED, DEPOSIT_MOVES)
    deposit.fee_minor = booked.fee_minor
    deposit.available_on = deposit.due_at = booked.available_on
    posting = ledger.Posting(
        kind=TransactionKind.DEPOSIT_CREDITED,
        source_type="deposit",
        source_id=deposit.id,
        currency=deposit.currency,
        moves=(
            ((AccountKind.STRIPE_PENDING, None), wallet(deposit.client_id), booked.net_minor),
            ((AccountKind.STRIPE_FEES, None), wallet(deposit.client_id), booked.fee_minor),
        ),
        occurred_at=booked.created_at,
    )
    await ledger.post(session, posting)
    session.add(
        BookedBalanceTransaction(
            id=booked.id,
            net_minor=booked.net_minor,
            currency=booked.currency,
            ledger_transaction_id=posting.id,
        )
    )


async def make_available(sessions: Sessions) -> int:
    """Deposits whose charge Stripe has let out of pending by its `available_on`."""
    async with sessions() as session:
        await audit.act_as(session, "sweep:funds")
        due = await session.exec(
            select(Deposit)
            .where(Deposit.state == DepositState.CREDITED)
            .where(col(Deposit.due_at) <= sa.func.marketplace_now())
            .order_by(col(Deposit.id))
            .limit(100)
            .with_for_update(skip_locked=True)
        )
        deposits = list(due)
        for deposit in deposits:
            move(deposit, DepositState.AVAILABLE, DEPOSIT_MOVES)
            deposit.due_at = None
        await ledger.post(session, *(_available(deposit) for deposit in deposits))
        await session.commit()
    return len(deposits)


def _available(deposit: Deposit) -> ledger.Posting:
    net = deposit.amount_minor - (deposit.fee_minor or 0)
    return ledger.Posting(
        kind=TransactionKind.FUNDS_AVAILABLE,
        source_type="deposit",
        source_id=deposit.id,
        currency=deposit.currency,
        moves=(((AccountKind.STRIPE_AVAILABLE, None), (AccountKind.STRIPE_PENDING, None), net),),
        occurred_at=deposit.available_on,
    )


async def poll(sessions: Sessions, gateway: StripeGateway) -> int:
    """Look at the deposits and top-ups whose event did not come."""
    async with sessions() as session:
        deposits = await _due_session_ids(session)
        topups = await _due_topup_ids(session)
    for session_id in deposits:
        payment = await or_later(gateway.retrieve_deposit(session_id), session_id)
        if payment is None:
            continue
        async with sessions() as session:
            await audit.act_as(session, "sweep:poll")
            await credit(session, payment=payment)
            await session.commit()
    for topup_id in topups:
        topup = await or_later(gateway.retrieve_topup(topup_id), topup_id)
        if topup is None:
            continue
        async with sessions() as session:
            await audit.act_as(session, "sweep:poll")
            await settle_topup(session, payment=topup)
            await session.commit()
    return len(deposits) + len(topups)


async def _due_session_ids(session: AsyncSession) -> list[str]:
    found = await session.exec(
        select(Deposit.checkout_session_id)
        .where(Deposit.state == DepositState.AWAITING_PAYMENT)
        .where(col(Deposit.due_at) <= sa.func.marketplace_now())
        .limit(50)
    )
    return [session_id for session_id in found if session_id]


async def _due_topup_ids(session: AsyncSession) -> list[str]:
    found = await session.exec(
        select(Topup.stripe_topup_id)
        .where(Topup.state == TopupState.PENDING)
        .where(col(Topup.due_at) <= sa.func.marketplace_now())
        .limit(50)
    )
    return [topup_id for topup_id in found if topup_id]


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


async def request_topup(
    session: AsyncSession, *, amount_minor: int, currency: str, requested_by: UUID, key: str
) -> Topup:
    values: dict[str, Any] = {
        "currency": currency,
        "amount_minor": amount_minor,
        "requested_by": requested_by,
        "idempotency_key": key,
    }
    topup = Topup(**values, state=TopupState.REQUESTED)
    await session.execute(
        sa.dialects.postgresql.insert(Topup)
        .values(topup.model_dump(exclude={"created_at"}))
        .on_conflict_do_nothing(constraint="uq_topup_requested_by_idempotency_key")
    )
    stored = (
        await session.exec(
            select(Topup).where(Topup.requested_by == requested_by, Topup.idempotency_key == key)
        )
    ).one()
    if any(getattr(stored, name) != value for name, value in values.items()):
        raise IdempotencyKeyReused
    return stored


async def send_topup(session: AsyncSession, gateway: StripeGateway, topup: Topup) -> Topup:
    """Ask Stripe for the money. Commits before and lets the caller commit after the call."""
    if topup.state is not TopupState.REQUESTED:
        return topup
    if await clock.now(session) > topup.created_at + KEY_SERVES:
        raise DepositExpired
    await session.commit()
    payment = await gateway.create_topup(
        amount_minor=topup.amount_minor,
        currency=topup.currency,
        description="Platform capital",
        metadata={"topup_id": str(topup.id)},
        idempotency_key=f"topup-{topup.id}",
    )
    await audit.act_as(session, str(topup.requested_by))
    locked = (
        await session.exec(
            select(Topup)
            .where(Topup.id == topup.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    ).one()
    if locked.state is TopupState.REQUESTED:
        move(locked, TopupState.PENDING, TOPUP_MOVES)
        locked.stripe_topup_id = payment.id
        locked.due_at = await clock.now(session) + FIRST_POLL
        await session.flush()
        await settle_topup(session, payment=payment)
    return locked


async def settle_topup(session: AsyncSession, *, payment: stripe_answers.Topup) -> None:
    """Bring a top-up to what Stripe says of it now. Repeating this changes nothing."""
    found = await session.exec(
        select(Topup).where(Topup.stripe_topup_id == payment.id).with_for_update()
    )
    topup = found.first()
    if topup is None or topup.state is not TopupState.PENDING:
        return
    topup.due_at = await clock.now(session) + POLL_EVERY
    if payment.status in {"failed", "canceled", "reversed"}:
        move(topup, TopupState.FAILED, TOPUP_MOVES, reason=payment.failure_message)
        topup.due_at = None
    elif payment.status == "succeeded" and payment.balance_transaction_id:
        await _book_topup(session, topup, payment.balance_transaction_id)
    await session.flush()


async def _book_topup(session: AsyncSession, topup: Topup, balance_transaction_id: str) -> None:
    move(topup, TopupState.SUCCEEDED, TOPUP_MOVES)
    topup.due_at = None
    posting = ledger.Posting(
        kind=TransactionKind.TOPUP_SUCCEEDED,
        source_type="topup",
        source_id=topup.id,
        currency=topup.currency,
        moves=(
            (
                (AccountKind.STRIPE_AVAILABLE, None),
                (AccountKind.PLATFORM_CAPITAL, None),
                topup.amount_minor,
            ),
        ),
    )
    await ledger.post(session, posting)
    session.add(
        BookedBalanceTransaction(
            id=balance_transaction_id,
            net_minor=topup.amount_minor,
            currency=topup.currency,
            ledger_transaction_id=posting.id,
        )
    )
