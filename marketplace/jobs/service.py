"""Drafting, pausing and closing jobs.

Lock order, everywhere: lineage, job, performer, claim, role, wallet, reserves.
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Client
from marketplace.funding import reserves
from marketplace.funding.models import Reservation
from marketplace.jobs.models import JOB_MOVES, Job, JobState, Role, RoleState, Task
from marketplace.jobs.roles import set_state
from marketplace.jobs.schemas import NewJob
from marketplace.rates import service as rates
from marketplace.rates.models import RateLineage
from marketplace.shared import sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.etags import require_seen
from marketplace.shared.ids import new_id
from marketplace.shared.problems import MoveNotAllowed, NotFound
from marketplace.shared.states import move


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
        raise MoveNotAllowed("Only a draft may be edited.", state=job.state.value)
    await _follow_kind(session, job, wanted)
    for name, value in _fields(wanted).items():
        setattr(job, name, value)
    job.version += 1
    await session.execute(sa.delete(Role).where(col(Role.job_id) == job.id))
    await session.execute(sa.delete(Task).where(col(Task.job_id) == job.id))
    await _add_tasks(session, job, wanted)
    return job


async def _follow_kind(session: AsyncSession, job: Job, wanted: NewJob) -> None:
    """A draft that stays of its kind keeps its lineage, and so an operator's separation."""
    client = await session.get_one(Client, job.client_id)
    of_its_kind = await _lineage(session, client, wanted)
    if of_its_kind.kind != (await session.get_one(RateLineage, job.lineage_id)).kind:
        job.lineage_id = of_its_kind.id


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
        "most_roles_of_one": speakers.most_roles_of_one(wanted.role_count),
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
    found = await session.execute(
        select(Role.id, Reservation)
        .outerjoin(Reservation, col(Reservation.id) == Role.reservation_id)
        .where(Role.job_id == job.id, col(Role.state).in_([RoleState.OPEN, RoleState.UNFUNDED]))
        .order_by(col(Role.id))
        .with_for_update(of=Role, key_share=True)
    )
    withdrawn = list(found)
    reserved: list[Reservation] = [own for _, own in withdrawn if own is not None]
    left = await reserves.left_in_each(session, reserved)
    moves = [reserves.to_wallet(own, left[own.id]) for own in reserved if left[own.id]]
    await reserves.move_reserves(session, moves)
    await set_state(session, [id_ for id_, _ in withdrawn], RoleState.WITHDRAWN, "The job closed.")


async def _is_settled(session: AsyncSession, job_id: UUID) -> bool:
    held = await session.scalar(
        select(sa.func.count())
        .select_from(Role)
        .where(Role.job_id == job_id, Role.state == RoleState.HELD)
    )
    return not held and not await reserves.outstanding(session, job_id)


async def close_settled(sessions: Sessions) -> int:
    """Closing jobs become closed when nothing is held and nothing is set aside any more."""
    held = select(Role.id).where(Role.job_id == Job.id, Role.state == RoleState.HELD)
    closing = (
        select(Job.id).where(Job.state == JobState.CLOSING, ~held.exists()).order_by(col(Job.id))
    )
    return await sweeps.each_due(sessions, "jobs", closing, _close_settled)


async def _close_settled(session: AsyncSession, job_id: UUID) -> bool:
    job = await session.get_one(Job, job_id)
    job = await own_job(session, job.id, job.client_id, lock=True)
    if job.state is not JobState.CLOSING or not await _is_settled(session, job.id):
        return False
    move(job, JobState.CLOSED, JOB_MOVES, reason=job.state_reason)
    return True


async def role_counts(session: AsyncSession, job_id: UUID) -> dict[RoleState, int]:
    found = await session.execute(
        select(Role.state, sa.func.count()).where(Role.job_id == job_id).group_by(Role.state)
    )
    return {row[0]: row[1] for row in found}
