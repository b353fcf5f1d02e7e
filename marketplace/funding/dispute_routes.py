from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from sqlmodel import col, select

from marketplace.accounts.impartial import ActsForTheClient
from marketplace.accounts.models import Role, Scope
from marketplace.accounts.principals import Finance, Principal, client_or_person_with
from marketplace.funding import debts, disputes
from marketplace.funding.dispute_models import (
    ClientDebtDecision,
    DebtState,
    Dispute,
    DisputeState,
)
from marketplace.funding.dispute_schemas import (
    ClientDebt,
    DebtDecisionAnswer,
    DisputeAnswer,
    NewDebtDecision,
    SecondWord,
)
from marketplace.funding.reserves import WalletTooLow
from marketplace.shared.pagination import PageQuery, cut, decode_cursor, encode_cursor, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Page

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["wallet"])

Reader = Annotated[Principal, Depends(client_or_person_with(Scope.WALLET_READ, Role.FINANCE))]


class DisputeQuery(PageQuery):
    state: DisputeState | None = None


class DebtQuery(PageQuery):
    state: DebtState | None = None


@router.get("/disputes")
async def list_disputes(
    session: Session, reader: Reader, query: Annotated[DisputeQuery, Query()]
) -> Page[DisputeAnswer]:
    """Payments that a bank takes back, newest first: a client's own, or for finance all."""
    wanted = select(Dispute)
    if (client_id := _only(reader)) is not None:
        wanted = wanted.where(Dispute.client_id == client_id)
    if query.state is not None:
        wanted = wanted.where(Dispute.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Dispute.id), query)
    items = [DisputeAnswer.model_validate(row.Dispute) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/disputes/{dispute_id}", responses=documented(NotFound))
async def read_dispute(dispute_id: UUID, session: Session, reader: Reader) -> DisputeAnswer:
    """One dispute, and what was booked of it."""
    dispute = await disputes.find(session, dispute_id, client_id=_only(reader))
    return DisputeAnswer.model_validate(dispute)


@router.get("/client-debts")
async def list_client_debts(
    session: Session, finance: Finance, page: Annotated[PageQuery, Query()]
) -> Page[ClientDebt]:
    """What clients owe after lost disputes and charges, the oldest first, and what their wallets have.

    A later deposit goes into the wallet whole; nothing is taken out of it by itself.
    """
    after = decode_cursor(page.cursor, datetime.fromisoformat, UUID)
    found = await debts.owed(
        session, most=page.limit + 1, after=(after[0], after[1]) if after else None
    )
    shown, last = cut(found, page.limit)
    items = [ClientDebt.model_validate(dict(debt)) for debt in shown]
    cursor = encode_cursor(last["since"].isoformat(), last["client_id"]) if last else None
    return Page(items=items, next_cursor=cursor)


@router.post(
    "/client-debts/{client_id}/decisions",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(NotFound, ActsForTheClient, debts.ClientOwesLess),
)
async def propose_debt_decision(
    client_id: UUID, body: NewDebtDecision, session: Session, finance: Finance
) -> DebtDecisionAnswer:
    """Propose to settle a debt out of the client's wallet, or to write it off."""
    decision = await debts.propose(
        session, client_id=client_id, proposed_by=finance.person, **body.model_dump()
    )
    return DebtDecisionAnswer.model_validate(decision)


@router.get("/client-debt-decisions")
async def list_debt_decisions(
    session: Session, finance: Finance, query: Annotated[DebtQuery, Query()]
) -> Page[DebtDecisionAnswer]:
    """What was decided about clients' debts, and what waits for a second person; newest first."""
    wanted = select(ClientDebtDecision)
    if query.state is not None:
        wanted = wanted.where(ClientDebtDecision.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(ClientDebtDecision.id), query)
    items = [DebtDecisionAnswer.model_validate(row.ClientDebtDecision) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.post(
    "/client-debt-decisions/{decision_id}/decision",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        WalletTooLow,
        debts.ClientOwesLess,
        debts.ProposerMayNotConfirm,
        ActsForTheClient,
    ),
)
async def decide_client_debt(
    decision_id: UUID, body: SecondWord, session: Session, finance: Finance
) -> DebtDecisionAnswer:
    """Confirm or reject what somebody else proposed; confirmed, it is booked."""
    decision = await debts.decide(
        session,
        decision_id=decision_id,
        confirm=body.confirm,
        reason=body.reason,
        decided_by=finance.person,
    )
    return DebtDecisionAnswer.model_validate(decision)


def _only(reader: Principal) -> UUID | None:
    """Whose disputes somebody may see; None is everybody's."""
    return None if Role.FINANCE in reader.roles else reader.client
