"""Drafting, quoting, publishing, pausing and closing jobs.

Lock order, everywhere: lineage, job, performer, claim, role, wallet, reserves.
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Client
from marketplace.funding import reserves
from marketplace.funding.models import Reservation, ReserveCause
from marketplace.jobs.models import JOB_MOVES, Job, JobState, Role, RoleState, Task
from marketplace.jobs.schemas import NewJob, Quote
from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind
from marketplace.rates import service as rates
from marketplace.rates.models import Rate, RateLineage
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions
from marketplace.shared.etags import require_seen
from marketplace.shared.ids import new_id
from marketplace.shared.money import cost_minor
from marketplace.shared.problems import Conflict, MoveNotAllowed, NotFound
from marketplace.shared.states import move

MAY_OPEN_ROLES = frozenset({JobState.DRAFT, JobState.OPEN, JobState.PAUSED})


class NothingToPublish(Conflict):
    """Every role of this job is open, taken or done."""

    code = "nothing_to_publish"


async def draft(session: AsyncSession, *, client_id: UUID, wanted: NewJob) -> Job:
    client = await session.get_one(Client, client_id)
    lineage = await _lineage(session, client, wanted)
    job = Job(
        client_id=client_id,
        state=JobState.DRAFT,
        currency=client.currency,
        lineage_id=lineage.id,
        **_fields(wanted),
    )
    session.add(job)
    await session.flush()
    await _add_tasks(session, job, wanted)
    return job


async def edit_draft(session: AsyncSession, job: Job, *, wanted: NewJob, seen: str) -> Job:
    """Replace the whole draft."""
    require_seen(seen, job.version)
    if job.state is not JobState.DRAFT:
        raise MoveNotAllowed(
            "Only a draft may be edited.", state=job.state.value, allowed_moves=["pause", "close"]
        )
    client = await session.get_one(Client, job.client_id)
    job.lineage_id = (await _lineage(session, client, wanted)).id
    for name, value in _fields(wanted).items():
        setattr(job, name, value)
    job.version += 1
    await session.execute(sa.delete(Role).where(col(Role.job_id) == job.id))
    await session.execute(sa.delete(Task).where(col(Task.job_id) == job.id))
    await _add_tasks(session, job, wanted)
    return job


async def _lineage(session: AsyncSession, client: Client, wanted: NewJob) -> RateLineage:
    """Elicitation, languages and role profile decide; title, brief and accents do not."""
    speakers = wanted.specification.speakers
    most_roles = max(len(task.roles) for task in wanted.tasks)
    return await rates.lineage_for(
        session,
        client_id=client.id,
        currency=client.currency,
        elicitation=wanted.specification.elicitation.value,
        languages=speakers.languages,
        role_profile=f"roles={most_roles} skills={','.join(speakers.skills)}",
    )


def _fields(wanted: NewJob) -> dict[str, Any]:
    speakers = wanted.specification.speakers
    return {
        "title": wanted.title,
        "brief": wanted.brief,
        "specification": wanted.specification.model_dump(mode="json"),
        "languages": speakers.languages,
        "skills": speakers.skills,
        "accents": speakers.accents,
        "age_bands": [band.value for band in speakers.age_bands],
        "asked_rate_minor_per_hour": wanted.rate_minor_per_hour,
        "prep_seconds_cap": wanted.prep_seconds_cap,
        "perform_seconds_cap": wanted.perform_seconds_cap,
        "retakes_max": wanted.retakes_max,
        "claim_window_seconds": wanted.claim_window_seconds,
        "review_seconds": wanted.review_seconds,
    }


async def _add_tasks(session: AsyncSession, job: Job, wanted: NewJob) -> None:
    tasks: list[dict[str, Any]] = []
    roles: list[dict[str, Any]] = []
    for new in wanted.tasks:
        for _ in range(new.copies):
            task_id = new_id()
            tasks.append(
                {
                    "id": task_id,
                    "job_id": job.id,
                    "number": len(tasks) + 1,
                    "scenario": new.scenario.model_dump(mode="json"),
                }
            )
            roles += [
                {
                    "id": new_id(),
                    "task_id": task_id,
                    "job_id": job.id,
                    "client_id": job.client_id,
                    "number": number,
                    "name": role.name,
                    "brief": role.brief,
                    "target": role.target.model_dump(mode="json"),
                    "prep_seconds_cap": job.prep_seconds_cap,
                    "perform_seconds_cap": job.perform_seconds_cap,
                    "retakes_max": job.retakes_max,
                    "state": RoleState.UNFUNDED,
                }
                for number, role in enumerate(new.roles, start=1)
            ]
    await session.execute(sa.insert(Task), tasks)
    await session.execute(sa.insert(Role), roles)


async def own_job(
    session: AsyncSession, job_id: UUID, client_id: UUID, *, lock: bool = False
) -> Job:
    query = select(Job).where(Job.id == job_id, Job.client_id == client_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    job = (await session.exec(query)).first()
    if job is None:
        raise NotFound
    return job


async def separate_lineage(session: AsyncSession, job_id: UUID, *, reason: str) -> Job:
    """Give a draft a rate lineage of its own, on an operator's word."""
    found = await session.exec(select(Job).where(Job.id == job_id).with_for_update(key_share=True))
    job = found.first()
    if job is None:
        raise NotFound
    if job.state is not JobState.DRAFT:
        raise MoveNotAllowed("Only a draft's lineage may be separated.", state=job.state.value)
    lineage = await session.get_one(RateLineage, job.lineage_id)
    job.lineage_id = (await rates.separate(session, lineage, reason=reason)).id
    job.version += 1
    await session.flush()
    return job


