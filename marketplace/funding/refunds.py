"""Refunds to a client: money leaves the wallet first, then Stripe is asked (`refund_sending`).

What becomes of a refund is read off Stripe's own object, whoever saw it: the sender, an event or the
poller. The books follow what is proven.
"""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import require_no_member
from marketplace.accounts.models import Client
from marketplace.funding import debts, disputes
from marketplace.funding import refund_bookings as bookings
from marketplace.funding.refund_models import REFUND_MOVES, Refund, RefundState
from marketplace.funding.refunds_found import adopt
from marketplace.funding.reserves import WalletTooLow
from marketplace.ledger import service as ledger
from marketplace.shared import clock
from marketplace.shared.database import rows, take_turns, violated
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, Forbidden, InvalidField, NotFound
from marketplace.shared.states import move, not_allowed
from marketplace.stripe_api import asking
from marketplace.stripe_api import gateway_answers as stripe_answers
from marketplace.stripe_api.booked_lines import post_with_line

LOOK_AGAIN = timedelta(hours=1)
# A bank may send back what was called a success (https://docs.stripe.com/refunds#failed-refunds).
SENT_BACK_WITHIN = timedelta(days=30)
LOOK_DAILY = timedelta(days=1)
BOOKED_BY_HAND = "booked_by_hand"


class DepositsDoNotCover(Conflict):
    """Less is left of the deposits that may be refunded here; `by_hand_minor` finance gives back."""

    code = "deposits_do_not_cover"


class RefundsPaused(Conflict):
    """A payment of this client is disputed; refunds wait until that is decided."""

    code = "refunds_paused"


class DebtFirst(Conflict):
    """The client owes what a lost dispute took; pay it in, and finance settles the debt first."""

    code = "debt_first"


class RequesterMayNotDecide(Forbidden):
    """Somebody other than who asked for the refund must decide."""

    code = "requester_may_not_decide"


class RefundNotProvenAbsent(Conflict):
    """Stripe is still asked about this refund; decide once a look-up finds no sign of it."""

    code = "not_proven_absent"


async def request(
    session: AsyncSession,
    *,
    client_id: UUID,
    amount_minor: int,
    currency: str,
    reason: str | None,
    requested_by: UUID,
) -> list[Refund]:
    """Take the amount out of the wallet and commit what Stripe will be asked for, part by part.

    Raises WalletTooLow, RefundsPaused, DebtFirst, DepositsDoNotCover.
    """
    client = await session.get(Client, client_id)
    if client is None:
        raise NotFound
    if client.currency != currency:
        raise InvalidField("body.currency", f"the wallet is in {client.currency}")
    await take_turns(session, "refunds of", client_id)
    if await disputes.any_open(session, client_id):
        raise RefundsPaused
    # Asked second: until a dispute is lost it is open.
    if (owed_minor := await debts.owed_by(session, client_id, currency)) > 0:
        raise DebtFirst(owed_minor=owed_minor)
    parts = await _split(session, client_id, amount_minor)
    request_id, now = new_id(), await clock.now(session)
    refunds = [
        Refund(
            id=(id_ := new_id()),
            request_id=request_id,
            client_id=client_id,
            deposit_id=deposit_id,
            currency=currency,
            amount_minor=minor,
            requested_by=requested_by,
            idempotency_key=f"refund-{id_}",
            state=RefundState.SENDING,
            state_reason=reason,
            due_at=now,
            sent_transaction_id=new_id(),
        )
        for deposit_id, minor in parts
    ]
    try:
        await ledger.post(session, *(bookings.sent(refund) for refund in refunds))
    except ledger.BalanceTooLow as error:
        raise WalletTooLow from error
    session.add_all(refunds)
    await _flush(session)
    return refunds


# What is left of each deposit, the newest first: a new payment is the likeliest to be refundable
# still (https://docs.stripe.com/refunds: some methods know no refund after 180 days).
LEFT = """
    SELECT id, amount_minor - gone AS minor, foreign_line_id IS NOT NULL AS by_hand
    FROM deposit, deposit_gone_minor(id) AS gone
    WHERE client_id = :client AND state IN ('credited', 'available') AND amount_minor > gone
    ORDER BY id DESC
"""


