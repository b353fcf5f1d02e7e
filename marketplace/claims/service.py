"""Making claims, giving them back, and what happens when their deadline passes."""

from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims import settlement, time
from marketplace.claims.models import CLAIM_MOVES, WORKING, Claim, ClaimState, EndedBy
from marketplace.funding import disputes
from marketplace.jobs.models import Job, JobState, Role, RoleState
from marketplace.performers.models import Performer, PerformerState
from marketplace.shared import clock, idempotency, sweeps
from marketplace.shared.database import Sessions, row, statement, violated
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, Forbidden, NotFound, Problem
from marketplace.shared.states import move

LOST_RACES = {"uq_claim_performer_id_task_id", "claim_speaker_share", "pk_idempotency_key"}


class RoleTaken(Conflict):
    """Somebody was quicker: this role is not open any more."""

    code = "role_taken"


class ClaimLimitReached(Conflict):
    """You hold as many claims as you may; finish or release one first."""

    code = "claim_limit_reached"


class TaskClaimedBefore(Conflict):
    """You have claimed a role of this task before; each task gives one chance."""

    code = "task_claimed_before"


class SpeakerShareReached(Conflict):
    """You fill as many roles of this job as one person may; the rest is for other voices."""

    code = "speaker_share_reached"


class JobNotOpen(Conflict):
    """This job takes no new claims now."""

    code = "job_not_open"


class ClaimsPaused(Conflict):
    """A payment of this client is disputed: no new work of theirs begins until that is decided."""

    code = "claims_paused"


class NotVetted(Forbidden):
    """Only vetted performers may claim."""

    code = "not_vetted"


async def make(
    session: AsyncSession,
    *,
    performer_id: UUID,
    role_id: UUID,
    key: str,
    request_hash: str,
    request_id: str,
) -> str:
    """The claim as JSON. One statement decides (see claim.sql). Commits.

    Raises why it cannot be had, or Replay with the stored answer when the key was answered before.
    """
    values = {
        "performer": performer_id,
        "performer_text": str(performer_id),
        "role": role_id,
        "key": key,
        "request_hash": request_hash,
        "request_id": request_id,
    }
    answered = await _try_to_make(session, values) or await _try_to_make(session, values)
    if answered is None:
        problem = await _why_not(session, performer_id, role_id)
        where = {"principal_id": performer_id, "operation": "make_claim", "key": key}
        await idempotency.keep_refusal(session, where, request_hash, problem)
        raise problem
    if answered["request_hash"] != request_hash:
        raise idempotency.IdempotencyKeyReused
    if answered["replayed"]:
        raise idempotency.Replay(answered["status"], answered["body"])
    body: str = answered["body"]
    return body


async def _try_to_make(session: AsyncSession, values: dict[str, Any]) -> Any:
    await session.rollback()
    try:
        answered = await row(
            session,
            statement("marketplace.claims", "claim.sql"),
            **values,
            claim=new_id(),
            consent_grant=new_id(),
        )
        await session.commit()
    except sa.exc.IntegrityError as error:
        await session.rollback()
        if violated(error) in LOST_RACES:
            return None
        raise
    return answered


async def _why_not(session: AsyncSession, performer_id: UUID, role_id: UUID) -> Problem:
    performer = await session.get(Performer, performer_id)
    if performer is None or performer.state is not PerformerState.VETTED:
        return NotVetted()
    role = await session.get(Role, role_id)
    if role is None or role.state is RoleState.UNFUNDED:
        return NotFound()
    job = await session.get_one(Job, role.job_id)
    if not await _is_eligible(session, performer, job):
        return NotFound()
    return await _why_not_now(session, performer, role, job)


async def _why_not_now(
    session: AsyncSession, performer: Performer, role: Role, job: Job
) -> Problem:
    """Why somebody who may see the role cannot have it."""
    if await _has_claimed(session, performer.person_id, role.task_id):
        return TaskClaimedBefore()
    if job.state is not JobState.OPEN:
        return JobNotOpen(state=job.state.value)
    if await disputes.any_open(session, job.client_id):
        return ClaimsPaused()
    if performer.live_claims >= performer.claims_limit:
        return ClaimLimitReached(limit=performer.claims_limit)
    if await _roles_filled(session, performer.person_id, job.id) >= job.most_roles_of_one:
        return SpeakerShareReached(limit=job.most_roles_of_one)
    return RoleTaken()


async def _is_eligible(session: AsyncSession, performer: Performer, job: Job) -> bool:
    found = await session.scalar(
        sa.text(
            "SELECT speaks_one_of(:spoken, :wanted) AND CAST(:needed AS text[]) <@ :skills"
            " AND NOT EXISTS (SELECT FROM client_member"
            "  WHERE person_id = :person AND client_id = :client)"
        ),
        {
            "spoken": performer.languages,
            "wanted": job.languages,
            "needed": job.skills,
            "skills": performer.skills,
            "person": performer.person_id,
            "client": job.client_id,
        },
    )
    return bool(found)


