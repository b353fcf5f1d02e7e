"""Roles that nobody has begun give their money up when a payment of their client is lost."""

from uuid import UUID

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding import reserves
from marketplace.jobs.models import Job, Role, RoleState
from marketplace.jobs.roles import reserves_of, set_state

REASON = "A payment was lost to a dispute; make a deposit and publish it again."
ROLES_AT_ONCE = 100


async def give_up_open_roles(
    session: AsyncSession, client_id: UUID, currency: str, needed_minor: int
) -> int:
    """Open roles, the oldest first, become unfunded until so much is in the wallet again.

    Roles that a claim holds keep their reserve, and so does what awaits its pay decision: live
    claims are paid. Answers how much came back, which may be more than was needed or less.
    """
    returned = 0
    while returned < needed_minor:
        found = await session.exec(
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
        roles = found.all()
        if not roles:
            break
        returned += await _give_up(session, list(roles), needed_minor - returned)
    return returned


async def _give_up(session: AsyncSession, roles: list[UUID], needed_minor: int) -> int:
    """Of these locked roles as many as it takes."""
    of_role = {
        role_id: reserve for role_id in roles for reserve in await reserves_of(session, [role_id])
    }
    given, total = [], 0
    for role_id in roles:
        if total >= needed_minor:
            break
        given.append(role_id)
        total += of_role[role_id].left_minor
    moves = [
        reserves.to_wallet(of_role[role_id], of_role[role_id].left_minor)
        for role_id in given
        if of_role[role_id].left_minor
    ]
    await reserves.move_reserves(session, moves)
    await set_state(session, given, RoleState.UNFUNDED, REASON)
    return total
