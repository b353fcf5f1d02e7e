"""What clients owe after lost disputes. Nothing is taken by itself: finance settles a debt out of
the client's wallet, or writes it off, and a second person confirms it. Neither of
them acts for that client.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import require_no_member
from marketplace.accounts.models import Client
from marketplace.funding.dispute_models import (
    DEBT_MOVES,
    ClientDebtDecision,
    DebtRemedy,
    DebtState,
)
from marketplace.funding.reserves import WalletTooLow, wallet
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.ledger.standing import STANDING
from marketplace.shared import clock
from marketplace.shared.database import rows, take_turns
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move

BAD_DEBT: ledger.Account = (AccountKind.BAD_DEBT, None)


class ClientOwesLess(Conflict):
    """The client does not owe that much."""

    code = "client_owes_less"


class ProposerMayNotConfirm(Forbidden):
    """Somebody other than who proposed this must decide."""

    code = "proposer_may_not_confirm"


OWED = f"""
    WITH {STANDING}
    SELECT owner_id AS client_id, currency, amount_minor AS owed_minor, since,
           (SELECT coalesce(max(balance_minor), 0) FROM account_balance
            WHERE account_id = account_id('client_wallet', owner_id, currency)) AS wallet_minor
    FROM standing
    WHERE CAST(:after_at AS timestamptz) IS NULL
       OR (since, owner_id) > (:after_at, CAST(:after_id AS uuid))
    ORDER BY since, owner_id
    LIMIT :most
"""  # noqa: S608 - the ledger's words


async def owed(
    session: AsyncSession, *, most: int, after: tuple[datetime, UUID] | None = None
) -> list[Mapping[str, Any]]:
    """Each client that owes something, since when it owes without a break, and what is in its wallet."""
    after_at, after_id = after or (None, None)
    return await rows(
        session,
        OWED,
        kind=AccountKind.CLIENT_RECEIVABLE.value,
        as_of=await clock.now(session),
        after_at=after_at,
        after_id=after_id,
        most=most,
    )


async def owed_by(session: AsyncSession, client_id: UUID, currency: str) -> int:
    minor = await session.scalar(
        sa.text("SELECT client_owes(:client, :currency)"),
        {"client": client_id, "currency": currency},
    )
    return int(minor or 0)


async def propose(
    session: AsyncSession,
    *,
    client_id: UUID,
    remedy: DebtRemedy,
    amount_minor: int,
    currency: str,
    reason: str,
    proposed_by: UUID,
) -> ClientDebtDecision:
    if await session.get(Client, client_id) is None:
        raise NotFound
    await require_no_member(session, client_id, proposed_by)
    await _require_owed(session, client_id, currency, amount_minor)
    decision = ClientDebtDecision(
        client_id=client_id,
        currency=currency,
        amount_minor=amount_minor,
        remedy=remedy,
        reason=reason,
        state=DebtState.PROPOSED,
        proposed_by=proposed_by,
    )
    session.add(decision)
    await session.flush()
    return decision


async def _require_owed(
    session: AsyncSession, client_id: UUID, currency: str, amount_minor: int
) -> None:
    if (owes := await owed_by(session, client_id, currency)) < amount_minor:
        raise ClientOwesLess(owed_minor=owes)


async def decide(
    session: AsyncSession, *, decision_id: UUID, confirm: bool, reason: str, decided_by: UUID
) -> ClientDebtDecision:
    """A second person's word. Raises ClientOwesLess, WalletTooLow."""
    found = await session.exec(
        select(ClientDebtDecision)
        .where(ClientDebtDecision.id == decision_id)
        .with_for_update(key_share=True)
    )
    decision = found.first()
    if decision is None:
        raise NotFound
    if decision.proposed_by == decided_by:
        raise ProposerMayNotConfirm
    await require_no_member(session, decision.client_id, decided_by)
    if decision.state is DebtState.PROPOSED and confirm:
        # One decision about a client's debt after the other: what is owed is read in its turn.
        await take_turns(session, "debt of", decision.client_id)
        await _require_owed(session, decision.client_id, decision.currency, decision.amount_minor)
        booked = await _book(session, decision)
    else:
        booked = None
    to = DebtState.CONFIRMED if confirm else DebtState.REJECTED
    move(decision, to, DEBT_MOVES, reason=reason)
    decision.decided_by, decision.ledger_transaction_id = decided_by, booked
    await session.flush()
    await session.refresh(decision)
    return decision


async def _book(session: AsyncSession, decision: ClientDebtDecision) -> UUID:
    settles = decision.remedy is DebtRemedy.SETTLE
    kind = (
        TransactionKind.CLIENT_DEBT_SETTLED if settles else TransactionKind.CLIENT_DEBT_WRITTEN_OFF
    )
    bearer = wallet(decision.client_id) if settles else BAD_DEBT
    debt: ledger.Account = (AccountKind.CLIENT_RECEIVABLE, decision.client_id)
    posting = ledger.Posting(
        kind=kind,
        source_id=decision.id,
        currency=decision.currency,
        moves=((bearer, debt, decision.amount_minor),),
    )
    try:
        await ledger.post(session, posting)
    except ledger.BalanceTooLow as error:
        raise WalletTooLow from error
    return posting.id
