"""Paid time: server-stamped entries that live by heartbeats and end at their caps.

Stamps are truncated to whole seconds in SQL, so that adjacent entries telescope: what one loses to
truncation the next one gains.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.claims.models import (
    PREPARING,
    WORKING,
    Activity,
    Claim,
    ClaimState,
    EndedBy,
    TimeEntry,
)
from marketplace.jobs.models import Role
from marketplace.shared import audit, clock
from marketplace.shared.database import Sessions, row, rows, sqlstate, statement, take_turns
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, MoveNotAllowed, TryAgain

EXCLUSION_VIOLATION = "23P01"


class TimeCapReached(Conflict):
    """The paid time for this activity is used up in this claim."""

    code = "time_cap_reached"


class NoRunningTime(Conflict):
    """No time is running in this claim; start an activity."""

    code = "no_running_time"


@dataclass(frozen=True)
class Spent:
    """Whole seconds of a claim, and what its caps allow."""

    preparing_seconds: int
    preparing_cap_seconds: int
    performing_seconds: int
    performing_cap_seconds: int
    # Of the retake granted last; each has the cap for itself.
    retaking_seconds: int
    retaking_cap_seconds: int
    # With all retakes.
    total_seconds: int


async def start(
    session: AsyncSession, claim: Claim, activity: Activity, *, grace_seconds: int
) -> TimeEntry:
    """Switch to an activity; whatever ran before (in any claim of the performer) ends."""
    # Everybody who may end or add time that is counted below is waited for before it is counted:
    # other devices of the performer, whoever ends this claim, whoever ends the running entry.
    await take_turns(session, "time", claim.performer_id)
    await session.refresh(claim, with_for_update={"key_share": True})
    switched = await end(
        session,
        EndedBy.SWITCHED,
        grace_seconds=grace_seconds,
        performer_id=claim.performer_id,
    )
    started = await _begin(session, claim, activity, switched[0] if switched else None)
    await session.refresh(claim)
    if started is None:
        await _explain_refusal(session, claim, activity)
    return await session.get_one(TimeEntry, started)


async def _begin(
    session: AsyncSession, claim: Claim, activity: Activity, second: datetime | None
) -> UUID | None:
    try:
        found = await row(
            session,
            statement("marketplace.claims", "start_time.sql"),
            claim=claim.id,
            activity=activity.value,
            second=second,
            entry=new_id(),
        )
    except sa.exc.IntegrityError as error:
        if sqlstate(error) == EXCLUSION_VIOLATION:
            # The server's clock was set back behind the end of an earlier entry.
            raise TryAgain from error
        raise
    return found["id"] if found else None


async def _explain_refusal(session: AsyncSession, claim: Claim, activity: Activity) -> None:
    now = await clock.now(session)
    if claim.state not in WORKING:
        raise MoveNotAllowed(f"The claim is {claim.state.value}.", state=claim.state.value)
    if claim.deadline <= now:
        raise MoveNotAllowed("The claim's deadline has passed.", state=claim.state.value)
    if activity is (Activity.PERFORM if claim.state is ClaimState.RETAKE else Activity.RETAKE):
        raise MoveNotAllowed(
            f"A claim that is {claim.state.value} has no time for that activity.",
            state=claim.state.value,
        )
    spent = await spent_in(session, claim)
    raise TimeCapReached(
        f"No paid {activity.value} time is left in this claim as it stands.",
        spent=spent.__dict__,
    )


async def heartbeat(session: AsyncSession, claim: Claim, *, grace_seconds: int) -> TimeEntry:
    """Keep the running entry alive; if it had ended meanwhile, the answer says when and why."""
    entry = await _latest(session, claim)
    await end(
        session,
        EndedBy.PERFORMER,
        grace_seconds=grace_seconds,
        claim_id=claim.id,
        only_overdue=True,
    )
    await session.execute(
        sa.text(
            "UPDATE time_entry SET heartbeat_at = greatest(heartbeat_at, present_second())"
            " WHERE id = :id AND ended_at IS NULL"
        ),
        {"id": entry.id},
    )
    await session.refresh(entry)
    return entry


async def stop(session: AsyncSession, claim: Claim, *, grace_seconds: int) -> TimeEntry:
    """End the running entry."""
    entry = await _latest(session, claim)
    await end(session, EndedBy.PERFORMER, grace_seconds=grace_seconds, claim_id=claim.id)
    await session.refresh(entry)
    return entry


async def _latest(session: AsyncSession, claim: Claim) -> TimeEntry:
    found = await session.exec(
        select(TimeEntry)
        .where(TimeEntry.claim_id == claim.id)
        .order_by(col(TimeEntry.started_at).desc(), col(TimeEntry.id).desc())
        .limit(1)
    )
    entry = found.first()
    if entry is None:
        raise NoRunningTime
    return entry


async def end(
    session: AsyncSession,
    ended_by: EndedBy,
    *,
    grace_seconds: int,
    claim_id: UUID | None = None,
    performer_id: UUID | None = None,
    only_overdue: bool = False,
) -> list[datetime]:
    """End running entries, each at the moment its own limits allow.

    Answers the second in which it did so, once for each.
    """
    ended = await rows(
        session,
        statement("marketplace.claims", "end_time.sql"),
        ended_by=ended_by.value,
        grace=grace_seconds,
        claim=claim_id,
        performer=performer_id,
        only_overdue=only_overdue,
    )
    return [entry["second"] for entry in ended]


async def end_overdue(sessions: Sessions, *, grace_seconds: int) -> int:
    """Entries that fell silent, or reached their cap or deadline."""
    async with sessions() as session:
        await audit.act_as(session, "sweep:time")
        ended = await end(session, EndedBy.SILENCE, grace_seconds=grace_seconds, only_overdue=True)
        await session.commit()
    return len(ended)


# The payable seconds of the claim that a query is about: the sum of its ended entries.
worked_seconds = (
    select(
        sa.cast(
            sa.func.coalesce(
                sa.extract(
                    "epoch", sa.func.sum(col(TimeEntry.ended_at) - col(TimeEntry.started_at))
                ),
                0,
            ),
            sa.BigInteger,
        )
    )
    .where(TimeEntry.claim_id == Claim.id)
    .correlate(Claim)
    .scalar_subquery()
)


async def seconds_of(session: AsyncSession, claim_id: UUID) -> int:
    found = await session.exec(select(worked_seconds).where(Claim.id == claim_id))
    return int(found.one())


async def spent_in(session: AsyncSession, claim: Claim) -> Spent:
    """The running total, the running entry counted up to now."""
    role = await session.get_one(Role, claim.role_id)
    found = await session.execute(
        sa.text(
            "SELECT activity, retake_number, extract(epoch FROM sum(coalesce(ended_at,"
            "  greatest(started_at, least(date_trunc('second', marketplace_now()), ends_by)))"
            "  - started_at))::bigint AS seconds"
            " FROM time_entry WHERE claim_id = :claim GROUP BY activity, retake_number"
        ),
        {"claim": claim.id},
    )
    seconds = {(Activity(activity), retake): int(total) for activity, retake, total in found}
    return Spent(
        preparing_seconds=sum(seconds.get((activity, None), 0) for activity in PREPARING),
        preparing_cap_seconds=role.prep_seconds_cap,
        performing_seconds=seconds.get((Activity.PERFORM, None), 0),
        performing_cap_seconds=role.perform_seconds_cap,
        retaking_seconds=seconds.get((Activity.RETAKE, claim.retakes_granted), 0),
        retaking_cap_seconds=role.perform_seconds_cap if claim.retakes_granted else 0,
        total_seconds=sum(seconds.values()),
    )


async def entries_of(session: AsyncSession, claim_id: UUID) -> list[TimeEntry]:
    found = await session.exec(
        select(TimeEntry)
        .where(TimeEntry.claim_id == claim_id)
        .order_by(col(TimeEntry.started_at), col(TimeEntry.id))
    )
    return list(found)
