"""Closing a month: looked through by one person, closed by another, and refused while it is off."""

from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.periods.models import PERIOD_MOVES, AccountingPeriod, PeriodState
from marketplace.reconciliation.models import LineMark
from marketplace.reports.tables import Report
from marketplace.shared import clock
from marketplace.shared.database import rows, statement
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move

# By then all that was begun in a month is committed, and what Stripe lists late is listed.
SETTLES = timedelta(hours=1)


class PeriodNotOver(Conflict):
    """This month is not over yet; it may be closed from an hour after its end on."""

    code = "period_not_over"


class EarlierPeriodOpen(Conflict):
    """Close the months before this one first."""

    code = "earlier_period_open"


class BooksNotInOrder(Conflict):
    """The books of this month are not in order; each finding says what to do."""

    code = "books_not_in_order"


class CloserMayNotConfirm(Forbidden):
    """A month is closed by somebody other than the person who looked it through."""

    code = "closer_may_not_confirm"


async def find(session: AsyncSession, first_day: date) -> AccountingPeriod:
    """The month as it stands; NotFound before the first booking's, and for one to come."""
    if first_day not in await _months(session):
        raise NotFound("Nothing was booked in that month.")
    found = await session.exec(
        select(AccountingPeriod).where(AccountingPeriod.first_day == first_day)
    )
    return found.first() or AccountingPeriod(first_day=first_day, state=PeriodState.OPEN)


