"""The queue of what nobody explains, and two people's word about a line of it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import require_no_member
from marketplace.bank.withdrawals import withdrawable_minor
from marketplace.exceptions.models import (
    LINE_BOOKING_MOVES,
    BookedAs,
    LineBooking,
    LineBookingState,
)
from marketplace.funding import deposits
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.reports.reconciliation import BOOKED_BY, JUDGED, ON_ITS_WAY_HOURS
from marketplace.shared import clock
from marketplace.shared.database import Sessions, rows, statement, take_turns, violated
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move
from marketplace.stripe_api.booked_lines import LineBookedOtherwise, keep_line

OPEN = f"""
    {JUDGED}
    SELECT judged.id, judged.type, judged.age_seconds, judged.stripe_net_minor,
           judged.booked_net_minor, judged.currency, judged.source_id, judged.created_at,
           CASE WHEN foreign_paid.currency <> judged.currency THEN 'other_currency'
               WHEN foreign_paid.id IS NOT NULL THEN 'amount_differs'
               -- None is on its way.
               WHEN judged.reason = 'on_its_way' THEN 'no_event'
               ELSE judged.reason END AS reason,
           stripe_line.description, proposed.id AS line_booking_id, foreign_paid.id AS deposit_id,
           CASE WHEN taken_of.is_chargeable THEN taken_of.deposit_id END AS charge_deposit_id,
           CASE WHEN taken_of.is_chargeable THEN taken_of.dispute_id END AS charge_dispute_id,
           line_waits_for(judged.id) AS waits_for
    FROM judged
    LEFT JOIN stripe_line ON stripe_line.id = judged.id
    LEFT JOIN line_booking AS proposed
        ON proposed.line_id = judged.id AND proposed.state = 'proposed'
    LEFT JOIN deposit AS foreign_paid ON foreign_paid.foreign_line_id = judged.id
    LEFT JOIN LATERAL (
        SELECT dispute.deposit_id, dispute.id AS dispute_id, state = 'open' AS is_chargeable
        FROM dispute
        WHERE stripe_dispute_id = judged.source_id
          AND num_nonnulls(unbookable_line_id, unbookable_return_line_id) > 0
        UNION ALL
        -- A refund says of which payment it is in its event only.
        SELECT deposit.id, NULL, deposit.state = 'credited'
        FROM stripe_event AS event
        JOIN deposit ON payment_intent_id = event.payload #>> '{{data,object,payment_intent}}'
        WHERE event.object_id = judged.source_id AND event.type LIKE 'refund.%'
          AND foreign_line_id IS NOT NULL
        LIMIT 1
    ) AS taken_of ON judged.reason IS NOT NULL
    WHERE judged.reason IS NOT NULL
      AND (judged.reason <> 'on_its_way' OR foreign_paid.id IS NOT NULL
           OR taken_of.deposit_id IS NOT NULL)
      AND (CAST(:only AS text) IS NULL OR judged.id = :only)
      AND (CAST(:after_at AS timestamptz) IS NULL OR
           (judged.created_at, judged.id) > (:after_at, CAST(:after_id AS text)))
    ORDER BY judged.created_at, judged.id
    LIMIT :most
"""  # noqa: S608 - this package's words
# What a line is about: a payment, or a refund or dispute of one, of which its event says more.
CLIENT_OF_LINE = """
    SELECT concerned.client_id
    FROM stripe_line AS line
    CROSS JOIN LATERAL (
        SELECT client_id FROM deposit WHERE foreign_line_id = line.id
        UNION ALL
        SELECT client_id FROM refund WHERE stripe_refund_id = line.source_id
        UNION ALL
        SELECT client_id FROM dispute WHERE stripe_dispute_id = line.source_id
        UNION ALL
        SELECT client_id
        FROM stripe_event AS event
        JOIN deposit ON payment_intent_id = event.payload #>> '{data,object,payment_intent}'
        WHERE event.object_id = line.source_id
    ) AS concerned
    WHERE line.id = :line
    LIMIT 1