async def _split(
    session: AsyncSession, client_id: UUID, amount_minor: int
) -> list[tuple[UUID, int]]:
    """As much of each deposit as is left of it, until the amount is reached; these are locked."""
    parts, wanted, by_hand = [], amount_minor, 0
    for deposit in await rows(session, LEFT, client=client_id):
        if deposit["by_hand"]:
            by_hand += deposit["minor"]
        elif part := min(wanted, deposit["minor"]):
            parts.append((deposit["id"], part))
            wanted -= part
    if wanted:
        raise DepositsDoNotCover(refundable_minor=amount_minor - wanted, by_hand_minor=by_hand)
    # Deposits before wallets, as everybody else locks them.
    await session.execute(
        sa.text("SELECT FROM deposit WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE"),
        {"ids": [deposit_id for deposit_id, _ in parts]},
    )
    return parts


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        if violated(error) == "refund_within_deposit":
            raise DepositsDoNotCover from error
        if violated(error) == "refund_while_disputed":
            raise RefundsPaused from error
        if violated(error) == "refund_while_owing":
            raise DebtFirst from error
        raise


async def find(
    session: AsyncSession, refund_id: UUID, *, client_id: UUID | None, lock: bool = False
) -> Refund:
    """`client_id` is the client who asks; None is finance, who may see all."""
    query = select(Refund).where(Refund.id == refund_id)
    if client_id is not None:
        query = query.where(Refund.client_id == client_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    refund = (await session.exec(query)).first()
    if refund is None:
        raise NotFound
    return refund


async def settle(session: AsyncSession, seen: stripe_answers.Refund) -> None:
    """Bring a refund to what Stripe says of it now. Repeating this changes nothing.

    One that our books do not hold gets a row; raises RefundNotBooked when it cannot.
    """
    refund = await _refund_of(session, seen)
    if refund is None or not _is_it(refund, seen):
        is_late = refund is not None and refund.ended_transaction_id is not None
        refund = await adopt(session, seen, asked=refund if is_late else None)
    if refund is None or refund.ended_transaction_id is not None:
        return
    if refund.stripe_refund_id is None:
        move(refund, RefundState.PENDING, REFUND_MOVES)
        refund.stripe_refund_id, refund.stripe_request_id = seen.id, seen.request_id
        refund.tries = 0
    now = await clock.now(session)
    refund.due_at = now + LOOK_AGAIN
    if seen.taken and refund.confirmed_transaction_id is None:
        await _book_confirmed(session, refund, seen.taken)
    if seen.status in {"failed", "canceled"}:
        await _end(session, refund, seen)
    elif seen.status == "succeeded" and refund.confirmed_transaction_id is not None:
        if refund.state is RefundState.PENDING:
            move(refund, RefundState.SUCCEEDED, REFUND_MOVES)
        is_final = now > refund.requested_at + SENT_BACK_WITHIN
        refund.due_at = None if is_final else now + LOOK_DAILY
    elif refund.confirmed_transaction_id is None:
        refund.state_reason = _why_pending(refund, seen)
    await session.flush()


async def _refund_of(session: AsyncSession, seen: stripe_answers.Refund) -> Refund | None:
    """By Stripe's id, or, before that is known here, by the id of ours that it carries."""
    found = await session.exec(
        select(Refund)
        .where(
            sa.or_(
                col(Refund.stripe_refund_id) == seen.id,
                sa.and_(
                    col(Refund.stripe_refund_id).is_(None),
                    sa.cast(Refund.id, sa.Text) == seen.metadata.get("refund_id", ""),
                ),
            )
        )
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return found.first()


def _is_it(refund: Refund, seen: stripe_answers.Refund) -> bool:
    """What only carries our id may be another one, or come too late."""
    if refund.stripe_refund_id is not None or refund.ended_transaction_id is not None:
        return refund.stripe_refund_id == seen.id
    return (refund.amount_minor, refund.currency) == (seen.amount_minor, seen.currency)


def _why_pending(refund: Refund, seen: stripe_answers.Refund) -> str:
    if seen.taken is not None:
        line = seen.taken
        return (
            f"Finance must look: Stripe took {-line.net_minor} {line.currency} by {line.id} for "
            f"{refund.amount_minor} {refund.currency}. With that line booked by hand, call it absent."
        )
    if seen.pending_reason == "insufficient_funds":
        return "It waits for funds at Stripe: top up, and Stripe sends it."
    return "Stripe has it and has not taken the money yet."


async def _book_confirmed(
    session: AsyncSession, refund: Refund, line: stripe_answers.BalanceTransaction
) -> None:
    """Beside Stripe's fee, which may be one that it gives back."""
    if (line.amount_minor, line.currency) != (-refund.amount_minor, refund.currency):
        return
    posting = bookings.confirmed(refund, line)
    if not await post_with_line(session, posting, line.id, net_minor=line.net_minor):
        return
    refund.confirmed_transaction_id, refund.fee_minor = posting.id, line.fee_minor
    refund.state_reason = None
    await session.flush()


async def _end(session: AsyncSession, refund: Refund, seen: stripe_answers.Refund) -> None:
    """It failed: the wallet has it again, as soon as Stripe's own books have."""
    reason = f"Stripe says: {seen.failure_reason or seen.status}."
    line = seen.returned
    if refund.confirmed_transaction_id is None and seen.taken is None:
        await refuse(session, refund, reason=reason)
    elif refund.confirmed_transaction_id is None:
        refund.state_reason = _why_pending(refund, seen)
    elif line is None or (line.net_minor, line.currency) != (refund.amount_minor, refund.currency):
        refund.state_reason = f"{reason} What Stripe took has not come back there yet."
    else:
        posting = bookings.returned(refund, line)
        if not await post_with_line(session, posting, line.id, net_minor=line.net_minor):
            refund.state_reason = f"Finance must look: {line.id} is booked by hand already."
            return
        move(refund, RefundState.RETURNED, REFUND_MOVES, reason=reason)
        refund.ended_transaction_id, refund.due_at = posting.id, None


async def refuse(session: AsyncSession, refund: Refund, *, reason: str, code: str = "") -> None:
    """Nothing moved at Stripe; the wallet has it again."""
    posting = bookings.refused(refund)
    await ledger.post(session, posting)
    move(refund, RefundState.REFUSED, REFUND_MOVES, reason=reason[:500])
    refund.error_code = code or None
    refund.ended_transaction_id, refund.due_at = posting.id, None
    await session.flush()


async def unknown(
    session: AsyncSession, refund: Refund, message: str, *, not_found: bool = False
) -> None:
    """Nothing is proven: keep the key, and look again after a growing wait."""
    now = await clock.now(session)
    if refund.state is RefundState.SENDING:
        move(refund, RefundState.UNKNOWN, REFUND_MOVES)
    refund.state_reason = message[:500]
    refund.tries += 1
    refund.due_at = now + asking.wait(refund.tries)
    refund.not_found_at = now if not_found else None
    await session.flush()


async def decide_absent(
    session: AsyncSession, *, refund_id: UUID, reason: str, decider: UUID
) -> Refund:
    """Finance ends an unknown outcome: Stripe forgot the key and, looked up since, has no refund; or
    one that is pending while finance has booked by hand what Stripe took for it.

    Neither who asked for it nor anybody who acts for the client, whose API key may have asked.
    """
    refund = await find(session, refund_id, client_id=None, lock=True)
    if refund.requested_by == decider:
        raise RequesterMayNotDecide
    await require_no_member(session, refund.client_id, decider)
    if await _is_booked_by_hand(session, refund):
        refund.decided_by = decider
        await refuse(session, refund, reason=reason, code=BOOKED_BY_HAND)
        return refund
    if refund.state is not RefundState.UNKNOWN:
        raise not_allowed(refund, REFUND_MOVES, "Only an unknown outcome is decided.")
    if refund.not_found_at is None:
        raise RefundNotProvenAbsent
    refund.decided_by = decider
    await refuse(session, refund, reason=reason, code=asking.NOT_FOUND)
    return refund


async def _is_booked_by_hand(session: AsyncSession, refund: Refund) -> bool:
    """The refund's own booking is the only other one that its line can have."""
    if refund.state is not RefundState.PENDING or refund.confirmed_transaction_id is not None:
        return False
    found = await rows(
        session,
        "SELECT FROM stripe_line JOIN booked_balance_transaction AS booked USING (id)"
        " WHERE stripe_line.source_id = :refund AND stripe_line.net_minor < 0",
        refund=refund.stripe_refund_id,
    )
    return bool(found)


async def any_booked_by_hand(session: AsyncSession, deposit_id: UUID) -> bool:
    """Whether the client may be charged for a refund of this deposit that finance has ended."""
    found = await session.exec(
        select(Refund.id)
        .where(Refund.deposit_id == deposit_id, Refund.error_code == BOOKED_BY_HAND)
        .limit(1)
    )
    return found.first() is not None
