"""What opens roles: the quote, the rate, and the reserve of each role's worst case."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.funding import reserves
from marketplace.funding.models import Reservation, ReserveCause
from marketplace.jobs.models import JOB_MOVES, Job, JobState, Role, RoleState
from marketplace.jobs.roles import set_state
from marketplace.jobs.schemas import Quote
from marketplace.jobs.service import own_job
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind
from marketplace.rates import service as rates
from marketplace.rates.models import Rate, RateLineage
from marketplace.shared import clock
from marketplace.shared.money import cost_minor
from marketplace.shared.problems import Conflict, MoveNotAllowed, TryAgain
from marketplace.shared.states import move

MAY_OPEN_ROLES = frozenset({JobState.DRAFT, JobState.OPEN, JobState.PAUSED})


class NothingToPublish(Conflict):
    """Every role of this job is open, taken or done."""

    code = "nothing_to_publish"


class ScenesNotRunYet(Conflict):
    """Scenes with partners can be drafted and quoted, but are not run yet."""

    code = "scenes_not_run_yet"


async def quote(session: AsyncSession, job: Job, *, platform_fee: int) -> Quote:
    """What publishing the roles that are not funded yet would cost and reserve."""
    fee = platform_fee if job.fee_basis_points is None else job.fee_basis_points
    rate = await rates.rate_at(session, job.lineage_id, await clock.now(session))
    locked = rate.rate_minor_per_hour if rate else job.asked_rate_minor_per_hour
    if job.state is JobState.DRAFT:
        locked = max(locked, job.asked_rate_minor_per_hour)
    ahead = await rates.highest_rate_ahead(session, job.lineage_id) or locked
    roles = await session.scalar(
        select(sa.func.count())
        .select_from(Role)
        .where(Role.job_id == job.id, Role.state == RoleState.UNFUNDED)
    )
    count = int(roles or 0)
    once = job.prep_seconds_cap + job.perform_seconds_cap
    longest = once + job.perform_seconds_cap * job.retakes_max
    worst = cost_minor(longest, max(locked, ahead), fee)
    wallet = await ledger.guarded_balance(
        session, AccountKind.CLIENT_WALLET, job.client_id, job.currency
    )
    return Quote(
        currency=job.currency,
        rate_minor_per_hour=locked,
        fee_basis_points=fee,
        roles=count,
        expected_minor=count * cost_minor(once, locked, fee),
        worst_case_minor=count * worst,
        worst_case_per_role_minor=worst,
        wallet_minor=wallet,
        roles_covered=min(count, wallet // worst) if worst else count,
    )


async def publish(
    session: AsyncSession, job: Job, *, roles: int | None, platform_fee: int, actor: UUID
) -> Job:
    """Reserve the worst case of the job's unfunded roles, or of the first so many, and open them."""
    job = await _hold(session, job)
    if job.state not in MAY_OPEN_ROLES:
        raise MoveNotAllowed(
            f"It is {job.state.value}; no more roles can be opened.",
            state=job.state.value,
        )
    if job.fee_basis_points is None:
        job.fee_basis_points = platform_fee
    await _require_solo(session, job)
    await _agree_on_rate(session, job, actor)
    await _open_roles(session, job, roles)
    if job.state is JobState.DRAFT:
        job.published_at = await clock.now(session)
        move(job, JobState.OPEN, JOB_MOVES)
    job.version += 1
    await session.flush()
    return job


async def _hold(session: AsyncSession, job: Job) -> Job:
    """The job under its lock, and its lineage alone, which comes first in the order of locks."""
    held = job.lineage_id
    await rates.hold_lineage(session, held)
    job = await own_job(session, job.id, job.client_id, lock=True)
    if job.lineage_id != held:
        raise TryAgain("This draft was edited at this moment; look at it and publish it again.")
    return job


async def _require_solo(session: AsyncSession, job: Job) -> None:
    partners = select(Role.id).where(Role.job_id == job.id, Role.number > 1).limit(1)
    if (await session.exec(partners)).first() is not None:
        raise ScenesNotRunYet


