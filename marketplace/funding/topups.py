"""The platform's own money into its Stripe balance.

The intent is committed, Stripe is asked outside any transaction, and the outcome is committed. A
lost reply is found out by asking again with the same key, or by the event, which names our row.
"""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding.models import TOPUP_MOVES, Topup, TopupState
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.idempotency import IdempotencyKeyReused
from marketplace.shared.problems import Conflict
from marketplace.shared.states import move
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.booked_lines import post_with_line
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import StripeRefused
from marketplace.stripe_api.polling import STRIPE_ERRORS, look_at_each

log = logging.getLogger(__name__)

# Stripe may forget an idempotency key after 24 h.
KEY_SERVES = timedelta(hours=23)
POLL_EVERY = timedelta(minutes=5)
FIRST_POLL = timedelta(seconds=30)
# Between ours and Stripe's, generously.
CLOCKS_DIFFER = timedelta(hours=1)


class TopupUnanswered(Conflict):
    """Stripe never answered about this top-up; it is looked for there, so read it again later."""

    code = "topup_unanswered"


async def request(
    session: AsyncSession, *, amount_minor: int, currency: str, requested_by: UUID, key: str
) -> Topup:
    values: dict[str, Any] = {
        "currency": currency,
        "amount_minor": amount_minor,
        "requested_by": requested_by,
        "idempotency_key": key,
    }
    topup = Topup(
        **values,
        state=TopupState.REQUESTED,
        due_at=await clock.now(session) + FIRST_POLL,
    )
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


async def send(session: AsyncSession, gateway: StripeGateway, topup: Topup) -> Topup:
    """Ask Stripe for the money. Commits before and lets the caller commit after the call."""
    if topup.state is not TopupState.REQUESTED:
        return topup
    if await clock.now(session) > topup.created_at + KEY_SERVES:
        raise TopupUnanswered
    await session.commit()
    payment = await gateway.create_topup(
        amount_minor=topup.amount_minor,
        currency=topup.currency,
        description="Platform capital",
        metadata={"topup_id": str(topup.id)},
        idempotency_key=f"topup-{topup.id}",
    )
    await audit.act_as(session, str(topup.requested_by))
    await settle(session, payment)
    return await _locked(session, topup.id)


async def settle(session: AsyncSession, payment: stripe_answers.Topup) -> None:
    """Bring a top-up to what Stripe says of it now. Repeating this changes nothing."""
    topup = await _topup_of(session, payment)
    if topup is None:
        return
    if topup.state is TopupState.REQUESTED:
        topup.stripe_topup_id = payment.id
        topup.due_at = await clock.now(session) + FIRST_POLL
        move(topup, TopupState.PENDING, TOPUP_MOVES)
        await session.flush()
    if topup.state is not TopupState.PENDING:
        return
    if payment.status in {"failed", "canceled", "reversed"}:
        move(topup, TopupState.FAILED, TOPUP_MOVES, reason=payment.failure_message)
        topup.due_at = None
    elif payment.status == "succeeded" and payment.balance_transaction_id:
        await _book(session, topup, payment.balance_transaction_id)
    await session.flush()


async def _topup_of(session: AsyncSession, payment: stripe_answers.Topup) -> Topup | None:
    """By Stripe's id, or, before that is known here, by the id of ours that it carries."""
    found = await session.exec(
        select(Topup)
        .where(
            sa.or_(
                col(Topup.stripe_topup_id) == payment.id,
                sa.and_(
                    col(Topup.state) == TopupState.REQUESTED,
                    sa.cast(Topup.id, sa.Text) == payment.metadata.get("topup_id", ""),
                ),
            )
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.first()


async def _locked(session: AsyncSession, topup_id: UUID) -> Topup:
    found = await session.exec(
        select(Topup)
        .where(Topup.id == topup_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.one()


async def _book(session: AsyncSession, topup: Topup, balance_transaction_id: str) -> None:
    topup.due_at = None
    posting = ledger.Posting(
        kind=TransactionKind.TOPUP_SUCCEEDED,
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
    line_id = balance_transaction_id
    if await post_with_line(session, posting, line_id, net_minor=topup.amount_minor):
        move(topup, TopupState.SUCCEEDED, TOPUP_MOVES)
    else:
        topup.state_reason = f"It came in, and finance has booked {line_id} by hand: all is done."


async def poll(sessions: Sessions, gateway: StripeGateway) -> int:
    """Ask again about top-ups whose reply was lost; look at those whose event did not come."""
    async with sessions() as session:
        # Put off before they are looked at: what fails now does not stand in the others' way.
        found = await session.execute(
            sa.text(
                "UPDATE topup SET due_at = marketplace_now() + :wait WHERE id IN ("
                " SELECT id FROM topup WHERE due_at <= marketplace_now()"
                " ORDER BY due_at LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED"
                ") RETURNING id, stripe_topup_id"
            ),
            {"wait": POLL_EVERY},
        )
        due = list(found)
        await session.commit()
    for topup_id in (ours for ours, stripes in due if stripes is None):
        with sweeps.one_row("poll", topup_id):
            await _find_out(sessions, gateway, topup_id)
    known = [stripes for _, stripes in due if stripes is not None]
    await look_at_each(sessions, known, gateway.retrieve_topup, settle)
    return len(due)


async def _find_out(sessions: Sessions, gateway: StripeGateway, topup_id: UUID) -> None:
    async with sessions() as session:
        try:
            await _ask_again(session, gateway, await session.get_one(Topup, topup_id))
        except STRIPE_ERRORS as error:
            log.warning("top-up %s could not be asked about: %s", topup_id, error)
        await session.commit()


async def _ask_again(session: AsyncSession, gateway: StripeGateway, topup: Topup) -> None:
    try:
        await send(session, gateway, topup)
    except TopupUnanswered:
        await session.commit()
        await _look_up(session, gateway, topup)
    except StripeRefused as error:
        await _fail(session, topup.id, reason=error.message)


async def _look_up(session: AsyncSession, gateway: StripeGateway, topup: Topup) -> None:
    """Stripe may have forgotten the key; what it does not list by now has never come in."""
    async for payment in gateway.list_topups(created_from=topup.created_at - CLOCKS_DIFFER):
        if payment.metadata.get("topup_id") == str(topup.id):
            await audit.act_as(session, "sweep:poll")
            await settle(session, payment)
            return
    await _fail(session, topup.id, reason="Stripe has never had it; ask for another.")


async def _fail(session: AsyncSession, topup_id: UUID, *, reason: str) -> None:
    await audit.act_as(session, "sweep:poll")
    topup = await _locked(session, topup_id)
    if topup.state is TopupState.REQUESTED:
        move(topup, TopupState.FAILED, TOPUP_MOVES, reason=reason)
        topup.due_at = None
        await session.flush()
