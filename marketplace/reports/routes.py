from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from marketplace.accounts.principals import Finance, Performer
from marketplace.reports import duties, earnings, finance, liabilities, performers, reconciliation
from marketplace.reports.schemas import (
    Duties,
    Fees,
    Liabilities,
    PayoutReport,
    PerformerReport,
    RateReport,
    Reconciliation,
    RollForward,
    TrialBalance,
)
from marketplace.reports.tables import Format, respond
from marketplace.shared import clock
from marketplace.shared.pagination import PageQuery
from marketplace.shared.problems import InvalidField, NotFound, documented
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.schemas import Answer, Page, Time

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["reports"])


class EarningStatus(StrEnum):
    WAITING = "waiting"  # in no run yet
    SCHEDULED = "scheduled"  # in a run that is to be approved or sent
    SENDING = "sending"
    HELD = "held"
    REFUSED = "refused"
    PAID = "paid"
    PARTLY_REVERSED = "partly_reversed"  # some of its payout came back
    REVERSED = "reversed"  # all of it came back


class Exclusion(Answer):
    reason: str = Field(examples=["account_not_active"])
    remedy: str = Field(description="What to do about it.")
    amount_minor: int = Field(examples=[1_233])
    next_run_at: datetime


class Undecided(Answer):
    """Worked, but not decided yet; at your locked rates."""

    currency: str
    claims: int = Field(examples=[1])
    seconds: int
    pay_minor: int


class EarningsTotal(Answer):
    """Minor units. earned = waiting + scheduled + sending + held + paid + taken back."""

    currency: str
    earned_minor: int = Field(examples=[13_978])
    waiting_minor: int = Field(examples=[1_233])
    scheduled_minor: int = Field(examples=[5_139])
    sending_minor: int = Field(examples=[0])
    held_minor: int = Field(examples=[0])
    paid_minor: int = Field(description="Less what came back.")
    taken_back_minor: int = Field(
        description="Paid twice or for work that was not yours: out of your account, or off your "
        "pay. What came back from a wrong destination is not in it: that waits to be paid again.",
        examples=[0],
    )
    owed_back_minor: int = Field(
        description="Overpaid, and not taken off your pay or given up yet.", examples=[0]
    )
    next_run_at: datetime
    exclusion: Exclusion | None = Field(
        description="Why you were left out of the last run, if you were."
    )


class EarningsAnswer(Page[EarningsTotal]):
    undecided: list[Undecided]


class EarningLine(Answer):
    """One paid claim or audition: seconds × rate = pay. What came back from a wrong destination
    (paid again), what was corrected, and what was taken off (`netting`, negative) are lines of their
    own, without seconds and with a reason.
    """

    id: UUID
    source_type: str = Field(examples=["claim"])
    source_id: UUID
    seconds: int
    rate_minor_per_hour: int | None
    rate_id: UUID | None
    pay_minor: int
    currency: str
    reason: str | None = Field(examples=[None])
    earned_at: datetime
    pay_by: datetime | None
    status: EarningStatus = Field(examples=["paid"])
    status_reason: str | None
    payout_id: UUID | None
    transfer_id: str | None


@router.get("/earnings")
async def read_earnings(session: Session, performer: Performer) -> EarningsAnswer:
    """What you earned, what is scheduled, what is paid, and why the rest is not yet."""
    found = await earnings.totals(session, performer.person)
    undecided = await earnings.undecided(session, performer.person)
    return EarningsAnswer(
        items=[EarningsTotal.model_validate(row) for row in found],
        next_cursor=None,
        undecided=[Undecided.model_validate(row) for row in undecided],
    )


@router.get("/earnings/lines")
async def list_earnings(
    session: Session, performer: Performer, page: Annotated[PageQuery, Query()]
) -> Page[EarningLine]:
    """Every claim and audition you were paid for, newest first, down to the second."""
    found, next_cursor = await earnings.lines(session, performer_id=performer.person, page=page)
    items = [
        EarningLine.model_validate({**line, "status_reason": line["state_reason"]})
        for line in found
    ]
    return Page(items=items, next_cursor=next_cursor)


