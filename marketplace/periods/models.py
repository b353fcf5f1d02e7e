from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import SQLModel

from marketplace.shared.columns import (
    json_object,
    key,
    link,
    now_stamp,
    stamp,
    state_column,
    updatable,
)
from marketplace.shared.states import Moves


class PeriodState(StrEnum):
    OPEN = "open"  # its month may still be booked into, or waits to be closed
    CLOSING = "closing"  # one person found it in order; needs a second one
    CLOSED = "closed"  # the database takes no booking into it any more


PERIOD_MOVES: Moves[PeriodState] = {
    None: frozenset({PeriodState.OPEN}),
    PeriodState.OPEN: frozenset({PeriodState.CLOSING}),
    PeriodState.CLOSING: frozenset({PeriodState.OPEN, PeriodState.CLOSED}),
}


class AccountingPeriod(SQLModel, table=True):
    """A calendar month in UTC. What comes late, such as an appeal, is booked into a later one."""

    __tablename__ = "accounting_period"
    __table_args__ = (
        sa.UniqueConstraint("first_day"),
        sa.CheckConstraint("first_day = date_trunc('month', first_day)::date", name="whole_month"),
        sa.CheckConstraint("closed_by <> closing_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_by IS NOT NULL)", name="closed_by_somebody"
        ),
        sa.CheckConstraint("state = 'open' OR closing_by IS NOT NULL", name="closing_by_somebody"),
        updatable(
            *("state", "state_reason", "closing_by", "closing_at", "closed_by", "closed_at"),
            "findings",
        ),
    )

    id: UUID = key()
    first_day: date
    state: PeriodState = state_column(PeriodState)
    state_reason: str | None = None
    closing_by: UUID | None = link("person.id", default=None)
    closing_at: datetime | None = stamp(default=None)
    closed_by: UUID | None = link("person.id", default=None)
    closed_at: datetime | None = stamp(default=None)
    # What was found when it was last looked through: per currency, the books at its end.
    findings: dict[str, Any] | None = json_object(default=None)
    created_at: datetime = now_stamp()

    @property
    def name(self) -> str:
        return f"{self.first_day:%Y-%m}"

    @property
    def last_day(self) -> date:
        return self.ends_at.date() - timedelta(days=1)

    @property
    def starts_at(self) -> datetime:
        return datetime(self.first_day.year, self.first_day.month, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first moment that is not in it."""
        year, month = divmod(self.first_day.year * 12 + self.first_day.month, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)
