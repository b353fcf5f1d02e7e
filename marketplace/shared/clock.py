"""One clock: SQL and Python both read `marketplace_now()`.

It is the database's time plus an offset that only the owner's login can raise, and only in a
database that was made virtual while it was still empty (demo and tests). So 14 days pass in a
test as they would in life.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.columns import updatable


class Clock(SQLModel, table=True):
    __tablename__ = "clock"
    __table_args__ = (
        sa.CheckConstraint("one = 1", name="single_row"),
        sa.CheckConstraint("is_virtual OR offset_seconds = 0", name="real_time_has_no_offset"),
        updatable(),
    )

    one: int = Field(default=1, primary_key=True)
    is_virtual: bool = False
    offset_seconds: int = Field(default=0, sa_type=sa.BigInteger)


async def now(session: AsyncSession) -> datetime:
    """The time of this transaction."""
    stamp = await session.scalar(sa.text("SELECT marketplace_now()"))
    assert isinstance(stamp, datetime)
    return stamp


async def settle_writes(session: AsyncSession) -> datetime:
    """Wait until every write stamped before now is committed, and return that now.

    Ledger and audit rows take their `booked_at` while they hold this lock shared; so whatever is
    booked later is stamped later, and a report "as of" the returned time repeats to the byte.
    """
    await session.execute(sa.text("SELECT pg_advisory_xact_lock(booking_lock())"))
    stamp = await session.scalar(sa.text("SELECT booking_time()"))
    await session.commit()
    assert isinstance(stamp, datetime)
    return stamp
