"""Nobody decides about their own: who acts for a client decides nothing about its money or its people."""

from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import ClientMember
from marketplace.shared.problems import Forbidden


class ActsForTheClient(Forbidden):
    """Who acts for the client decides nothing about its money or whom it pays; ask a colleague."""

    code = "acts_for_the_client"


async def require_no_member(session: AsyncSession, client_id: UUID, person_id: UUID) -> None:
    """Raises ActsForTheClient."""
    member = await session.get(ClientMember, person_id, populate_existing=True)
    if member is not None and member.client_id == client_id:
        raise ActsForTheClient
