"""A sweep goes through its due rows one by one; a row that fails is logged and stops no other.

Any number of processes may sweep at once: a row that another one is at is left to it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import audit
from marketplace.shared.database import Sessions, is_our_turn

log = logging.getLogger(__name__)

Work = Callable[[AsyncSession, Any], Awaitable[bool]]


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


@contextmanager
def one_row(sweep: str, row_id: object) -> Iterator[None]:
    """What fails in here is logged with the row's id, and the sweep goes on."""
    try:
        yield
    except Exception:
        log.exception("sweep %s failed at %s; it is tried again", sweep, row_id)
