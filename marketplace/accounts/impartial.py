"""Nobody decides about their own: who acts for a client decides nothing about its money or its people.

Nor does who ever did: a membership is left in a moment and taken up again, and the API keys that
somebody made as a member go on.
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import ClientMember
from marketplace.shared.audit import AuditEvent
from marketplace.shared.problems import Forbidden


class ActsForTheClient(Forbidden):
    """Who acts or acted for the client decides nothing about its money or whom it pays."""

    code = "acts_for_the_client"


async def require_no_member(session: AsyncSession, client_id: UUID, person_id: UUID) -> None:
    """Raises ActsForTheClient."""
    if await session.scalar(select(acts_or_acted_for(client_id, person_id))):
        raise ActsForTheClient


def acts_or_acted_for(client_id: Any, person_id: Any) -> sa.ColumnElement[bool]:
    """Each may be a column."""
    member = select(ClientMember.person_id).where(
        ClientMember.person_id == person_id, ClientMember.client_id == client_id
    )
    left = select(AuditEvent.id).where(
        AuditEvent.subject_type == "person",
        AuditEvent.subject_id == person_id,
        AuditEvent.action == "member_removed",
        col(AuditEvent.detail)["client_id"].astext == sa.cast(client_id, sa.Text),
    )
    return sa.or_(member.exists(), left.exists())
