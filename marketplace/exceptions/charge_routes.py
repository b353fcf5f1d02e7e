from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.models import Role, Scope
from marketplace.accounts.principals import Finance, Principal, client_or_person_with
from marketplace.exceptions import charges
from marketplace.exceptions.charge_models import ChargeState, ClientCharge
from marketplace.exceptions.charge_schemas import ClientChargeAnswer, NewClientCharge
from marketplace.funding.dispute_schemas import SecondWord
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["exceptions"])

Reader = Annotated[Principal, Depends(client_or_person_with(Scope.WALLET_READ, Role.FINANCE))]


class ChargeQuery(PageQuery):
    state: ChargeState | None = None


@router.post(
    "/client-charges",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        ActsForTheClient,
        charges.FollowedByItself,
        charges.DisputeNotEnded,
        charges.MoreThanPaid,
        charges.ChargeProposed,
    ),
)
async def propose_client_charge(
    body: NewClientCharge, session: Session, finance: Finance
) -> ClientChargeAnswer:
    """Propose what a client bears of what became of its deposit at Stripe and our books cannot
    follow: a payment settled in another currency that was refunded there by hand, or a dispute.
    """
    charge = await charges.propose(session, proposed_by=finance.person, **body.model_dump())
    return ClientChargeAnswer.model_validate(charge)


@router.get("/client-charges")
async def list_client_charges(
    session: Session, reader: Reader, query: Annotated[ChargeQuery, Query()]
) -> Page[ClientChargeAnswer]:
    """Charges, newest first: what a client was charged, or for finance all."""
    wanted = select(ClientCharge)
    if (client_id := _only(reader)) is not None:
        wanted = wanted.where(
            ClientCharge.client_id == client_id, ClientCharge.state == ChargeState.APPROVED
        )
    if query.state is not None:
        wanted = wanted.where(ClientCharge.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(ClientCharge.id), query)
    items = [_told(row.ClientCharge, reader) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/client-charges/{charge_id}", responses=documented(NotFound))
async def read_client_charge(
    charge_id: UUID, session: Session, reader: Reader
) -> ClientChargeAnswer:
    """One charge: for what and how much; for finance also who decided."""
    charge = await charges.find(session, charge_id, client_id=_only(reader))
    return _told(charge, reader)


@router.post(
    "/client-charges/{charge_id}/decision",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        ActsForTheClient,
        charges.ProposerMayNotDecide,
        charges.FollowedByItself,
        charges.MoreThanPaid,
    ),
)
async def decide_client_charge(
    charge_id: UUID, body: SecondWord, session: Session, finance: Finance
) -> ClientChargeAnswer:
    """Confirm or reject what somebody else proposed. Confirmed, it is booked, and its dispute ends.

    What the wallet has not, the client owes.
    """
    charge = await charges.decide(
        session,
        charge_id=charge_id,
        confirm=body.confirm,
        reason=body.reason,
        decided_by=finance.person,
    )
    return ClientChargeAnswer.model_validate(charge)


def _only(reader: Principal) -> UUID | None:
    """Whose charges somebody may see; None is everybody's."""
    return None if Role.FINANCE in reader.roles else reader.client


def _told(charge: ClientCharge, reader: Principal) -> ClientChargeAnswer:
    answer = ClientChargeAnswer.model_validate(charge)
    if _only(reader) is None:
        return answer
    inside = ("state_reason", "proposed_by", "decided_by", "ledger_transaction_id")
    return answer.model_copy(update=dict.fromkeys(inside))
