"""Connections. One request, or one row of a sweep, is one transaction, committed at its edge."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

Sessions = async_sessionmaker[AsyncSession]

# A caller never waits longer than this for rows that others hold; it is told to try again.
SERVER_OPTIONS = (
    "-c lock_timeout=5s -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"
    " -c timezone=UTC"
)
# Nor longer than this for a connection.
POOL_WAIT_SECONDS = 10.0
# A server that is gone without a word is noticed within a minute or so: the kernel alone takes hours,
# and whoever waits for it would keep its connection as long.
NOTICE_THE_DEAD = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def driver_url(url: str) -> sa.URL:
    """Any `postgres://` or `postgresql://` URL, for the one driver we use."""
    return sa.make_url(url.replace("postgres://", "postgresql://", 1)).set(
        drivername="postgresql+psycopg"
    )


def connect(database_url: str, pool_size: int) -> AsyncEngine:
    return create_async_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        # An error's words go to the log; what people sent does not.
        hide_parameters=True,
        connect_args={
            "options": SERVER_OPTIONS,
            "application_name": "marketplace",
            **NOTICE_THE_DEAD,
        },
    )


def session_factory(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


async def take_as_long_as_it_takes(session: AsyncSession) -> None:
    """For a look at all that ever was, which nobody waits for; until the transaction ends."""
    await session.execute(sa.text("SET LOCAL statement_timeout = 0"))
    await session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))


@cache
def statement(package: str, name: str) -> sa.TextClause:
    """The SQL file `name` of a package: the hot paths are single statements kept as files."""
    return sa.text(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


async def rows(
    session: AsyncSession, sql: str | sa.TextClause, **values: Any
) -> list[Mapping[str, Any]]:
    query = sa.text(sql) if isinstance(sql, str) else sql
    result = await session.execute(query, values)
    return [dict(row) for row in result.mappings()]


async def row(
    session: AsyncSession, sql: str | sa.TextClause, **values: Any
) -> Mapping[str, Any] | None:
    query = sa.text(sql) if isinstance(sql, str) else sql
    found = (await session.execute(query, values)).mappings().first()
    return None if found is None else dict(found)


async def take_turns(
    session: AsyncSession, at: str, whose: object, *, shared: bool = False
) -> None:
    """One transaction after the other until each ends; sharers wait only for who does not share."""
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    await session.execute(
        sa.text(f"SELECT {function}(hashtextextended(:turn, 0))"), {"turn": f"{at} {whose}"}
    )


async def is_our_turn(session: AsyncSession, at: str, whose: object) -> bool:
    """Whether nobody else is at it now; then nobody is until this transaction ends."""
    free = await session.scalar(
        sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:turn, 0))"),
        {"turn": f"{at} {whose}"},
    )
    return bool(free)


def violated(error: sa.exc.DBAPIError) -> str | None:
    """The name of the constraint that the database says was violated, if any."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None)


def said(error: sa.exc.DBAPIError) -> str:
    """The detail that a trigger of ours gave with its refusal."""
    return getattr(getattr(error.orig, "diag", None), "message_detail", None) or ""


def sqlstate(error: sa.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
