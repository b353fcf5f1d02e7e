"""The one way into the ledger, and the balances out of it."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger.models import SOURCE_TABLES, AccountKind, TransactionKind
from marketplace.shared.database import statement, violated
from marketplace.shared.ids import new_id

Account = tuple[AccountKind, UUID | None]


class BalanceTooLow(Exception):
    """A guarded balance does not cover the posting; nothing was posted."""


@dataclass(frozen=True)
class Posting:
    """One balanced ledger transaction: an event of one source row, in one currency.

    `moves` are (debited account, credited account, amount > 0); amounts of zero are left out.
    """

    kind: TransactionKind
    source_id: UUID
    currency: str
    moves: tuple[tuple[Account, Account, int], ...]
    # When it happened in the world; None is the time of the posting.
    occurred_at: datetime | None = None
    id: UUID = field(default_factory=new_id)


async def post(session: AsyncSession, *postings: Posting) -> None:
    """Append the postings in one statement, or raise BalanceTooLow and append none of them.

    The database locks the guarded balances of one call in one order (wallets, then reserves), so
    post what belongs together in one call.
    """
    headers, lines = [], []
    for posting in postings:
        entries = _entries(posting)
        if not entries:
            continue
        headers.append(_header(posting))
        lines.extend(entries)
    if not headers:
        return
    try:
        async with session.begin_nested():
            await session.execute(
                statement("marketplace.ledger", "post.sql"),
                {"headers": json.dumps(headers), "lines": json.dumps(lines)},
            )
    except sa.exc.IntegrityError as error:
        if violated(error) == "ck_account_balance_covered":
            raise BalanceTooLow from error
        raise


def _header(posting: Posting) -> dict[str, Any]:
    occurred_at = posting.occurred_at
    return {
        "id": str(posting.id),
        "kind": posting.kind.value,
        "source_type": SOURCE_TABLES[posting.kind],
        "source_id": str(posting.source_id),
        "currency": posting.currency,
        "occurred_at": occurred_at.isoformat() if occurred_at else None,
    }


def _entries(posting: Posting) -> list[dict[str, Any]]:
    """Debits and credits per account, netted, so that no account appears twice."""
    amounts: dict[Account, int] = {}
    for debited, credited, amount_minor in posting.moves:
        if amount_minor < 0:
            raise ValueError("a move is never negative; swap its sides")
        amounts[debited] = amounts.get(debited, 0) + amount_minor
        amounts[credited] = amounts.get(credited, 0) - amount_minor
    return [
        {
            "transaction_id": str(posting.id),
            "kind": kind.value,
            "owner_id": str(owner_id) if owner_id else None,
            "currency": posting.currency,
            "amount_minor": amount_minor,
        }
        for (kind, owner_id), amount_minor in amounts.items()
        if amount_minor
    ]


async def guarded_balance(
    session: AsyncSession, kind: AccountKind, owner_id: UUID, currency: str
) -> int:
    """What is left of a wallet or a reserve, in minor units."""
    balance = await session.scalar(
        sa.text(
            "SELECT balance_minor FROM account_balance"
            " WHERE account_id = account_id(:kind, :owner_id, :currency)"
        ),
        {"kind": kind.value, "owner_id": owner_id, "currency": currency},
    )
    return int(balance or 0)
