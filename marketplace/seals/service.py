"""Sealing what was booked since the last seal, and reading all of it again.

Chaining inside each transaction would make all writers wait for one another; so a sweep seals in
batches, a little later. What was booked since the last seal is not protected by it yet.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg import sql
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings.storage import Storage
from marketplace.seals.chain import HEAD, Found, Link, check
from marketplace.seals.copied import Row, hash_of, rows_of_dump
from marketplace.seals.models import Seal
from marketplace.shared import clock
from marketplace.shared.database import Sessions, take_as_long_as_it_takes, take_turns

# The ledger, rates, consent and history. Other rows that are only ever inserted (decisions, moves of
# reserves, Stripe's lines) are compared with the ledger by `verify`, entry by entry.
SEALED = (
    *("rate_lineage", "rate", "minimum_rate", "consent_grant", "consent_withdrawal"),
    *("ledger_transaction", "ledger_entry", "audit_event"),
)
# An entry is booked with its transaction.
HEADERS = {"ledger_entry": "ledger_transaction"}
ROWS_PER_SEAL = 10_000
# The system's clock may be set back by a moment; what is stamped then must not slip behind a seal.
MARGIN = timedelta(seconds=2)
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
# Rows read before others have their turn.
ROWS_AT_A_TIME = 500
NEWEST = "newest"

log = logging.getLogger(__name__)


async def seal(sessions: Sessions) -> str | None:
    """Seal what was booked since the last seal; answers the chain's head, if there is one."""
    async with sessions() as session:
        to = await clock.settle_writes(session) - MARGIN
    async with sessions() as session:
        await take_turns(session, "seal", "chain")
        # After a pause there is much to read.
        await take_as_long_as_it_takes(session)
        last = await _last(session)
        after = last.sealed_to if last else BEGINNING
        # All is read before the first is written: a connection does nothing else while it copies.
        made = [link async for link in _links(last, to, _hashes(session, after, to))]
        session.add_all(Seal(**link.__dict__) for link in made)
        await session.commit()
        newest = made[-1] if made else last
        return newest.head if newest else None


async def seal_and_export(sessions: Sessions, storage: Storage) -> str | None:
    """Seal, and keep the chain's head where the database's owner does not write: with the files.

    A chain that does not go on from the head that is kept was made anew. Its own is not kept then, so
    that whoever compares the two (I12 does) still finds it.
    """
    head = await seal(sessions)
    kept = await newest_kept(storage)
    if kept is not None and not await _holds(sessions, kept):
        log.error("the chain does not go on from the head kept with the files, %s", kept[:80])
    elif head is not None and head != kept:
        number, _, hash_ = head.partition(":")
        name = f"{int(number):012}"
        if (await _read(storage, name) or hash_) == hash_:
            await storage.put(f"seals/{name}", hash_.encode())
            await storage.put(f"seals/{NEWEST}", head.encode())
        else:
            log.error("seal %s is not the one whose hash was kept with the files", number)
    return head


async def newest_kept(storage: Storage) -> str | None:
    """The head that was kept last, `number:hash`."""
    return await _read(storage, NEWEST)


async def _read(storage: Storage, name: str) -> str | None:
    try:
        stored = await storage.read_stream(f"seals/{name}")
    except FileNotFoundError:
        return None
    return b"".join([chunk async for chunk in stored.chunks]).decode(errors="replace")


async def _holds(sessions: Sessions, head: str) -> bool:
    if not HEAD.fullmatch(head):
        return False
    number, _, hash_ = head.partition(":")
    async with sessions() as session:
        stored = await session.get(Seal, int(number))
    return stored is not None and stored.hash == hash_


async def sweep(sessions: Sessions, storage: Storage) -> int:
    """Answers the number of the last seal."""
    head = await seal_and_export(sessions, storage)
    return int(head.partition(":")[0]) if head else 0


async def _last(session: AsyncSession) -> Link | None:
    found = await session.exec(select(Seal).order_by(col(Seal.number).desc()).limit(1))
    stored = found.first()
    return _link(stored) if stored else None


def _link(stored: Seal) -> Link:
    return Link(**stored.model_dump())


async def _links(
    last: Link | None, to: datetime, hashes: AsyncIterator[tuple[str, bytes]]
) -> AsyncIterator[Link]:
    keys, joined = [], b""
    async for key, hashed in hashes:
        keys.append(key)
        joined += hashed
        if len(keys) == ROWS_PER_SEAL:
            yield (last := _next(last, to, keys, joined))
            keys, joined = [], b""
    if keys:
        yield _next(last, to, keys, joined)


