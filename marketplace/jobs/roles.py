"""The states of roles, and what becomes of one when the claim that held it ends."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding import reserves
from marketplace.funding.models import Reservation, ReserveCause
from marketplace.jobs.models import ROLE_MOVES, Job, JobState, Role, RoleState
from marketplace.rates import service as rates
from marketplace.shared.money import cost_minor
from marketplace.shared.states import move

UNFUNDED_REASON = "The wallet could not make its reserve up again; make a deposit and publish it."


async def lock_job_of(session: AsyncSession, job_id: UUID) -> Job:
    """Hold the job's state (nobody can close it meanwhile) and its lineage's rates."""
    job = await session.get_one(Job, job_id)
    await rates.hold_lineage(session, job.lineage_id, shared=True)
    found = await session.exec(
        select(Job)
        .where(Job.id == job_id)
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    )
    return found.one()


async def lock_role(session: AsyncSession, role_id: UUID) -> Role:
    found = await session.exec(
        select(Role)
        .where(Role.id == role_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return found.one()


async def finish(session: AsyncSession, role: Role) -> None:
    """Its take was accepted and paid: what is left of its reserve goes back at once."""
    await reserves.give_back_what_is_left(session, await _reservation(session, role))
    move(role, RoleState.DONE, ROLE_MOVES)
    await session.flush()


async def make_up(session: AsyncSession, job: Job, role: Role, *, spoken_for: int) -> bool:
    """Bring the reserve up to the full worst case beside what is spoken for; false if it cannot.

    Called before anything is taken out of the reserve, so that the wallet is locked first.
    """
    reservation = await _reservation(session, role)
    highest = await rates.highest_rate_ahead(session, job.lineage_id)
    assert highest is not None
    needed = cost_minor(role.longest_seconds, highest, job.fee_basis_points or 0) + spoken_for
    left = await reserves.left_in(session, reservation.id, reservation.currency)
    if needed <= left:
        return True
    try:
        await reserves.move_reserves(
            session, [reserves.from_wallet(reservation, needed - left, ReserveCause.REOPENED)]
        )
    except reserves.WalletTooLow:
        return False
    return True


async def release(session: AsyncSession, job: Job, role: Role, *, funded: bool) -> None:
    """Open the role again; unfunded if its reserve is short, withdrawn if its job is closing."""
    if job.state not in {JobState.OPEN, JobState.PAUSED}:
        await _withdraw(session, role)
    elif funded:
        move(role, RoleState.OPEN, ROLE_MOVES)
    else:
        await reserves.give_back_what_is_left(session, await _reservation(session, role))
        move(role, RoleState.UNFUNDED, ROLE_MOVES, reason=UNFUNDED_REASON)
    await session.flush()


async def _withdraw(session: AsyncSession, role: Role) -> None:
    await reserves.give_back_what_is_left(session, await _reservation(session, role))
    move(role, RoleState.WITHDRAWN, ROLE_MOVES, reason="The job closed.")


async def _reservation(session: AsyncSession, role: Role) -> Reservation:
    return await session.get_one(Reservation, role.reservation_id)


async def reserves_of(session: AsyncSession, role_ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Of each locked role that has one its reservation: whose it is, what is left in it, and what
    its worst case is made of.
    """
    found = await session.execute(
        sa.text(
            "SELECT role.id AS role_id, reservation.id, reservation.client_id,"
            " reservation.currency, coalesce(balance_minor, 0) AS left_minor,"
            " role.prep_seconds_cap + role.perform_seconds_cap * (1 + role.retakes_max)"
            "  AS longest_seconds,"
            " coalesce(fee_basis_points, 0) AS fee_basis_points"
            " FROM role JOIN job ON job.id = role.job_id"
            " JOIN reservation ON reservation.id = role.reservation_id"
            " LEFT JOIN account_balance ON account_id ="
            "  account_id('job_reserve', reservation.id, reservation.currency)"
            " WHERE role.id = ANY (:roles)"
        ),
        {"roles": list(role_ids)},
    )
    return found.all()


async def set_state(
    session: AsyncSession, role_ids: Sequence[UUID], state: RoleState, reason: str | None = None
) -> None:
    """Many roles in one statement; the database's trigger checks and records each move."""
    await session.execute(
        sa.text("UPDATE role SET state = :state, state_reason = :reason WHERE id = ANY (:roles)"),
        {"state": state.value, "reason": reason, "roles": list(role_ids)},
    )