async def _agree_on_rate(session: AsyncSession, job: Job, actor: UUID) -> None:
    """The lineage's rate is what is paid: a draft may start or raise it, never cut it in silence."""
    rate = await rates.rate_at(session, job.lineage_id, await clock.now(session))
    lineage = await session.get_one(RateLineage, job.lineage_id)
    asked = job.asked_rate_minor_per_hour
    if rate is None:
        await rates.announce(
            session,
            lineage=lineage,
            rate_minor_per_hour=asked,
            reason="First job of its kind",
            announced_by=actor,
        )
        return
    paid = rate.rate_minor_per_hour
    await rates.require_minimum(session, job.currency, paid)
    if job.state is JobState.DRAFT and asked < paid:
        raise rates.RateCutNeedsNotice(
            f"Jobs of this kind pay {paid} per hour (minor units). Publish at that rate, or "
            "announce a cut for this lineage with 14 days' notice and publish when it is in force.",
            rate_minor_per_hour=paid,
            lineage_id=str(job.lineage_id),
        )
    if job.state is JobState.DRAFT and asked > paid:
        await announce_rate(
            session,
            lineage=lineage,
            rate_minor_per_hour=asked,
            reason="A new job of this kind pays more",
            actor=actor,
        )
    await rates.require_as_much_as_alike(session, job.lineage_id)


async def announce_rate(
    session: AsyncSession,
    *,
    lineage: RateLineage,
    rate_minor_per_hour: int,
    reason: str,
    actor: UUID,
    effective_from: Any = None,
) -> Rate:
    """Announce a rate and reserve a rise for every open role of the lineage, or refuse both."""
    await rates.hold_lineage(session, lineage.id)
    rate = await rates.announce(
        session,
        lineage=lineage,
        rate_minor_per_hour=rate_minor_per_hour,
        reason=reason,
        announced_by=actor,
        effective_from=effective_from,
    )
    await _reserve_rise(session, lineage.id)
    return rate


async def _reserve_rise(session: AsyncSession, lineage_id: UUID) -> None:
    highest = await rates.highest_rate_ahead(session, lineage_id)
    assert highest is not None
    found = await session.execute(
        select(Role, Job.fee_basis_points, Reservation)
        .join(Job, col(Job.id) == Role.job_id)
        .join(Reservation, col(Reservation.id) == Role.reservation_id)
        .where(Job.lineage_id == lineage_id, Role.state == RoleState.OPEN)
        .order_by(col(Role.id))
        .with_for_update(of=Role, key_share=True)
    )
    open_roles = list(found)
    left = await reserves.left_in_each(session, [reservation for *_, reservation in open_roles])
    moves = []
    for role, fee, reservation in open_roles:
        lacking = cost_minor(role.longest_seconds, highest, fee or 0) - left[reservation.id]
        if lacking > 0:
            moves.append(reserves.from_wallet(reservation, lacking, ReserveCause.RATE_ROSE))
    await reserves.move_reserves(session, moves)


async def _open_roles(session: AsyncSession, job: Job, most: int | None) -> None:
    found = await session.exec(
        select(Role)
        .where(Role.job_id == job.id, Role.state == RoleState.UNFUNDED)
        .order_by(col(Role.id))
        .limit(most)
        .with_for_update(key_share=True)
    )
    roles = list(found)
    if not roles:
        raise NothingToPublish
    highest = await rates.highest_rate_ahead(session, job.lineage_id)
    assert highest is not None
    await _give_reservations(session, job, [role for role in roles if not role.reservation_id])
    reservations = await session.exec(
        select(Reservation).where(col(Reservation.id).in_([role.reservation_id for role in roles]))
    )
    by_id = {reservation.id: reservation for reservation in reservations}
    moves = [
        reserves.from_wallet(
            by_id[role.reservation_id],
            cost_minor(role.longest_seconds, highest, job.fee_basis_points or 0),
            ReserveCause.PUBLISHED,
        )
        for role in roles
        if role.reservation_id
    ]
    await reserves.move_reserves(session, moves)
    await set_state(session, [role.id for role in roles], RoleState.OPEN)


async def _give_reservations(session: AsyncSession, job: Job, roles: list[Role]) -> None:
    reservations = await reserves.open_reservations(
        session,
        client_id=job.client_id,
        currency=job.currency,
        subject_id=job.id,
        count=len(roles),
    )
    for role, reservation in zip(roles, reservations, strict=True):
        role.reservation_id = reservation.id
    await session.flush()