async def settled_moment(
    session: Session,
    finance_person: Finance,
    as_of: Annotated[
        Time | None,
        Query(
            description="Everything booked by then; null is now. The same moment gives the same "
            "bytes."
        ),
    ] = None,
) -> datetime:
    """The report's moment, when nothing stamped earlier is still on its way."""
    now = await clock.settle_writes(session)
    if as_of is not None and as_of > now:
        raise InvalidField("query.as_of", "lies in the future")
    return as_of or now


AsOf = Annotated[datetime, Depends(settled_moment)]
AsFormat = Annotated[Format, Query(alias="format")]


def report_of(answer: type[Answer]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": "The report as JSON, or its lines as CSV.",
            "model": answer,
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    }


@router.get(
    "/reports/payout-runs/{run_id}",
    response_class=Response,
    responses={**report_of(PayoutReport), **documented(NotFound, finance.ReportDoesNotAddUp)},
)
async def read_payout_report(
    run_id: UUID, session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """A run line by line: seconds × rate, gross, adjustments, net, status with reason, transfer."""
    return respond(await finance.payout_report(session, run_id, as_of), format_)


@router.get(
    "/reports/performers/{performer_id}",
    response_class=Response,
    responses={**report_of(PerformerReport), **documented(NotFound, finance.ReportDoesNotAddUp)},
)
async def read_performer_report(
    performer_id: UUID, session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """One performer line by line: hours, rate, gross, adjustments, net, status, transfer."""
    return respond(await performers.performer_report(session, performer_id, as_of), format_)


@router.get("/reports/rates", response_class=Response, responses=report_of(RateReport))
async def read_rate_report(
    session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """Every rate that was ever announced, with its reason."""
    return respond(await finance.rate_report(session, as_of), format_)


@router.get("/reports/trial-balance", response_class=Response, responses=report_of(TrialBalance))
async def read_trial_balance(
    session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """Every kind of account with its debits, credits and balance."""
    return respond(await finance.trial_balance(session, as_of), format_)


@router.get("/reports/reconciliation", response_class=Response, responses=report_of(Reconciliation))
async def read_reconciliation(
    session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """The ledger beside Stripe's lines, and each that does not match, by reason and age."""
    return respond(await reconciliation.reconciliation(session, as_of), format_)


async def since_moment(
    as_of: AsOf,
    since: Annotated[
        Time, Query(description="The span's beginning, in it.", examples=["2026-11-01T00:00:00Z"])
    ],
) -> datetime:
    if since > as_of:
        raise InvalidField("query.since", "lies after as_of")
    return since


Since = Annotated[datetime, Depends(since_moment)]
CHECKED = documented(finance.ReportDoesNotAddUp)


@router.get("/reports/duties", response_class=Response, responses=report_of(Duties))
async def read_duties(session: Session, as_of: AsOf, format_: AsFormat = Format.JSON) -> Response:
    """Who is of finance and what else they are, and who did what in each payout run."""
    return respond(await duties.duties(session, as_of), format_)


@router.get(
    "/reports/liabilities",
    response_class=Response,
    responses={**report_of(Liabilities), **CHECKED},
)
async def read_liabilities(
    session: Session, as_of: AsOf, format_: AsFormat = Format.JSON
) -> Response:
    """Every earning that is not on its way yet, by age and reason; an alarm from day 25 on."""
    return respond(await liabilities.ageing(session, as_of), format_)


@router.get(
    "/reports/roll-forward",
    response_class=Response,
    responses={**report_of(RollForward), **CHECKED},
)
async def read_roll_forward(
    session: Session, as_of: AsOf, since: Since, format_: AsFormat = Format.JSON
) -> Response:
    """For each performer: opening + earned - sent + returned ± adjusted = closing."""
    return respond(await liabilities.roll_forward(session, since=since, as_of=as_of), format_)


@router.get(
    "/reports/fees",
    response_class=Response,
    responses={**report_of(Fees), **CHECKED},
)
async def read_fees(
    session: Session, as_of: AsOf, since: Since, format_: AsFormat = Format.JSON
) -> Response:
    """The platform's fees by client, and Stripe's fees, in a span of time."""
    return respond(await liabilities.fees(session, since=since, as_of=as_of), format_)
