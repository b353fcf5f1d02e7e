"""One clock: SQL and Python both read `marketplace_now()`.

It is the database's time plus an offset that only the owner's login can raise, and only in a
database that was made virtual while it was still empty (demo and tests). So 14 days pass in a
test as they would in life.
"""

import asyncio
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.columns import stamp, updatable
from marketplace.shared.problems import TryAgain

SETTLE_LOOK_SECONDS = 0.02
SETTLE_LOOKS = 500


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


class Booking(SQLModel, table=True):
    """When the transaction that a server process is in booked first; all it books has that stamp.

    Written by `booking_time()` alone.
    """

    __tablename__ = "booking"
    __table_args__ = {"prefixes": ["UNLOGGED"], **updatable()}

    backend: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    xid: str
    began_at: datetime = stamp()
    booked_at: datetime = stamp()


async def now(session: AsyncSession) -> datetime:
    """The time of this transaction."""
    moment = await session.scalar(sa.text("SELECT marketplace_now()"))
    assert isinstance(moment, datetime)
    return moment


async def settle_writes(session: AsyncSession) -> datetime:
    """Wait until every write stamped before now is committed, and return that now.

    A transaction takes the one `booked_at` of all its ledger and audit rows while it holds the
    booking lock shared, until it commits. So whatever is stamped by now is committed or held by
    somebody now: once those few are done, a report "as of" this time repeats to the byte. Writers
    that come later are not kept waiting, as they would be behind a lock of ours.
    """
    moment = await session.scalar(sa.text("SELECT present_moment()"))
    assert isinstance(moment, datetime)
    holding = await _holders(session)
    for _ in range(SETTLE_LOOKS):
        if not holding:
            return moment
        await asyncio.sleep(SETTLE_LOOK_SECONDS)
        holding &= await _holders(session)
    raise TryAgain


async def _holders(session: AsyncSession) -> set[str]:
    """The transactions that hold the booking lock of this database."""
    found = await session.execute(
        sa.text(
            "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND ((classid::bigint << 32) | objid::bigint) = booking_lock() AND objsubid = 1"
        )
    )
    holders = {holder for (holder,) in found}
    await session.commit()
    return holders