async def _has_claimed(session: AsyncSession, performer_id: UUID, task_id: UUID) -> bool:
    found = await session.exec(
        select(Claim.id).where(Claim.performer_id == performer_id, Claim.task_id == task_id)
    )
    return found.first() is not None


async def _roles_filled(session: AsyncSession, performer_id: UUID, job_id: UUID) -> int:
    filled = await session.scalar(
        select(sa.func.count())
        .select_from(Claim)
        .where(Claim.performer_id == performer_id, Claim.job_id == job_id)
        .where(col(Claim.state).not_in([ClaimState.RELEASED, ClaimState.EXPIRED]))
    )
    return int(filled or 0)


async def own_claim(session: AsyncSession, claim_id: UUID, performer_id: UUID) -> Claim:
    found = await session.exec(
        select(Claim).where(Claim.id == claim_id, Claim.performer_id == performer_id)
    )
    claim = found.first()
    if claim is None:
        raise NotFound
    return claim


async def release(
    session: AsyncSession, claim: Claim, *, reason: str | None, grace_seconds: int
) -> Claim:
    """Give a claim back. Its time so far is paid; its role opens again."""
    locked = await settlement.lock(session, claim.id)
    await _end(
        session,
        locked,
        ClaimState.RELEASED,
        EndedBy.RELEASE,
        reason=reason,
        grace_seconds=grace_seconds,
    )
    return locked.claim


async def expire_due(sessions: Sessions, *, grace_seconds: int) -> int:
    """Claims whose deadline passed: time worked is paid, the role opens again."""
    due = (
        select(Claim.id)
        .where(col(Claim.state).in_(WORKING))
        .where(col(Claim.deadline) <= sa.func.marketplace_now())
        .order_by(col(Claim.deadline))
    )
    expire = partial(_expire, grace_seconds=grace_seconds)
    return await sweeps.each_due(sessions, "expiry", due, expire)


async def _expire(session: AsyncSession, claim_id: UUID, *, grace_seconds: int) -> bool:
    locked = await settlement.lock(session, claim_id)
    claim = locked.claim
    if claim.state not in WORKING or claim.deadline > await clock.now(session):
        return False
    await _end(
        session,
        locked,
        ClaimState.EXPIRED,
        EndedBy.DEADLINE,
        reason="Its deadline passed.",
        grace_seconds=grace_seconds,
    )
    return True


async def _end(
    session: AsyncSession,
    locked: settlement.Locked,
    to: ClaimState,
    ended_by: EndedBy,
    *,
    reason: str | None,
    grace_seconds: int,
) -> None:
    move(locked.claim, to, CLAIM_MOVES, reason=reason)
    await session.flush()
    await time.end(session, ended_by, grace_seconds=grace_seconds, claim_id=locked.claim.id)
    await settlement.await_decision_and_reopen_role(session, locked)
    await session.flush()


async def hand_in(session: AsyncSession, claim: Claim, *, grace_seconds: int) -> None:
    """The performer is done: time stops, the claim waits for its review. The claim is locked."""
    await time.end(session, EndedBy.SUBMISSION, grace_seconds=grace_seconds, claim_id=claim.id)
    move(claim, ClaimState.SUBMITTED, CLAIM_MOVES)
    await session.flush()


async def grant_retake(session: AsyncSession, locked: settlement.Locked, *, reason: str) -> None:
    """Send a claim back for a paid retake, with a fresh deadline and pay-by date."""
    claim, job, role = locked.claim, locked.job, locked.role
    move(claim, ClaimState.RETAKE, CLAIM_MOVES, reason=reason)
    claim.retakes_granted += 1
    found = await row(
        session,
        "SELECT date_trunc('second', marketplace_now())"
        " + make_interval(secs => :window + :perform) AS deadline,"
        " pay_by(date_trunc('second', marketplace_now())"
        "  + make_interval(secs => :window + :perform), :review) AS pay_by",
        window=job.claim_window_seconds,
        perform=role.perform_seconds_cap,
        review=job.review_seconds,
    )
    assert found is not None
    claim.deadline, claim.pay_by = found["deadline"], found["pay_by"]
    await session.flush()


def retakes_left(locked: settlement.Locked) -> bool:
    return locked.claim.retakes_granted < locked.role.retakes_max


def settle(claim: Claim, *, reason: str | None = None) -> None:
    """The review is over."""
    move(claim, ClaimState.SETTLED, CLAIM_MOVES, reason=reason)