def _next(last: Link | None, to: datetime, keys: list[str], joined: bytes) -> Link:
    number, previous = (last.number + 1, last.hash) if last else (1, None)
    unsigned = Link(number, to, keys, joined, previous, "")
    return Link(number, to, keys, joined, previous, unsigned.computed_hash())


async def _hashes(
    session: AsyncSession, after: datetime, to: datetime
) -> AsyncIterator[tuple[str, bytes]]:
    for table in SEALED:
        async with aclosing(_copied(session, table, after, to)) as copied:
            async for row in copied:
                yield _key(table, row), hash_of(table, row)


def _key(table: str, row: Row) -> str:
    return f"{table}/{row['id']}"


async def _copied(
    session: AsyncSession, table: str, after: datetime, to: datetime
) -> AsyncGenerator[Row]:
    """The table's rows of an interval, as COPY writes them. Its connection is busy until the end:
    whoever stops before closes this first.
    """
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection is not None
    async with raw.driver_connection.cursor() as cursor:
        await cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT attisdropped ORDER BY attnum",
            (table,),
        )
        columns = [name for (name,) in await cursor.fetchall()]
        async with cursor.copy(_copy(table, columns, after, to)) as copy:
            number = 0
            async for values in copy.rows():
                yield dict(zip(columns, values, strict=True))
                number += 1
                if number % ROWS_AT_A_TIME == 0:
                    await asyncio.sleep(0)


def _copy(table: str, columns: Iterable[str], after: datetime, to: datetime) -> sql.Composed:
    header = HEADERS.get(table)
    booked = sql.Identifier("header" if header else "sealed", "booked_at")
    return sql.SQL(
        "COPY (SELECT {columns} FROM {table} AS sealed {header}"
        " WHERE {booked} > {after} AND {booked} <= {to} ORDER BY {booked}, sealed.id) TO STDOUT"
    ).format(
        columns=sql.SQL(", ").join(sql.Identifier("sealed", name) for name in columns),
        table=sql.Identifier(table),
        header=sql.SQL("JOIN {} AS header ON header.id = sealed.transaction_id").format(
            sql.Identifier(header)
        )
        if header
        else sql.SQL(""),
        booked=booked,
        after=sql.Literal(after),
        to=sql.Literal(to),
    )


async def violations(session: AsyncSession, *, head: str | None = None) -> list[str]:
    """What is wrong with the seal of the live database, the first bad row first."""
    await take_as_long_as_it_takes(session)
    stored = await session.exec(select(Seal).order_by(col(Seal.number)))
    links = [_link(seal) for seal in stored]
    found: dict[str, Found] = {}
    if links:
        for table in SEALED:
            async with aclosing(_copied(session, table, BEGINNING, links[-1].sealed_to)) as copied:
                async for row in copied:
                    found[_key(table, row)] = _found(table, row)
    # All of it at once, and others go on meanwhile.
    return await asyncio.to_thread(check, links, found, head=head)


def violations_of_dump(dump: Path, *, head: str | None) -> list[str]:
    """The same, out of a dump in pg_dump's plain format, with no database at all.

    Raises ValueError when the dump breaks off or was not made in UTC.
    """
    found: dict[str, Found] = {}
    links: list[Link] = []
    for table, row in rows_of_dump(dump, {"seal", *SEALED}):
        if table == "seal":
            links.append(_link_of(row))
        else:
            found[_key(table, row)] = _found(table, row)
    return check(sorted(links, key=lambda link: link.number), found, head=head)


def _found(table: str, row: Row) -> Found:
    header = HEADERS.get(table)
    return Found(
        hash=hash_of(table, row),
        booked_at=None if header else _utc(row["booked_at"]),
        header=f"{header}/{row['transaction_id']}" if header else None,
    )


def _utc(text: str | None) -> datetime:
    at = datetime.fromisoformat(text or "")
    if at.utcoffset() != timedelta():
        raise ValueError("its times are not in UTC: make the dump with PGTZ=UTC")
    return at


def _link_of(row: Row) -> Link:
    """Of COPY's text: an array of plain words, and bytes in hexadecimal."""
    return Link(
        number=int(row["number"] or 0),
        sealed_to=_utc(row["sealed_to"]),
        row_keys=(row["row_keys"] or "").strip("{}").split(","),
        row_hashes=bytes.fromhex((row["row_hashes"] or "").removeprefix("\\x")),
        previous_hash=row["previous_hash"],
        hash=row["hash"] or "",
    )