"""
# Disputes are among them, and corrections of Stripe's own fees.
ADJUSTMENT = "adjustment"
# Of lines that stand as Stripe has them, and are in no booking.
BOOKABLE = ("not_booked", "no_event", "unknown_type")
KINDS = {
    BookedAs.STRIPE_FEE: (TransactionKind.STRIPE_FEE_BOOKED, AccountKind.STRIPE_FEES),
    BookedAs.CAPITAL: (TransactionKind.CAPITAL_BOOKED, AccountKind.PLATFORM_CAPITAL),
    BookedAs.FOREIGN_DEPOSIT: (TransactionKind.CAPITAL_BOOKED, AccountKind.PLATFORM_CAPITAL),
    BookedAs.GIVEN_BACK: (TransactionKind.CAPITAL_BOOKED, AccountKind.PLATFORM_CAPITAL),
}


class NoException(Conflict):
    """This line is booked, or may yet be: an event of ours that explains it is on its way."""

    code = "no_exception"


class NotBookableAs(Conflict):
    """A line of this kind is not booked as that."""

    code = "not_bookable_as"


class LineWaits(Conflict):
    """A row of ours waits for this line (`waits_for`); decide about that, and the line is booked."""

    code = "line_waits"


class AlreadyProposed(Conflict):
    """Somebody has said what this line is; approve or discard that first."""

    code = "already_proposed"


class LineBookedMeanwhile(Conflict):
    """The line's own event came after all and has booked it; discard this."""

    code = "line_booked_meanwhile"


class CapitalMissing(Conflict):
    """The platform has not enough of its own in the wallet's currency; top its balance up first."""

    code = "capital_missing"


class ProposerMayNotApprove(Forbidden):
    """What a line is, is approved by somebody other than the person who said so."""

    code = "proposer_may_not_approve"


async def find_open(
    session: AsyncSession,
    *,
    most: int,
    after: tuple[datetime, str] | None = None,
    only: str | None = None,
) -> list[dict[str, Any]]:
    """What no event of ours explains by now, the oldest first."""
    after_at, after_id = after or (None, None)
    found = await rows(
        session,
        OPEN,
        as_of=await clock.now(session),
        known=list(BOOKED_BY),
        on_its_way=ON_ITS_WAY_HOURS,
        only=only,
        after_at=after_at,
        after_id=after_id,
        most=most,
    )
    return [{**row, "may_be_booked_as": may_be_booked_as(row)} for row in found]


def may_be_booked_as(row: Any) -> list[BookedAs]:
    """A movement of money is never a fee, and what a client paid is never ours alone; what is not
    as Stripe has it, or waits for a row of ours, is nobody's to book.
    """
    if row["deposit_id"] is not None:
        return [BookedAs.FOREIGN_DEPOSIT, BookedAs.GIVEN_BACK]
    if row["reason"] not in BOOKABLE or row["waits_for"] is not None:
        return []
    if row["type"] in BOOKED_BY and row["type"] != ADJUSTMENT:
        return [BookedAs.CAPITAL]
    return [BookedAs.STRIPE_FEE, BookedAs.CAPITAL]


async def propose(
    session: AsyncSession, *, line_id: str, booked_as: BookedAs, reason: str, proposed_by: UUID
) -> LineBooking:
    """Say what a line is. Nothing is booked before a second person says so, too."""
    if not await rows(session, "SELECT FROM stripe_line WHERE id = :id", id=line_id):
        raise NotFound
    found = await find_open(session, most=1, only=line_id)
    if not found:
        raise NoException
    (line,) = found
    await _require_impartial(session, line_id, proposed_by)
    if line["waits_for"] is not None:
        raise LineWaits(waits_for=line["waits_for"])
    if booked_as not in line["may_be_booked_as"]:
        raise NotBookableAs(may_be_booked_as=[each.value for each in line["may_be_booked_as"]])
    proposed = LineBooking(
        line_id=line_id,
        booked_as=booked_as,
        currency=line["currency"],
        net_minor=line["stripe_net_minor"],
        reason=reason,
        proposed_by=proposed_by,
        state=LineBookingState.PROPOSED,
        deposit_id=line["deposit_id"],
    )
    try:
        async with session.begin_nested():
            session.add(proposed)
    except sa.exc.IntegrityError as error:
        match violated(error):
            case "uq_line_booking_line":
                raise AlreadyProposed from error
            case "line_booking_line":
                raise NoException from error
            case "line_booking_waits":
                raise LineWaits from error
        raise
    await session.refresh(proposed)
    return proposed


