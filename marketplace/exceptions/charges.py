"""What clients are charged for what became of their deposits at Stripe and our books cannot follow.

A deposit that Stripe settled otherwise than asked is refunded at Stripe by hand; a dispute may be
taken in another currency than its deposit's. One person of finance says what the client bears,
another confirms it; neither acts for that client. Stripe's lines are booked as capital, and the
capital has what is charged. Locks: the client's turn, the deposit, the dispute, roles, the wallet.
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.impartial import require_no_member
from marketplace.exceptions.charge_models import CHARGE_MOVES, ChargeState, ClientCharge
from marketplace.funding import disputes, refunds
from marketplace.funding.dispute_models import DISPUTE_MOVES, Dispute, DisputeState
from marketplace.funding.models import Deposit
from marketplace.funding.reserves import wallet
from marketplace.jobs.unfunding import give_up_open_roles
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.shared import clock
from marketplace.shared.database import take_turns, violated
from marketplace.shared.money import display
from marketplace.shared.problems import Conflict, Forbidden, InvalidField, NotFound
from marketplace.shared.states import move

CAPITAL: ledger.Account = (AccountKind.PLATFORM_CAPITAL, None)
# A wallet that falls while it is looked at is looked at again.
TRIES = 5


class FollowedByItself(Conflict):
    """Our books follow this deposit or dispute by themselves; there is nothing to charge for it."""

    code = "followed_by_itself"


class DisputeNotEnded(Conflict):
    """This dispute has not ended at Stripe yet."""

    code = "dispute_not_ended"


class MoreThanPaid(Conflict):
    """Of this deposit less than that is left after what was refunded, lost or charged."""

    code = "more_than_paid"


class ChargeProposed(Conflict):
    """A charge for this dispute is proposed or approved already."""

    code = "charge_proposed"


class ProposerMayNotDecide(Forbidden):
    """Somebody other than who proposed the charge must decide."""

    code = "proposer_may_not_decide"


async def propose(
    session: AsyncSession,
    *,
    deposit_id: UUID,
    dispute_id: UUID | None,
    amount_minor: int,
    currency: str,
    reason: str,
    proposed_by: UUID,
) -> ClientCharge:
    """Nothing is booked before a second person says so, too."""
    deposit, dispute = await _about(session, deposit_id, dispute_id)
    await require_no_member(session, deposit.client_id, proposed_by)
    if deposit.currency != currency:
        raise InvalidField("body.currency", f"the deposit is in {deposit.currency}")
    if amount_minor == 0 and dispute is None:
        raise InvalidField("body.amount_minor", "0 is only charged for a dispute")
    await _require_unfollowed(session, deposit, dispute)
    charge = ClientCharge(
        client_id=deposit.client_id,
        deposit_id=deposit.id,
        dispute_id=dispute_id,
        currency=currency,
        amount_minor=amount_minor,
        reason=reason,
        state=ChargeState.PROPOSED,
        proposed_by=proposed_by,
    )
    session.add(charge)
    await _flush(session)
    await session.refresh(charge)
    return charge


async def _about(
    session: AsyncSession, deposit_id: UUID, dispute_id: UUID | None, *, lock: bool = False
) -> tuple[Deposit, Dispute | None]:
    """Raises NotFound, also for another deposit's dispute."""
    how: dict[str, Any] = {"populate_existing": True}
    if lock:
        how["with_for_update"] = {"key_share": True}
    deposit = await session.get(Deposit, deposit_id, **how)
    if deposit is None:
        raise NotFound
    if dispute_id is None:
        return deposit, None
    dispute = await session.get(Dispute, dispute_id, **how)
    if dispute is None or dispute.deposit_id != deposit_id:
        raise NotFound
    return deposit, dispute


async def _require_unfollowed(
    session: AsyncSession, deposit: Deposit, dispute: Dispute | None
) -> None:
    if dispute is None:
        of_its_own = deposit.foreign_line_id is None
        if of_its_own and not await refunds.any_booked_by_hand(session, deposit.id):
            raise FollowedByItself
    elif dispute.state is DisputeState.OPEN and dispute.outcome is None:
        raise DisputeNotEnded
    elif dispute.is_followed(await clock.now(session)):
        raise FollowedByItself


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        match violated(error):
            case "charge_within_deposit":
                raise MoreThanPaid from error
            case "uq_client_charge_dispute":
                raise ChargeProposed from error
            case "charge_of_what_is_not_followed":
                raise FollowedByItself from error
        raise


