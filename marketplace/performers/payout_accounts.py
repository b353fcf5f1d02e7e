"""Where a performer is paid: a connected account at Stripe, onboarded on Stripe's own pages.

Coming back from there does not mean done: the capability is followed by event and by poll.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Person
from marketplace.performers import service
from marketplace.performers.models import PayoutAccount, TransfersCapability
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import ConnectedAccount
from marketplace.stripe_api.gateway_errors import StripeRefused
from marketplace.stripe_api.polling import look_at_each

# How long a destination that took another one's place is not paid, unless the settings say otherwise:
# time for the performer to say that it was not them.
DESTINATION_COOLS = timedelta(hours=72)
POLL_WHILE_PENDING = timedelta(minutes=2)
POLL_WHEN_ACTIVE = timedelta(hours=12)


class OwnPayoutAccount(Forbidden):
    """Nobody retires a payout account of their own; ask a colleague."""

    code = "own_payout_account"


class AccountRetired(Conflict):
    """Your payout account was retired at this moment; ask once more for another one."""

    code = "account_retired"


@dataclass(frozen=True)
class Seen:
    """An account as Stripe told it to somebody who asked at a moment of our clock."""

    account: ConnectedAccount
    asked_at: datetime


async def onboard(
    session: AsyncSession, gateway: StripeGateway, *, performer_id: UUID, return_url: str
) -> tuple[PayoutAccount, str]:
    """The account (made at the first call) and a fresh link to Stripe's page.

    Commits before each call to Stripe; a repeat goes on where the last try stopped.
    """
    account = await _take_note(session, performer_id)
    asked_at = await clock.now(session)
    await session.commit()
    if account.stripe_account_id is None:
        account = await _create(session, gateway, account, asked_at)
    stripe_account_id = account.stripe_account_id or ""
    link = await gateway.create_onboarding_link(
        account_id=stripe_account_id,
        return_url=return_url,
        refresh_url=return_url,
        idempotency_key=f"link-{new_id()}",
    )
    return account, link.url


async def _take_note(session: AsyncSession, performer_id: UUID) -> PayoutAccount:
    """What Stripe is asked: as the profile says, or as it said when nobody knows the answer yet."""
    performer = await service.find(session, performer_id)
    person = await session.get_one(Person, performer_id)
    await session.execute(
        sa.dialects.postgresql.insert(PayoutAccount)
        .values(performer_id=performer_id, key_number=1, transfers=TransfersCapability.UNREQUESTED)
        .on_conflict_do_nothing()
    )
    account = await _locked(session, PayoutAccount.performer_id == performer_id)
    assert account is not None
    if account.stripe_account_id is None and account.asked_country is None:
        account.asked_email, account.asked_country = person.email, performer.work_country
        await session.flush()
    return account


async def _create(
    session: AsyncSession, gateway: StripeGateway, account: PayoutAccount, asked_at: datetime
) -> PayoutAccount:
    try:
        created = await gateway.create_connected_account(
            email=account.asked_email or "",
            country=account.asked_country or "",
            metadata={"performer_id": str(account.performer_id)},
            idempotency_key=f"account-{account.performer_id}-{account.key_number}",
        )
    except StripeRefused:
        await _ask_anew(session, account)
        raise
    return await _keep(session, account, Seen(created, asked_at))


async def _ask_anew(session: AsyncSession, refused: PayoutAccount) -> None:
    """The next try asks as the profile says by then. Stripe replays a refusal under its key."""
    await session.execute(
        sa.update(PayoutAccount)
        .where(
            col(PayoutAccount.performer_id) == refused.performer_id,
            col(PayoutAccount.key_number) == refused.key_number,
            col(PayoutAccount.stripe_account_id).is_(None),
        )
        .values(key_number=refused.key_number + 1, asked_email=None, asked_country=None)
    )
    await session.commit()


async def _keep(session: AsyncSession, asked: PayoutAccount, seen: Seen) -> PayoutAccount:
    performer_id, key_number = asked.performer_id, asked.key_number
    await audit.act_as(session, str(performer_id))
    account = await _locked(session, PayoutAccount.performer_id == performer_id)
    assert account is not None
    if account.key_number != key_number:
        raise AccountRetired
    if account.stripe_account_id is None:
        account.stripe_account_id = seen.account.id
        account.asked_email = account.asked_country = None
        await audit.record(
            session, subject=("payout_account", performer_id), action="account_created"
        )
    await _note(session, account, seen)
    await session.commit()
    return account


async def retire(
    session: AsyncSession, *, performer_id: UUID, reason: str, retired_by: UUID
) -> PayoutAccount:
    """Pay nothing to the performer's account any more. Only they can open another one, which cools.

    What is on its way there goes on; it stays theirs, and Stripe pays it out to its bank.
    """
    if performer_id == retired_by:
        raise OwnPayoutAccount
    account = await _locked(session, PayoutAccount.performer_id == performer_id)
    if account is None or account.stripe_account_id is None:
        raise NotFound("There is no payout account to retire.")
    await audit.record(
        session,
        subject=("payout_account", performer_id),
        action="account_retired",
        reason=reason,
        detail={"stripe_account_id": account.stripe_account_id},
    )
    account.stripe_account_id = account.requirement = None
    account.seen_at = account.due_at = None
    account.transfers = TransfersCapability.UNREQUESTED
    # The next one is asked for under a key of its own.
    account.key_number += 1
    await session.flush()
    return account


async def read(session: AsyncSession, performer_id: UUID) -> PayoutAccount:
    account = await session.get(PayoutAccount, performer_id)
    if account is None:
        raise NotFound("You have no payout account yet; make one to be paid.")
    return account


async def cools_until(
    session: AsyncSession, account: PayoutAccount, cooling: timedelta
) -> datetime | None:
    """Until when an account that took another one's place is not paid yet; None when it is."""
    if account.destination_changed_at is None:
        return None
    until = account.destination_changed_at + cooling
    return until if until > await clock.now(session) else None


