from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request
from sqlmodel import col, select

from marketplace.accounts.models import Client, Scope
from marketplace.accounts.principals import Finance, Principal, client_with
from marketplace.funding import debts, deposits, topups
from marketplace.funding.models import Deposit, Topup
from marketplace.funding.schemas import (
    DepositAnswer,
    NewDeposit,
    NewTopup,
    TopupAnswer,
    WalletAnswer,
)
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind
from marketplace.shared.idempotency import IdempotencyKeyReused, key_of
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, OWN_KEY, Session, TransactionalRoute
from marketplace.shared.schemas import Page
from marketplace.stripe_api.routes import Gateway, RefusedByStripe, StripeUnavailable

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["wallet"])

Payer = Annotated[Principal, Depends(client_with(Scope.WALLET_WRITE))]
WalletReader = Annotated[Principal, Depends(client_with(Scope.WALLET_READ))]


@router.post(
    "/wallet/deposits",
    status_code=201,
    dependencies=[OWN_KEY, KEY_REQUIRED],
    responses=documented(
        deposits.DepositExpired, IdempotencyKeyReused, RefusedByStripe, StripeUnavailable
    ),
)
async def create_deposit(
    body: NewDeposit, request: Request, session: Session, client: Payer, gateway: Gateway
) -> DepositAnswer:
    """Start a deposit; pay it on the hosted page it answers."""
    deposit = await deposits.request_deposit(
        session,
        client_id=client.client,
        amount_minor=body.amount_minor,
        success_url=body.success_url,
        key=key_of(request) or "",
    )
    deposit = await deposits.open_checkout(session, gateway, deposit, actor=client.id)
    return DepositAnswer.model_validate(deposit)


@router.get("/wallet/deposits")
async def list_deposits(
    session: Session, client: WalletReader, page: Annotated[PageQuery, Query()]
) -> Page[DepositAnswer]:
    """Your deposits, newest first."""
    query = select(Deposit).where(Deposit.client_id == client.client)
    found, next_cursor = await newest_first(session, query, col(Deposit.id), page)
    items = [DepositAnswer.model_validate(row.Deposit) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/wallet/deposits/{deposit_id}", responses=documented(NotFound))
async def read_deposit(deposit_id: UUID, session: Session, client: WalletReader) -> DepositAnswer:
    """One deposit and its state."""
    deposit = await deposits.own_deposit(session, deposit_id, client.client)
    return DepositAnswer.model_validate(deposit)


@router.get("/wallet")
async def read_wallet(session: Session, client: WalletReader) -> WalletAnswer:
    """What is free in your wallet, and what is set aside."""
    currency = (await session.get_one(Client, client.client)).currency
    balance = await ledger.guarded_balance(
        session, AccountKind.CLIENT_WALLET, client.client, currency
    )
    reserved = await session.scalar(
        sa.text(
            "SELECT coalesce(sum(balance_minor), 0) FROM reservation JOIN account_balance"
            " ON account_id = account_id('job_reserve', reservation.id, reservation.currency)"
            " WHERE reservation.client_id = :client"
        ),
        {"client": client.client},
    )
    disputed = await session.scalar(
        sa.text(
            "SELECT coalesce(sum(held_minor), 0) FROM dispute"
            " WHERE client_id = :client AND state = 'open'"
        ),
        {"client": client.client},
    )
    return WalletAnswer(
        currency=currency,
        balance_minor=balance,
        reserved_minor=int(reserved or 0),
        disputed_minor=int(disputed or 0),
        owed_minor=await debts.owed_by(session, client.client, currency),
    )


@router.post(
    "/topups",
    status_code=201,
    dependencies=[OWN_KEY, KEY_REQUIRED],
    responses=documented(
        topups.TopupUnanswered, IdempotencyKeyReused, RefusedByStripe, StripeUnavailable
    ),
)
async def create_topup(
    body: NewTopup, request: Request, session: Session, finance: Finance, gateway: Gateway
) -> TopupAnswer:
    """Bring the platform's own money into its Stripe balance (it also carries Stripe's fees)."""
    topup = await topups.request(
        session,
        amount_minor=body.amount_minor,
        currency=body.currency,
        requested_by=finance.person,
        key=key_of(request) or "",
    )
    return TopupAnswer.model_validate(await topups.send(session, gateway, topup))


@router.get("/topups/{topup_id}", responses=documented(NotFound))
async def read_topup(topup_id: UUID, session: Session, finance: Finance) -> TopupAnswer:
    """One top-up and its state."""
    topup = await session.get(Topup, topup_id)
    if topup is None:
        raise NotFound
    return TopupAnswer.model_validate(topup)