async def quote(session: AsyncSession, job: Job, *, platform_fee: int) -> Quote:
    """What publishing the roles that are not funded yet would cost and reserve."""
    fee = platform_fee if job.fee_basis_points is None else job.fee_basis_points
    rate = await rates.rate_at(session, job.lineage_id, await clock.now(session))
    in_force = rate.rate_minor_per_hour if rate else job.asked_rate_minor_per_hour
    locked = max(in_force, job.asked_rate_minor_per_hour)
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
    await rates.hold_lineage(session, job.lineage_id)
    job = await own_job(session, job.id, job.client_id, lock=True)
    if job.state not in MAY_OPEN_ROLES:
        raise MoveNotAllowed(
            f"It is {job.state.value}; no more roles can be opened.",
            state=job.state.value,
            allowed_moves=[],
        )
    if job.fee_basis_points is None:
        job.fee_basis_points = platform_fee
    await _agree_on_rate(session, job, actor)
    await _open_roles(session, job, roles)
    if job.state is JobState.DRAFT:
        move(job, JobState.OPEN, JOB_MOVES)
        job.published_at = await clock.now(session)
    job.version += 1
    await session.flush()
    return job


async def _agree_on_rate(session: AsyncSession, job: Job, actor: UUID) -> None:
    """The lineage's rate is what is paid: a draft may start or raise it, never cut it in silence."""
    rate = await rates.rate_at(session, job.lineage_id, await clock.now(session))
    if rate is None:
        lineage = await session.get_one(RateLineage, job.lineage_id)
        await rates.announce(
            session,
            lineage=lineage,
            rate_minor_per_hour=job.asked_rate_minor_per_hour,
            reason="First job of its kind",
            announced_by=actor,
        )
        return
    await rates.require_minimum(session, job.currency, rate.rate_minor_per_hour)
    asked, paid = job.asked_rate_minor_per_hour, rate.rate_minor_per_hour
    if job.state is JobState.DRAFT and asked < paid:
        raise rates.RateCutNeedsNotice(
            f"Jobs of this kind pay {paid} per hour (minor units). Publish at that rate, or "
            "announce a cut for this lineage with 14 days' notice and publish when it is in force.",
            rate_minor_per_hour=paid,
            lineage_id=str(job.lineage_id),
        )
    if job.state is JobState.DRAFT and asked > paid:
        lineage = await session.get_one(RateLineage, job.lineage_id)
        await announce_rate(
            session,
            lineage=lineage,
            rate_minor_per_hour=asked,
            reason="A new job of this kind pays more",
            actor=actor,
        )


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
    moves = []
    for role, fee, reservation in found:
        needed = cost_minor(role.longest_seconds, highest, fee or 0)
        left = await reserves.left_in(session, reservation.id, reservation.currency)
        if needed > left:
            moves.append(reserves.from_wallet(reservation, needed - left, ReserveCause.RATE_ROSE))
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
    await _set_state(session, [role.id for role in roles], RoleState.OPEN)


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