async def look_at(sessions: Sessions, gateway: StripeGateway, stripe_account_id: str) -> Seen:
    async with sessions() as session:
        asked_at = await clock.now(session)
    return Seen(await gateway.retrieve_account(stripe_account_id), asked_at)


async def note_seen(session: AsyncSession, seen: Seen) -> None:
    """Bring our copy to what Stripe said then, unless it was seen since.

    Whatever changed after the later look has an event of its own. Repeating this changes nothing.
    """
    account = await _locked(session, PayoutAccount.stripe_account_id == seen.account.id)
    if account is not None:
        await _note(session, account, seen)


async def _locked(session: AsyncSession, condition: bool) -> PayoutAccount | None:
    found = await session.exec(
        select(PayoutAccount)
        .where(condition)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.first()


async def _note(session: AsyncSession, account: PayoutAccount, seen: Seen) -> None:
    if account.seen_at is not None and account.seen_at > seen.asked_at:
        return
    transfers = TransfersCapability(seen.account.transfers)
    if transfers is not account.transfers:
        await audit.record(
            session,
            subject=("payout_account", account.performer_id),
            action="transfers_capability",
            detail={"from": account.transfers.value, "to": transfers.value},
        )
    account.transfers = transfers
    wanted = seen.account.disabled_reason or ", ".join(seen.account.currently_due)
    account.requirement = wanted or None
    account.seen_at = seen.asked_at
    active = transfers is TransfersCapability.ACTIVE
    account.due_at = account.seen_at + (POLL_WHEN_ACTIVE if active else POLL_WHILE_PENDING)
    await session.flush()


async def poll(sessions: Sessions, gateway: StripeGateway) -> int:
    """Look at the accounts whose event may have been lost."""
    async with sessions() as session:
        # Put off before they are looked at: what fails now does not stand in the others' way.
        found = await session.execute(
            sa.text(
                "UPDATE payout_account SET due_at = marketplace_now() + :wait"
                " WHERE performer_id IN ("
                "  SELECT performer_id FROM payout_account"
                "  WHERE stripe_account_id IS NOT NULL AND due_at <= marketplace_now()"
                "  ORDER BY due_at LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED"
                " ) RETURNING stripe_account_id"
            ),
            {"wait": POLL_WHILE_PENDING},
        )
        due = [account_id for (account_id,) in found]
        await session.commit()
    return await look_at_each(sessions, due, partial(look_at, sessions, gateway), note_seen)
