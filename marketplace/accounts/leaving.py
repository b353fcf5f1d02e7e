"""Who is here, and how somebody leaves: a role taken back, a member removed, devices signed out.

Roles and membership are looked up with every request, so that all of it takes effect at once.
"""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import AccessToken, ClientMember, Person, PersonRole, Role
from marketplace.accounts.schemas import PersonAnswer
from marketplace.shared import audit
from marketplace.shared.database import violated
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import Conflict, NotFound


class LastOperator(Conflict):
    """This is the last operator; invite another one first."""

    code = "last_operator"


class LastMember(Conflict):
    """This is the client's last member; invite another one first."""

    code = "last_member"


async def people(
    session: AsyncSession, page: PageQuery, role: Role | None
) -> tuple[list[PersonAnswer], str | None]:
    """Everybody who has joined, or who has the role, newest first."""
    theirs = select(PersonRole.role).where(PersonRole.person_id == Person.id)
    query = select(
        Person, ClientMember.client_id, sa.func.array(theirs.scalar_subquery()).label("roles")
    ).outerjoin(ClientMember, col(ClientMember.person_id) == Person.id)
    if role is not None:
        query = query.where(theirs.where(PersonRole.role == role).exists())
    found, next_cursor = await newest_first(session, query, col(Person.id), page)
    answers = [
        PersonAnswer(
            person_id=row.Person.id,
            name=row.Person.name,
            email=row.Person.email,
            roles=sorted(row.roles),
            client_id=row.client_id,
            joined_at=row.Person.created_at,
        )
        for row in found
    ]
    return answers, next_cursor


async def take_role_back(
    session: AsyncSession, *, person_id: UUID, role: Role, reason: str
) -> None:
    """The database keeps the last operator."""
    try:
        taken = await session.execute(
            sa.delete(PersonRole)
            .where(col(PersonRole.person_id) == person_id, col(PersonRole.role) == role)
            .returning(col(PersonRole.granted_at))
        )
    except sa.exc.IntegrityError as error:
        if violated(error) == "last_operator":
            raise LastOperator from error
        raise
    granted_at = taken.scalar_one_or_none()
    if granted_at is None:
        raise NotFound
    await audit.record(
        session,
        subject=("person", person_id),
        action="role_taken_back",
        reason=reason,
        # The row is gone: a report of the past needs both ends.
        detail={"role": role.value, "granted_at": granted_at.isoformat()},
    )
    await _sign_out_who_has_nothing_left(session, person_id)


async def remove_member(session: AsyncSession, *, client_id: UUID, person_id: UUID) -> None:
    """The database keeps a client's last member. The API keys they made go on."""
    try:
        removed = await session.execute(
            sa.delete(ClientMember)
            .where(
                col(ClientMember.person_id) == person_id, col(ClientMember.client_id) == client_id
            )
            .returning(col(ClientMember.joined_at))
        )
    except sa.exc.IntegrityError as error:
        if violated(error) == "last_member":
            raise LastMember from error
        raise
    joined_at = removed.scalar_one_or_none()
    if joined_at is None:
        raise NotFound
    await audit.record(
        session,
        subject=("person", person_id),
        action="member_removed",
        detail={"client_id": str(client_id), "joined_at": joined_at.isoformat()},
    )
    await _sign_out_who_has_nothing_left(session, person_id)


async def _sign_out_who_has_nothing_left(session: AsyncSession, person_id: UUID) -> None:
    for table in (PersonRole, ClientMember):
        rest = select(table.person_id).where(table.person_id == person_id).limit(1)
        if (await session.exec(rest)).first() is not None:
            return
    await end_sessions(session, person_id)


async def sign_out(session: AsyncSession, *, person_id: UUID, reason: str) -> None:
    """Every device of somebody; with the password they can sign in again."""
    if await session.get(Person, person_id) is None:
        raise NotFound
    await end_sessions(session, person_id)
    await audit.record(session, subject=("person", person_id), action="signed_out", reason=reason)


async def end_sessions(session: AsyncSession, person_id: UUID) -> None:
    """From the next request on each of the person's tokens is refused."""
    await session.execute(
        sa.update(AccessToken)
        .where(col(AccessToken.person_id) == person_id, col(AccessToken.revoked_at).is_(None))
        .values(revoked_at=sa.func.marketplace_now())
    )
