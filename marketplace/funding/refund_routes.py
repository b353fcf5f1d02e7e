from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.models import Role, Scope
from marketplace.accounts.principals import Finance, Principal, client_or_person_with
from marketplace.funding import refunds
from marketplace.funding.refund_models import Refund, RefundState
from marketplace.funding.refund_schemas import (
    AbsentRefund,
    NewRefund,
    RefundAnswer,
    RequestedRefund,
)
from marketplace.funding.reserves import WalletTooLow
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import InvalidField, MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["wallet"])

Asker = Annotated[Principal, Depends(client_or_person_with(Scope.WALLET_WRITE, Role.FINANCE))]
Reader = Annotated[Principal, Depends(client_or_person_with(Scope.WALLET_READ, Role.FINANCE))]


class RefundQuery(PageQuery):
    state: RefundState | None = None


@router.post(
    "/refunds",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        WalletTooLow,
        refunds.RefundsPaused,
        refunds.DebtFirst,
        refunds.DepositsDoNotCover,
    ),
)
async def create_refund(body: NewRefund, session: Session, asker: Asker) -> RequestedRefund:
    """Send money of a wallet back to who paid it in.

    It leaves the wallet at once and goes back to the newest deposits first, to each at most what is
    left of it. What the bank refuses or sends back is in the wallet again.
    """
    parts = await refunds.request(
        session,
        client_id=_whose(asker, body.client_id),
        amount_minor=body.amount_minor,
        currency=body.currency,
        reason=body.reason,
        requested_by=asker.id,
    )
    return RequestedRefund(
        request_id=parts[0].request_id,
        amount_minor=body.amount_minor,
        currency=body.currency,
        refunds=[RefundAnswer.model_validate(part) for part in parts],
    )


@router.get("/refunds")
async def list_refunds(
    session: Session, reader: Reader, query: Annotated[RefundQuery, Query()]
) -> Page[RefundAnswer]:
    """Refunds, newest first: a client's own, or for finance all of them."""
    wanted = select(Refund)
    if (client_id := _only(reader)) is not None:
        wanted = wanted.where(Refund.client_id == client_id)
    if query.state is not None:
        wanted = wanted.where(Refund.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Refund.id), query)
    items = [RefundAnswer.model_validate(row.Refund) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/refunds/{refund_id}", responses=documented(NotFound))
async def read_refund(refund_id: UUID, session: Session, reader: Reader) -> RefundAnswer:
    """One refund and its state."""
    refund = await refunds.find(session, refund_id, client_id=_only(reader))
    return RefundAnswer.model_validate(refund)


@router.post(
    "/refunds/{refund_id}/absent",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        refunds.RequesterMayNotDecide,
        ActsForTheClient,
        refunds.RefundNotProvenAbsent,
    ),
)
async def decide_refund_absent(
    refund_id: UUID, body: AbsentRefund, session: Session, finance: Finance
) -> RefundAnswer:
    """End an unknown outcome that a look-up did not find at Stripe, or one that is pending and whose
    line finance has booked by hand: the wallet has it again.
    """
    refund = await refunds.decide_absent(
        session, refund_id=refund_id, reason=body.reason, decider=finance.person
    )
    return RefundAnswer.model_validate(refund)


def _only(reader: Principal) -> UUID | None:
    """Whose refunds somebody may see; None is everybody's."""
    return None if Role.FINANCE in reader.roles else reader.client


def _whose(asker: Principal, named: UUID | None) -> UUID:
    """Whoever acts for a client asks for its own wallet, and finance for any that it names, alone:
    the money only goes back to who paid it in.
    """
    if named is None and asker.client_id is None:
        raise InvalidField("body.client_id", "whose wallet is it?")
    if named not in (None, asker.client_id) and Role.FINANCE not in asker.roles:
        raise NotFound
    return named or asker.client
