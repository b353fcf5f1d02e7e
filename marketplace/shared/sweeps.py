"""A sweep goes through its due rows one by one; a row that fails is logged and stops no other.

Any number of processes may sweep at once: a row that another one is at is left to it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import audit
from marketplace.shared.columns import now_stamp, stamp, updatable
from marketplace.shared.database import Sessions, is_our_turn

log = logging.getLogger(__name__)

# So few that nobody waits long for a row that goes.
BATCH = 1_000

Work = Callable[[AsyncSession, Any], Awaitable[bool]]


class SweepSlot(SQLModel, table=True):
    """A scheduled moment of a sweep, taken by whoever inserted it."""

    __tablename__ = "sweep_slot"
    __table_args__ = updatable()

    sweep: str = Field(primary_key=True)
    slot_at: datetime = stamp(primary_key=True)
    taken_at: datetime = now_stamp()


async def each_due(sessions: Sessions, sweep: str, due: sa.Executable, work: Work) -> int:
    """Give each row that `due` names a transaction of its own; answers how many were done.

    `work` locks its row, looks again whether it is due, and answers whether it did anything.
    """
    # Ids alone, and without a limit: rows that fail must not stand before the others for good.
    async with sessions() as session:
        ids = list((await session.execute(due)).scalars())
    done = 0
    for row_id in ids:
        with one_row(sweep, row_id):
            async with sessions() as session:
                await audit.act_as(session, f"sweep:{sweep}")
                free = await is_our_turn(session, f"sweep {sweep}", row_id)
                did = free and await work(session, row_id)
                await session.commit()
            done += did
    return done


async def delete_in_batches(sessions: Sessions, statement: str, **values: Any) -> int:
    """Run a DELETE of `:most` rows, each time in a transaction of its own, until none is left."""
    deleted = 0
    while True:
        async with sessions() as session:
            result = await session.execute(sa.text(statement), {**values, "most": BATCH})
            await session.commit()
        assert isinstance(result, sa.CursorResult)
        deleted += result.rowcount
        if result.rowcount < BATCH:
            return deleted


@contextmanager
def one_row(sweep: str, row_id: object) -> Iterator[None]:
    """What fails in here is logged with the row's id, and the sweep goes on."""
    try:
        yield
    except Exception:
        log.exception("sweep %s failed at %s; it is tried again", sweep, row_id)


async def take_hour(sessions: Sessions, sweep: str) -> bool:
    """True for one caller in each hour of UTC, whatever number of processes tick."""
    async with sessions() as session:
        taken = await session.scalar(
            sa.text(
                "INSERT INTO sweep_slot (sweep, slot_at)"
                " VALUES (:sweep, date_trunc('hour', marketplace_now(), 'UTC'))"
                " ON CONFLICT DO NOTHING RETURNING true"
            ),
            {"sweep": sweep},
        )
        await session.commit()
    return bool(taken)


async def may_try(sessions: Sessions, sweep: str) -> bool:
    """True for one caller in each ten minutes, until somebody has taken the hour.

    For what takes its hour when it is done: what fails, or is killed, is tried again.
    """
    async with sessions() as session:
        taken = await session.scalar(
            sa.text(
                "INSERT INTO sweep_slot (sweep, slot_at)"
                " SELECT :sweep || ' tried',"
                "  date_bin('10 minutes', marketplace_now(), '2000-01-01 00:00:00+00')"
                " WHERE NOT EXISTS (SELECT FROM sweep_slot WHERE sweep = :sweep"
                "  AND slot_at = date_trunc('hour', marketplace_now(), 'UTC'))"
                " ON CONFLICT DO NOTHING RETURNING true"
            ),
            {"sweep": sweep},
        )
        await session.commit()
    return bool(taken)
