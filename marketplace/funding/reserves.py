"""Setting money aside and giving it back. Each movement is a row and a ledger transaction.

A reserve changes only under the lock of the row it is for (its role or claim); so what is left
may be read and moved without a lock of its own.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding.models import Reservation, ReserveCause, ReserveMove
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountBalance, AccountKind, TransactionKind
from marketplace.shared.problems import Conflict


class WalletTooLow(Conflict):
    """The wallet does not cover this; make a deposit first, or publish fewer roles."""

    code = "wallet_too_low"


class Reserve(Protocol):
    """A reservation, or what a statement tells of one."""

    @property
    def id(self) -> UUID: ...
    @property
    def client_id(self) -> UUID: ...
    @property
    def currency(self) -> str: ...


def wallet(client_id: UUID) -> ledger.Account:
    return (AccountKind.CLIENT_WALLET, client_id)


def reserve(reservation_id: UUID) -> ledger.Account:
    return (AccountKind.JOB_RESERVE, reservation_id)


async def left_in(session: AsyncSession, reservation_id: UUID, currency: str) -> int:
    return await ledger.guarded_balance(session, AccountKind.JOB_RESERVE, reservation_id, currency)


async def move_reserves(session: AsyncSession, moves: Sequence[ReserveMove]) -> None:
    """All of the moves or none: raises WalletTooLow when a wallet or a reserve falls short.

    The moves must be new rows; they get their ledger transactions here.
    """
    if not moves:
        return
    postings = [_posting(move) for move in moves]
    try:
        await ledger.post(session, *postings)
    except ledger.BalanceTooLow as error:
        raise WalletTooLow from error
    for move, posting in zip(moves, postings, strict=True):
        move.ledger_transaction_id = posting.id
    await session.execute(
        sa.text(
            "INSERT INTO reserve_move (id, client_id, currency, from_reservation_id,"
            " to_reservation_id, amount_minor, cause, ledger_transaction_id)"
            " SELECT id, client_id, currency, from_reservation_id, to_reservation_id,"
            " amount_minor, cause, ledger_transaction_id"
            " FROM jsonb_populate_recordset(NULL::reserve_move, CAST(:moves AS jsonb))"
        ),
        {
            "moves": json.dumps(
                [move.model_dump(exclude={"moved_at"}) for move in moves], default=str
            )
        },
    )


def _posting(move: ReserveMove) -> ledger.Posting:
    source = (
        reserve(move.from_reservation_id) if move.from_reservation_id else wallet(move.client_id)
    )
    target = reserve(move.to_reservation_id) if move.to_reservation_id else wallet(move.client_id)
    return ledger.Posting(
        kind=TransactionKind.RESERVE_CHANGED,
        source_id=move.id,
        currency=move.currency,
        moves=((source, target, move.amount_minor),),
    )


async def open_reservations(
    session: AsyncSession, *, client_id: UUID, currency: str, subject_id: UUID, count: int = 1
) -> list[Reservation]:
    reservations = [
        Reservation(client_id=client_id, currency=currency, subject_id=subject_id)
        for _ in range(count)
    ]
    session.add_all(reservations)
    await session.flush()
    return reservations


def is_outstanding(subject: Any) -> sa.ColumnElement[bool]:
    """Something is still set aside for the subject: a condition on the column that names it."""
    own_account = sa.func.account_id("job_reserve", Reservation.id, Reservation.currency)
    return (
        select(Reservation.id)
        .join(AccountBalance, col(AccountBalance.account_id) == own_account)
        .where(Reservation.subject_id == subject, AccountBalance.balance_minor > 0)
        .exists()
    )


def from_wallet(reservation: Reserve, amount_minor: int, cause: ReserveCause) -> ReserveMove:
    return ReserveMove(
        client_id=reservation.client_id,
        currency=reservation.currency,
        to_reservation_id=reservation.id,
        amount_minor=amount_minor,
        cause=cause,
    )


def to_wallet(reservation: Reserve, amount_minor: int) -> ReserveMove:
    return ReserveMove(
        client_id=reservation.client_id,
        currency=reservation.currency,
        from_reservation_id=reservation.id,
        amount_minor=amount_minor,
        cause=ReserveCause.LEFT_OVER,
    )


async def give_back_what_is_left(session: AsyncSession, reservation: Reservation) -> None:
    left = await left_in(session, reservation.id, reservation.currency)
    if left:
        await move_reserves(session, [to_wallet(reservation, left)])
