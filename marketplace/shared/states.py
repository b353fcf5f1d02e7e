"""States are an enum beside one table of allowed moves; one function moves a row.

The database holds the same table (`allowed_move`) and refuses what it does not name, and its
trigger writes the audit event, so that a move made by set-based SQL is neither free nor silent.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from sqlmodel import Field, SQLModel, UniqueConstraint

from marketplace.shared.columns import updatable
from marketplace.shared.problems import MoveNotAllowed

State = TypeVar("State", bound=StrEnum)

# None stands for "not there yet": the states a row may be born in.
Moves = Mapping[State | None, frozenset[State]]


class AllowedMove(SQLModel, table=True):
    """The database's copy of every table of moves; written by migrations alone."""

    __tablename__ = "allowed_move"
    __table_args__ = (
        UniqueConstraint(
            "subject",
            "from_state",
            "to_state",
            name="uq_allowed_move",
            postgresql_nulls_not_distinct=True,
        ),
        updatable(),
    )

    id: int | None = Field(default=None, primary_key=True)
    subject: str
    from_state: str | None = None
    to_state: str


class HasState(Protocol):
    state: Any
    state_reason: str | None


def move(row: HasState, to: StrEnum, moves: Moves[Any], *, reason: str | None = None) -> None:
    """Move the row, or raise MoveNotAllowed with the moves that its state allows."""
    if to not in moves.get(row.state, frozenset()):
        raise not_allowed(row, moves, f"It is {row.state.value}; it cannot become {to.value}.")
    row.state = to
    row.state_reason = reason


def not_allowed(row: HasState, moves: Moves[Any], detail: str) -> MoveNotAllowed:
    """The refusal, which names the moves that the row's state allows."""
    allowed = sorted(state.value for state in moves.get(row.state, frozenset()))
    return MoveNotAllowed(detail, state=row.state.value, allowed_moves=allowed)
