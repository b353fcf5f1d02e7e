"""Which line of Stripe's own books a posting stands for: each line once, whoever books it."""

import logging
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.shared.problems import Conflict
from marketplace.stripe_api.models import BookedBalanceTransaction

log = logging.getLogger(__name__)


class LineBookedOtherwise(Conflict):
    """This line of Stripe's stands in the books for something else: a person must look."""

    code = "line_booked_otherwise"


async def post_with_line(
    session: AsyncSession, posting: ledger.Posting, line_id: str, *, net_minor: int
) -> bool:
    """Post what the line stands for; False when it stands for something else, and nothing is posted.

    Then no repeat helps: the log has it, and the caller tells finance where it looks.
    """
    try:
        async with session.begin_nested():
            await ledger.post(session, posting)
            await keep_line(
                session,
                line_id,
                net_minor=net_minor,
                currency=posting.currency,
                booked=posting.id,
            )
    except LineBookedOtherwise:
        log.exception(
            "Stripe's line %s is booked as something else: %s of %s is not booked with it",
            *(line_id, posting.kind, posting.source_id),
        )
        return False
    return True


async def keep_line(
    session: AsyncSession, line_id: str, *, net_minor: int, currency: str, booked: UUID
) -> None:
    """Name the line of what was just posted. Repeating this changes nothing.

    Raises LineBookedOtherwise. The posting must not stand then: both belong in one savepoint.
    """
    taken = await session.execute(
        insert(BookedBalanceTransaction)
        .values(id=line_id, net_minor=net_minor, currency=currency, ledger_transaction_id=booked)
        .on_conflict_do_nothing()
        .returning(col(BookedBalanceTransaction.id))
    )
    if taken.first() is None and await booked_as(session, line_id) != booked:
        raise LineBookedOtherwise(f"Stripe's line {line_id} is booked as something else already.")


async def booked_as(session: AsyncSession, line_id: str) -> UUID | None:
    """The posting that the line stands for."""
    found = await session.exec(
        select(BookedBalanceTransaction.ledger_transaction_id).where(
            BookedBalanceTransaction.id == line_id
        )
    )
    return found.first()