async def _set_state(
    session: AsyncSession, role_ids: list[UUID], state: RoleState, reason: str | None = None
) -> None:
    """Many roles in one statement; the database's trigger checks and records each move."""
    await session.execute(
        sa.update(Role).where(col(Role.id).in_(role_ids)).values(state=state, state_reason=reason)
    )


async def pause(session: AsyncSession, job: Job, *, reason: str | None) -> Job:
    """No new claims; what is reserved stays reserved."""
    return await _change(session, job, JobState.PAUSED, reason)


async def resume(session: AsyncSession, job: Job) -> Job:
    if job.state is not JobState.PAUSED:
        raise MoveNotAllowed(
            f"It is {job.state.value}; only a paused job can be resumed.", state=job.state.value
        )
    return await _change(session, job, JobState.OPEN, None)


async def cancel(session: AsyncSession, job: Job, *, reason: str | None) -> Job:
    """Give a draft up."""
    return await _change(session, job, JobState.CANCELLED, reason)


async def close(session: AsyncSession, job: Job, *, reason: str | None) -> Job:
    """No new claims: open roles are withdrawn and their reserves returned; live claims finish."""
    job = await _change(session, job, JobState.CLOSING, reason)
    await _withdraw_roles(session, job)
    await session.refresh(job)
    if await _is_settled(session, job.id):
        move(job, JobState.CLOSED, JOB_MOVES, reason=reason)
        await session.flush()
    return job


async def _change(session: AsyncSession, job: Job, to: JobState, reason: str | None) -> Job:
    job = await own_job(session, job.id, job.client_id, lock=True)
    move(job, to, JOB_MOVES, reason=reason)
    job.version += 1
    await session.flush()
    return job


async def _withdraw_roles(session: AsyncSession, job: Job) -> None:
    found = await session.exec(
        select(Role)
        .where(Role.job_id == job.id, col(Role.state).in_([RoleState.OPEN, RoleState.UNFUNDED]))
        .order_by(col(Role.id))
        .with_for_update(key_share=True)
    )
    roles = list(found)
    moves = []
    for role in roles:
        if role.reservation_id is None:
            continue
        reservation = await session.get_one(Reservation, role.reservation_id)
        left = await reserves.left_in(session, reservation.id, reservation.currency)
        if left:
            moves.append(reserves.to_wallet(reservation, left))
    await reserves.move_reserves(session, moves)
    await _set_state(session, [role.id for role in roles], RoleState.WITHDRAWN, "The job closed.")


async def _is_settled(session: AsyncSession, job_id: UUID) -> bool:
    held = await session.scalar(
        select(sa.func.count())
        .select_from(Role)
        .where(Role.job_id == job_id, Role.state == RoleState.HELD)
    )
    return not held and not await reserves.outstanding(session, job_id)


async def close_settled(sessions: Sessions) -> int:
    """Closing jobs become closed when nothing is held and nothing is set aside any more."""
    closed = 0
    async with sessions() as session:
        closing = (
            await session.exec(select(Job).where(Job.state == JobState.CLOSING).limit(100))
        ).all()
    for candidate in closing:
        async with sessions() as session:
            await audit.act_as(session, "sweep:jobs")
            job = await own_job(session, candidate.id, candidate.client_id, lock=True)
            if job.state is JobState.CLOSING and await _is_settled(session, job.id):
                move(job, JobState.CLOSED, JOB_MOVES, reason=job.state_reason)
                closed += 1
            await session.commit()
    return closed


async def role_counts(session: AsyncSession, job_id: UUID) -> dict[RoleState, int]:
    found = await session.execute(
        select(Role.state, sa.func.count()).where(Role.job_id == job_id).group_by(Role.state)
    )
    return {row[0]: row[1] for row in found}
