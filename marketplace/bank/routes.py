from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlmodel import col, select

from marketplace.accounts.principals import Finance, Performer
from marketplace.bank import outcomes, withdrawals
from marketplace.bank.models import BankPayout, BankPayoutState, Withdrawal, WithdrawalState
from marketplace.bank.schemas import (
    BankPayoutAnswer,
    NewWithdrawal,
    OwnBankPayoutAnswer,
    WithdrawalAnswer,
    WithdrawalDecision,
)
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["bank"])


class WithdrawalQuery(PageQuery):
    state: WithdrawalState | None = None


class BankPayoutQuery(PageQuery):
    state: BankPayoutState | None = None
    performer_id: UUID | None = None


@router.post(
    "/withdrawals",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(withdrawals.NotCovered),
)
async def request_withdrawal(
    body: NewWithdrawal, session: Session, finance: Finance
) -> WithdrawalAnswer:
    """Ask for the platform's own money to be paid out to its bank. Somebody else approves it."""
    withdrawal = await withdrawals.request(
        session,
        amount_minor=body.amount_minor,
        currency=body.currency,
        reason=body.reason,
        requested_by=finance.person,
    )
    return WithdrawalAnswer.model_validate(withdrawal)


@router.get("/withdrawals")
async def list_withdrawals(
    session: Session, finance: Finance, query: Annotated[WithdrawalQuery, Query()]
) -> Page[WithdrawalAnswer]:
    """The platform's withdrawals, newest first."""
    wanted = select(Withdrawal)
    if query.state is not None:
        wanted = wanted.where(Withdrawal.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Withdrawal.id), query)
    items = [WithdrawalAnswer.model_validate(row.Withdrawal) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/withdrawals/{withdrawal_id}", responses=documented(NotFound))
async def read_withdrawal(
    withdrawal_id: UUID, session: Session, finance: Finance
) -> WithdrawalAnswer:
    """One withdrawal and how far it has come."""
    return WithdrawalAnswer.model_validate(await withdrawals.find(session, withdrawal_id))


@router.post(
    "/withdrawals/{withdrawal_id}/approve",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound, MoveNotAllowed, withdrawals.RequesterMayNotDecide, withdrawals.NotCovered
    ),
)
async def approve_withdrawal(
    withdrawal_id: UUID, session: Session, finance: Finance
) -> WithdrawalAnswer:
    """Approve what somebody else asked for; it is sent from now on."""
    withdrawal = await withdrawals.approve(
        session, withdrawal_id=withdrawal_id, approver=finance.person
    )
    return WithdrawalAnswer.model_validate(withdrawal)


@router.post(
    "/withdrawals/{withdrawal_id}/discard",
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, MoveNotAllowed),
)
async def discard_withdrawal(
    withdrawal_id: UUID, body: WithdrawalDecision, session: Session, finance: Finance
) -> WithdrawalAnswer:
    """Give a withdrawal up before it is sent."""
    withdrawal = await withdrawals.discard(session, withdrawal_id=withdrawal_id, reason=body.reason)
    return WithdrawalAnswer.model_validate(withdrawal)


@router.post(
    "/withdrawals/{withdrawal_id}/absent",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        withdrawals.RequesterMayNotDecide,
        withdrawals.WithdrawalNotProvenAbsent,
    ),
)
async def decide_withdrawal_absent(
    withdrawal_id: UUID, body: WithdrawalDecision, session: Session, finance: Finance
) -> WithdrawalAnswer:
    """End an unknown outcome that a look-up did not find at Stripe: it counts as refused."""
    withdrawal = await outcomes.decide_absent(
        session, withdrawal_id=withdrawal_id, reason=body.reason, decider=finance.person
    )
    return WithdrawalAnswer.model_validate(withdrawal)


@router.get("/bank-payouts")
async def list_bank_payouts(
    session: Session, finance: Finance, query: Annotated[BankPayoutQuery, Query()]
) -> Page[BankPayoutAnswer]:
    """What performers' Stripe accounts paid out to their banks, newest first."""
    wanted = select(BankPayout)
    if query.state is not None:
        wanted = wanted.where(BankPayout.state == query.state)
    if query.performer_id is not None:
        wanted = wanted.where(BankPayout.performer_id == query.performer_id)
    found, next_cursor = await newest_first(session, wanted, col(BankPayout.id), query)
    items = [BankPayoutAnswer.model_validate(row.BankPayout) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/payout-account/bank-payouts")
async def list_own_bank_payouts(
    session: Session, performer: Performer, page: Annotated[PageQuery, Query()]
) -> Page[OwnBankPayoutAnswer]:
    """What your Stripe account paid out to your bank, newest first, and what to do if it came back."""
    wanted = select(BankPayout).where(BankPayout.performer_id == performer.person)
    found, next_cursor = await newest_first(session, wanted, col(BankPayout.id), page)
    items = [OwnBankPayoutAnswer.model_validate(row.BankPayout) for row in found]
    return Page(items=items, next_cursor=next_cursor)