async def lock(session: AsyncSession, first_day: date) -> AccountingPeriod:
    """The month's row, which comes into being when somebody first does something about it."""
    await find(session, first_day)
    await session.execute(
        sa.dialects.postgresql.insert(AccountingPeriod)
        .values(id=new_id(), first_day=first_day, state=PeriodState.OPEN)
        .on_conflict_do_nothing()
    )
    found = await session.exec(
        select(AccountingPeriod)
        .where(AccountingPeriod.first_day == first_day)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.one()


async def _months(session: AsyncSession) -> list[date]:
    """From the first booking's month to this one."""
    found = await rows(
        session,
        "SELECT generate_series(date_trunc('month', min(accounting_date)),"
        " date_trunc('month', marketplace_now() AT TIME ZONE 'UTC'), interval '1 month')::date"
        " AS month FROM ledger_transaction",
    )
    return [each["month"] for each in found]


async def months(session: AsyncSession) -> list[tuple[date, PeriodState]]:
    """Every month since the first booking, newest first, and how it stands."""
    stored = {
        period.first_day: period.state for period in await session.exec(select(AccountingPeriod))
    }
    known = await _months(session)
    return [(month, stored.get(month, PeriodState.OPEN)) for month in reversed(known)]


async def start_closing(
    session: AsyncSession, period: AccountingPeriod, *, closing_by: UUID
) -> AccountingPeriod:
    """Look the month through; in order, it waits for a second person."""
    await _require_next(session, period)
    found = await look_through(session, period)
    if problems := found["problems"]:
        raise BooksNotInOrder(problems=problems, findings=found["currencies"])
    now = await clock.now(session)
    move(period, PeriodState.CLOSING, PERIOD_MOVES)
    period.findings = found
    period.closing_by, period.closing_at = closing_by, now
    await session.flush()
    return period


async def reopen(
    session: AsyncSession, period: AccountingPeriod, *, reason: str
) -> AccountingPeriod:
    """Something was found; it may be looked through again."""
    move(period, PeriodState.OPEN, PERIOD_MOVES, reason=reason)
    period.closing_by = period.closing_at = None
    await session.flush()
    return period


async def close(
    session: AsyncSession, period: AccountingPeriod, *, closed_by: UUID
) -> AccountingPeriod:
    """Close the month for good, once it is in order still."""
    if period.closing_by == closed_by:
        raise CloserMayNotConfirm
    await _require_next(session, period)
    found = await look_through(session, period)
    if problems := found["problems"]:
        raise BooksNotInOrder(problems=problems, findings=found["currencies"])
    now = await clock.now(session)
    move(period, PeriodState.CLOSED, PERIOD_MOVES)
    period.findings = found
    period.closed_by, period.closed_at = closed_by, now
    await session.flush()
    return period


async def _require_next(session: AsyncSession, period: AccountingPeriod) -> None:
    if await clock.now(session) < period.ends_at + SETTLES:
        raise PeriodNotOver
    states = dict(await months(session))
    earlier = [month for month in states if month < period.first_day]
    still_open = [f"{month:%Y-%m}" for month in earlier if states[month] is not PeriodState.CLOSED]
    if still_open:
        raise EarlierPeriodOpen(periods=sorted(still_open))


async def look_through(session: AsyncSession, period: AccountingPeriod) -> dict[str, Any]:
    """The books at the month's end, and what is wrong with them, in words."""
    books = await _books(session, period.ends_at)
    now = await clock.now(session)
    by_now = await _books(session, now) if any(map(_is_short, books)) else []
    short = {each["currency"] for each in by_now if _is_short(each)}
    accrued = await _accrual(session, min(period.ends_at, now))
    unread = await _not_read_since(session, period)
    return {
        "currencies": [dict(each) for each in books],
        "problems": unread + [problem for each in books for problem in _problems(each, short)],
        "accrued_minor": {
            currency: sum(
                line["pay_minor"] + line["fee_minor"]
                for line in accrued
                if line["currency"] == currency
            )
            for currency in sorted({line["currency"] for line in accrued})
        },
    }


async def _not_read_since(session: AsyncSession, period: AccountingPeriod) -> list[str]:
    mark = await session.get(LineMark, 1)
    if mark is not None and mark.read_at >= period.ends_at + SETTLES:
        return []
    return [
        "Stripe's lines were not read since an hour after the month's end; run the sweep stripe_lines"
    ]


async def _books(session: AsyncSession, end: datetime) -> list[Any]:
    return await rows(session, statement("marketplace.periods", "books.sql"), end=end)


def _is_short(books: Any) -> bool:
    return bool(books["cash_minor"] < books["owed_minor"])


def _problems(books: Any, short: set[str]) -> list[str]:
    """`short` are the currencies in which cash does not cover what is owed by now, either: what was
    missing at a month's end and came since stands in its books, and is in nobody's way.
    """
    currency = books["currency"]
    problems = []
    if books["ledger_sum_minor"]:
        problems.append(f"{currency}: the trial balance sums to {books['ledger_sum_minor']}, not 0")
    if _is_short(books) and currency in short:
        problems.append(
            f"{currency}: {books['cash_minor']} at Stripe do not cover the {books['owed_minor']} "
            "owed; top the platform's balance up"
        )
    if books["lines_not_booked"]:
        problems.append(
            f"{currency}: {books['lines_not_booked']} of Stripe's lines are in no booking; see "
            "GET /v1/exceptions, and GET /v1/reports/reconciliation for what is on its way"
        )
    listed = (
        books["stripe_lines_minor"] - books["booked_later_minor"] + books["booked_earlier_minor"]
    )
    if books["cash_minor"] != listed and not books["lines_not_booked"]:
        problems.append(
            f"{currency}: the ledger has {books['cash_minor']} at Stripe, Stripe's lines make {listed}"
        )
    return problems


async def _accrual(session: AsyncSession, end: datetime) -> list[Any]:
    return await rows(session, statement("marketplace.periods", "accrual.sql"), end=end)


JOURNAL_COLUMNS = (
    "accounting_date",
    "transaction_id",
    "kind",
    "source_type",
    "source_id",
    "account",
    "party_id",
    "currency",
    "debit_minor",
    "credit_minor",
)


async def journal(session: AsyncSession, period: AccountingPeriod, now: datetime) -> Report:
    """The month's entries, and the accrual of what was not decided by its end; of a month that goes
    on, both up to now.
    """
    end = min(period.ends_at, now)
    entries = await rows(
        session,
        statement("marketplace.periods", "journal.sql"),
        start=period.starts_at,
        end=end,
    )
    accrued = [entry for line in await _accrual(session, end) for entry in _accrued(line, period)]
    return Report(
        as_of=end,
        columns=JOURNAL_COLUMNS,
        lines=[*entries, *accrued],
        heading={"period": period.name, "state": period.state.value},
        name=f"journal-{period.name}",
        lines_name="entries",
    )


def _accrued(line: Any, period: AccountingPeriod) -> list[dict[str, Any]]:
    """As the decision would book it; to be reversed on the first day of the next period."""
    common = {
        "accounting_date": period.last_day,
        "transaction_id": None,
        "kind": "accrual",
        "source_type": "claim",
        "source_id": line["claim_id"],
        "currency": line["currency"],
    }
    total = line["pay_minor"] + line["fee_minor"]
    sides = (
        ("job_reserve", line["client_id"], total, None),
        ("performer_payable", line["performer_id"], None, line["pay_minor"]),
        ("platform_fees", None, None, line["fee_minor"]),
    )
    return [
        {
            **common,
            "account": account,
            "party_id": party,
            "debit_minor": debit,
            "credit_minor": credit,
        }
        for account, party, debit, credit in sides
        if debit or credit
    ]