async def find(
    session: AsyncSession, charge_id: UUID, *, client_id: UUID | None, lock: bool = False
) -> ClientCharge:
    """`client_id` is the client who asks, who sees what was charged; None is finance."""
    query = select(ClientCharge).where(ClientCharge.id == charge_id)
    if client_id is not None:
        query = query.where(
            ClientCharge.client_id == client_id, ClientCharge.state == ChargeState.APPROVED
        )
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    charge = (await session.exec(query)).first()
    if charge is None:
        raise NotFound
    return charge


async def decide(
    session: AsyncSession, *, charge_id: UUID, confirm: bool, reason: str, decided_by: UUID
) -> ClientCharge:
    """A second person's word. Confirmed, it is booked, and its dispute has ended."""
    charge = await find(session, charge_id, client_id=None, lock=True)
    if charge.proposed_by == decided_by:
        raise ProposerMayNotDecide
    await require_no_member(session, charge.client_id, decided_by)
    now = await clock.now(session)
    if charge.state is ChargeState.PROPOSED and confirm:
        await _book(session, charge)
    move(
        charge,
        ChargeState.APPROVED if confirm else ChargeState.REJECTED,
        CHARGE_MOVES,
        reason=reason,
    )
    charge.decided_by, charge.decided_at = decided_by, now
    await _flush(session)
    await session.refresh(charge)
    return charge


async def _book(session: AsyncSession, charge: ClientCharge) -> None:
    await take_turns(session, "refunds of", charge.client_id)
    deposit, dispute = await _about(session, charge.deposit_id, charge.dispute_id, lock=True)
    await _require_unfollowed(session, deposit, dispute)
    held = (dispute.held_minor or 0) if dispute else 0
    missing = charge.amount_minor - held - await _in_wallet(session, charge)
    if missing > 0:
        await give_up_open_roles(session, charge.client_id, charge.currency, missing)
    for _ in range(TRIES):
        from_wallet = min(charge.amount_minor, held + await _in_wallet(session, charge))
        posting = _posting(charge, dispute, from_wallet)
        try:
            await ledger.post(session, posting)
        except ledger.BalanceTooLow:
            continue
        charge.from_wallet_minor = from_wallet
        if any(minor for *_, minor in posting.moves):
            charge.ledger_transaction_id = posting.id
        if dispute is not None:
            _end(dispute, charge)
        return
    raise ledger.BalanceTooLow


async def _in_wallet(session: AsyncSession, charge: ClientCharge) -> int:
    return await ledger.guarded_balance(
        session, AccountKind.CLIENT_WALLET, charge.client_id, charge.currency
    )


def _posting(charge: ClientCharge, dispute: Dispute | None, from_wallet: int) -> ledger.Posting:
    """What its dispute had set aside is in the wallet again; what Stripe took for it, and what is
    not charged of that, the platform bears.
    """
    money, owed = wallet(charge.client_id), (AccountKind.CLIENT_RECEIVABLE, charge.client_id)
    opened = dispute is not None and dispute.opened_transaction_id is not None
    held = (dispute.held_minor or 0) if dispute and opened else 0
    withdrawn = (dispute.withdrawn_minor or 0) if dispute and opened else 0
    return ledger.Posting(
        kind=TransactionKind.CLIENT_CHARGED,
        source_id=charge.id,
        currency=charge.currency,
        moves=(
            (disputes.held(charge.client_id), money, held),
            (money, CAPITAL, from_wallet),
            (owed, CAPITAL, charge.amount_minor - from_wallet),
            (CAPITAL, disputes.RECEIVABLE, withdrawn),
        ),
    )


def _end(dispute: Dispute, charge: ClientCharge) -> None:
    amount = display(charge.amount_minor, charge.currency)
    reason = f"{dispute.outcome}; charged {amount} by {charge.id}: {charge.reason}"
    move(dispute, DisputeState.CLOSED, DISPUTE_MOVES, reason=reason)
    dispute.due_at = None
