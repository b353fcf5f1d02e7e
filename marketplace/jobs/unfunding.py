"""Roles that nobody has begun give their money up when a payment of their client is lost."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding import reserves
from marketplace.jobs.models import Job, Role, RoleState
from marketplace.jobs.roles import reserves_of, set_state

REASON = "A payment was taken back; make a deposit and publish it again."
ROLES_AT_ONCE = 100


async def give_up_open_roles(
    session: AsyncSession, client_id: UUID, currency: str, needed_minor: int
) -> int:
    """Open roles, the oldest first, become unfunded until so much is in the wallet again.

    Roles that a claim holds keep their reserve, and so does what awaits its pay decision: live
    claims are paid. Answers how much came back, which may be more than was needed or less.
    """
    # All roles are locked before any money moves: roles, then the wallet.
    given: list[Any] = []
    after: UUID | None = None
    while (missing := needed_minor - _left(given)) > 0:
        roles = await _lock_open_roles(session, client_id, currency, after)
        if not roles:
            break
        after = roles[-1]
        given += _enough(await reserves_of(session, roles), missing)
    await reserves.move_reserves(
        session, [reserves.to_wallet(each, each.left_minor) for each in given if each.left_minor]
    )
    await set_state(session, [each.role_id for each in given], RoleState.UNFUNDED, REASON)
    return _left(given)


async def _lock_open_roles(
    session: AsyncSession, client_id: UUID, currency: str, after: UUID | None
) -> Sequence[UUID]:
    query = (
        select(Role.id)
        .join(Job, col(Job.id) == Role.job_id)
        .where(
            Job.client_id == client_id,
            Job.currency == currency,
            Role.state == RoleState.OPEN,
        )
        .order_by(col(Role.id))
        .limit(ROLES_AT_ONCE)
        .with_for_update(of=Role, key_share=True)
    )
    if after is not None:
        query = query.where(col(Role.id) > after)
    return (await session.exec(query)).all()


def _enough(of_roles: Sequence[Any], needed_minor: int) -> list[Any]:
    """Of these as many as it takes, the oldest first."""
    given: list[Any] = []
    for each in sorted(of_roles, key=lambda row: row.role_id):
        if _left(given) >= needed_minor:
            break
        given.append(each)
    return given


def _left(given: Sequence[Any]) -> int:
    return sum(each.left_minor for each in given)
