from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from marketplace.periods.models import PeriodState
from marketplace.shared.schemas import Answer, Body, Reason

Month = Annotated[
    str,
    StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$"),
    Field(description="A calendar month in UTC", examples=["2026-11"]),
]


def first_day_of(month: str) -> date:
    return date.fromisoformat(f"{month}-01")


class Reopening(Body):
    reason: Reason


class PeriodSummary(Answer):
    month: Month
    state: PeriodState


class Books(Answer):
    """One currency at the month's end, in minor units."""

    currency: str = Field(examples=["USD"])
    ledger_sum_minor: int = Field(description="The trial balance; always 0", examples=[0])
    cash_minor: int = Field(description="At Stripe, by the ledger", examples=[596_947])
    owed_minor: int = Field(
        description="Wallets, reserves, payables and what is in flight", examples=[99_859]
    )
    stripe_lines_minor: int = Field(description="Stripe's own lines up to then", examples=[596_947])
    booked_later_minor: int = Field(
        description="Of these, what we booked after the month's end", examples=[0]
    )
    booked_earlier_minor: int = Field(
        description="What we booked by the month's end and Stripe dates after it", examples=[0]
    )
    lines_not_booked: int = Field(examples=[1])


class PeriodAnswer(Answer):
    month: Month
    state: PeriodState
    state_reason: str | None = Field(examples=[None])
    closing_by: UUID | None
    closing_at: datetime | None
    closed_by: UUID | None
    closed_at: datetime | None
    books: list[Books]
    accrued_minor: dict[str, int] = Field(
        description="Worked and not decided by the month's end, pay and fee, by currency",
        examples=[{"USD": 1_418}],
    )
    problems: list[str] = Field(
        description="What is in the way of closing it, and what to do about it",
        examples=[["USD: 1 of Stripe's lines are in no booking; see the reconciliation report"]],
    )


class JournalEntry(Answer):
    """One side of a booking; either the debit or the credit is set. Without a transaction: accrued,
    to be reversed on the first day of the next month.
    """

    accounting_date: date = Field(examples=["2026-11-23"])
    transaction_id: UUID | None
    kind: str = Field(examples=["claim_paid"])
    source_type: str = Field(examples=["pay_decision"])
    source_id: UUID
    account: str = Field(examples=["performer_payable"])
    party_id: UUID | None
    currency: str = Field(examples=["USD"])
    debit_minor: int | None = Field(examples=[None])
    credit_minor: int | None = Field(examples=[7_606])


class Journal(Answer):
    as_of: datetime
    period: Month
    state: PeriodState
    entries: list[JournalEntry]


def answer(period: Any, found: dict[str, Any]) -> PeriodAnswer:
    return PeriodAnswer(
        month=period.name,
        **period.model_dump(
            include={
                *("state", "state_reason", "closing_by", "closing_at", "closed_by", "closed_at")
            }
        ),
        books=found["currencies"],
        accrued_minor=found["accrued_minor"],
        problems=found["problems"],
    )
