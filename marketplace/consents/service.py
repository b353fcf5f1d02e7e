from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.consents.models import ConsentGrant, ConsentWithdrawal
from marketplace.shared.database import Sessions
from marketplace.shared.problems import Conflict, NotFound


class ConsentWithdrawn(Conflict):
    """The performer has withdrawn the consent to this take."""

    code = "consent_withdrawn"


async def own_grant(session: AsyncSession, grant_id: UUID, performer_id: UUID) -> ConsentGrant:
    found = await session.exec(
        select(ConsentGrant).where(
            ConsentGrant.id == grant_id, ConsentGrant.performer_id == performer_id
        )
    )
    grant = found.first()
    if grant is None:
        raise NotFound
    return grant


async def withdrawal_of(session: AsyncSession, grant_id: UUID) -> ConsentWithdrawal | None:
    found = await session.exec(
        select(ConsentWithdrawal).where(ConsentWithdrawal.consent_grant_id == grant_id)
    )
    return found.first()


async def require_consent(session: AsyncSession, grant_id: UUID) -> None:
    if await withdrawal_of(session, grant_id) is not None:
        raise ConsentWithdrawn


async def require_consent_now(sessions: Sessions, grant_id: UUID) -> None:
    """For what goes on after its request's transaction: a download under way."""
    async with sessions() as session:
        await require_consent(session, grant_id)


async def withdraw(
    session: AsyncSession, grant: ConsentGrant, *, reason: str | None
) -> ConsentWithdrawal:
    """One call, at once, for good. Pay already earned stays. Withdrawing twice changes nothing.

    The database's trigger tells the client, in its feed.
    """
    await session.execute(
        sa.dialects.postgresql.insert(ConsentWithdrawal)
        .values(consent_grant_id=grant.id, reason=reason)
        .on_conflict_do_nothing()
    )
    withdrawal = await withdrawal_of(session, grant.id)
    assert withdrawal is not None
    return withdrawal
