"""Walks the links from one row in both directions."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reports.explain.arithmetic import check
from marketplace.reports.explain.links import (
    DOWN,
    READABLE,
    STRIPE_IDS,
    TABLES,
    UP,
    Link,
)
from marketplace.reports.explain.nodes import Direction, Node, Row
from marketplace.shared.database import rows
from marketplace.shared.problems import Conflict

# Each asks the database a dozen times.
MOST_ROWS = 5_000

LINKS: Mapping[Direction, Mapping[str, tuple[Link, ...]]] = {
    Direction.DOWN: DOWN,
    Direction.UP: UP,
}


class TooMuchToExplain(Conflict):
    """More hangs on this than one answer holds; ask for one of its parts."""

    code = "too_much_to_explain"


async def explain(session: AsyncSession, id_: str) -> Node | None:
    """The tree of a payout, claim, ledger line, time entry … or of Stripe's own id (`tr_…`).

    Raises TooMuchToExplain.
    """
    found = await _find(session, id_)
    if found is None:
        return None
    node = Node(*found)
    seen = {(node.table, node.row["id"])}
    for direction in Direction:
        await _follow(session, node, direction, set(seen))
    check(node)
    return node


async def _find(session: AsyncSession, id_: str) -> tuple[str, Row] | None:
    named: list[tuple[str, str, str | UUID]]
    try:
        uuid = UUID(id_)
        named = [(table, "id", uuid) for table in TABLES]
    except ValueError:
        named = [(table, column, id_) for table, column in STRIPE_IDS]
    for table, column, value in named:
        for row in await _select(session, table, column, value):
            return table, row
    return None


async def _select(session: AsyncSession, table: str, column: str, value: Any) -> list[Row]:
    """Table and column are words of `links`."""
    return await rows(
        session,
        f"SELECT * FROM {READABLE.get(table, table)}"  # noqa: S608 - see docstring
        f" WHERE {column} = :value ORDER BY id",
        value=value,
    )


async def _follow(
    session: AsyncSession,
    node: Node,
    direction: Direction,
    seen: set[tuple[str, Any]],
) -> None:
    for link in LINKS[direction].get(node.table, ()):
        if not link.when(node.row):
            continue
        found = await _select(session, link.table, link.column, node.row[link.own])
        if not found and link.required(node.row):
            node.problems.append(f"leads to no {link.table} ({link.own} {node.row[link.own]})")
        linked = node.linked.setdefault(link.table, {})
        for row in found:
            linked[row["id"]] = row
            if not link.shown or (link.table, row["id"]) in seen:
                continue
            seen.add((link.table, row["id"]))
            if len(seen) > MOST_ROWS:
                raise TooMuchToExplain(most_rows=MOST_ROWS)
            child = Node(link.table, row, direction)
            node.children.append(child)
            await _follow(session, child, direction, seen)
            check(child)