async def _require_impartial(session: AsyncSession, line_id: str, person_id: UUID) -> None:
    """About a client's payment, and what becomes of it, decides nobody who acts for that client."""
    client_id = await session.scalar(sa.text(CLIENT_OF_LINE), {"line": line_id})
    if client_id is not None:
        await require_no_member(session, client_id, person_id)


async def find(session: AsyncSession, booking_id: UUID, *, lock: bool = False) -> LineBooking:
    query = select(LineBooking).where(LineBooking.id == booking_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = (await session.exec(query)).first()
    if found is None:
        raise NotFound
    return found


async def approve(session: AsyncSession, *, booking_id: UUID, approver: UUID) -> LineBooking:
    """Book the line as somebody else said."""
    booking = await find(session, booking_id, lock=True)
    if booking.proposed_by == approver:
        raise ProposerMayNotApprove
    await _require_impartial(session, booking.line_id, approver)
    now = await clock.now(session)
    posting = _posting(booking)
    if booking.state is LineBookingState.PROPOSED:
        await _require_unwaited(session, booking.line_id)
        await _book(session, booking, posting)
    move(booking, LineBookingState.BOOKED, LINE_BOOKING_MOVES)
    booking.decided_by, booking.decided_at = approver, now
    booking.ledger_transaction_id = posting.id
    await session.flush()
    return booking


async def _require_unwaited(session: AsyncSession, line_id: str) -> None:
    """Its own row may have come to be known since."""
    waits_for = await session.scalar(sa.text("SELECT line_waits_for(:line)"), {"line": line_id})
    if waits_for is not None:
        raise LineWaits(waits_for=waits_for)


async def _book(session: AsyncSession, booking: LineBooking, posting: ledger.Posting) -> None:
    credited = []
    if booking.deposit_id and booking.booked_as is BookedAs.FOREIGN_DEPOSIT:
        credited.append(await deposits.credit_foreign(session, booking.deposit_id))
    elif booking.deposit_id:
        await deposits.give_back(session, booking.deposit_id, reason=booking.reason)
    await ledger.post(session, posting, *credited)
    for each in credited:
        await _require_covered(session, each.currency)
    try:
        await keep_line(
            session,
            booking.line_id,
            net_minor=booking.net_minor,
            currency=booking.currency,
            booked=posting.id,
        )
    except LineBookedOtherwise as error:
        raise LineBookedMeanwhile from error


async def _require_covered(session: AsyncSession, currency: str) -> None:
    """Withdrawals take their turns at the same place."""
    await take_turns(session, "withdrawal", currency)
    missing = -await withdrawable_minor(session, currency)
    if missing > 0:
        raise CapitalMissing(missing_minor=missing, currency=currency)


def _posting(booking: LineBooking) -> ledger.Posting:
    kind, account = KINDS[booking.booked_as]
    cash, other = (AccountKind.STRIPE_AVAILABLE, None), (account, None)
    debited, credited = (cash, other) if booking.net_minor > 0 else (other, cash)
    return ledger.Posting(
        kind=kind,
        source_id=booking.id,
        currency=booking.currency,
        moves=((debited, credited, abs(booking.net_minor)),),
    )


async def discard(
    session: AsyncSession, *, booking_id: UUID, reason: str, decided_by: UUID
) -> LineBooking:
    """It is something else; the line waits on."""
    booking = await find(session, booking_id, lock=True)
    await _require_impartial(session, booking.line_id, decided_by)
    now = await clock.now(session)
    move(booking, LineBookingState.DISCARDED, LINE_BOOKING_MOVES, reason=reason)
    booking.decided_by, booking.decided_at = decided_by, now
    await session.flush()
    return booking


async def attach_late_lines(sessions: Sessions) -> int:
    """Name the line of each booked event whose line Stripe did not name at first."""
    async with sessions() as session:
        attached = await rows(session, statement("marketplace.exceptions", "late_lines.sql"))
        await session.commit()
    return len(attached)
