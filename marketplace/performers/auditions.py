"""Paid try-outs: offered by an operator, timed like work, paid when handed in, judged by a reviewer.

The outcome never changes the pay. This module alone posts audition pay.
"""

import logging
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger import service as ledger
from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.performers import service
from marketplace.performers.models import (
    AUDITION_MOVES,
    PERFORMER_MOVES,
    Audition,
    AuditionState,
    Performer,
    PerformerState,
)
from marketplace.rates import service as rates
from marketplace.rates.models import RateLineage
from marketplace.recordings.models import USABLE, Recording
from marketplace.recordings.service import own_recording
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions
from marketplace.shared.money import pay_minor
from marketplace.shared.pagination import PageQuery, cut, decode_cursor, encode_cursor
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move

log = logging.getLogger(__name__)

OFFER_LASTS = timedelta(days=14)
# Whoever starts late has at least this long to hand in.
START_LASTS = timedelta(days=1)
# Vetting needs somebody's judgement: what is late is not decided by itself, but alarmed about.
JUDGED_WITHIN = timedelta(days=14)
ALARMED_AGAIN_AFTER = timedelta(days=1)
ROLE_PROFILE = "audition"
LIVE = (AuditionState.OFFERED, AuditionState.STARTED, AuditionState.SUBMITTED)


class AuditionRateMissing(Conflict):
    """No audition rate is set in this currency; set one first."""

    code = "audition_rate_missing"


class AuditionOverdue(Conflict):
    """The last moment to hand this audition in has passed."""

    code = "audition_overdue"


class RecordingNotUsable(Conflict):
    """This recording has not passed its checks; wait for them, or upload it again."""

    code = "recording_not_usable"


class OwnAudition(Forbidden):
    """Nobody judges their own audition."""

    code = "own_audition"


async def set_rate(
    session: AsyncSession, *, currency: str, rate_minor_per_hour: int, reason: str, set_by: UUID
) -> None:
    lineage = await _lineage(session, currency)
    await rates.announce(
        session,
        lineage=lineage,
        rate_minor_per_hour=rate_minor_per_hour,
        reason=reason,
        announced_by=set_by,
    )


async def _lineage(session: AsyncSession, currency: str) -> RateLineage:
    return await rates.lineage_for(
        session,
        client_id=None,
        currency=currency,
        elicitation=rates.AUDITION,
        languages=(),
        role_profile=ROLE_PROFILE,
    )


async def offer(
    session: AsyncSession, *, performer_id: UUID, brief: str, currency: str, seconds_cap: int
) -> Audition:
    """The offer locks the audition rate in force, as a claim does."""
    performer = await service.find(session, performer_id, lock=True)
    now = await clock.now(session)
    rate = await rates.rate_at(session, (await _lineage(session, currency)).id, now)
    if rate is None:
        raise AuditionRateMissing
    move(performer, PerformerState.AUDITIONING, PERFORMER_MOVES)
    audition = Audition(
        performer_id=performer_id,
        state=AuditionState.OFFERED,
        brief=brief,
        rate_id=rate.id,
        lineage_id=rate.lineage_id,
        currency=currency,
        rate_minor_per_hour=rate.rate_minor_per_hour,
        seconds_cap=seconds_cap,
        due_at=now + OFFER_LASTS,
    )
    session.add(audition)
    await session.flush()
    return audition


async def live_audition(
    session: AsyncSession, performer_id: UUID, *, lock: bool = False
) -> Audition:
    """The performer's own running audition."""
    query = select(Audition).where(
        Audition.performer_id == performer_id, col(Audition.state).in_(LIVE)
    )
    if lock:
        query = query.with_for_update()
    audition = (await session.exec(query)).first()
    if audition is None:
        raise NotFound("You have no audition to do.")
    return audition


async def start(session: AsyncSession, *, performer_id: UUID) -> Audition:
    audition, now = await _in_time(session, performer_id)
    move(audition, AuditionState.STARTED, AUDITION_MOVES)
    audition.started_at = audition.seen_at = now.replace(microsecond=0)
    assert audition.due_at is not None
    audition.due_at = max(audition.due_at, now + START_LASTS)
    await session.flush()
    return audition


async def heartbeat(session: AsyncSession, *, performer_id: UUID, grace_seconds: int) -> Audition:
    """Say that you are still at it: the time since the last sign of life is paid, up to the grace."""
    audition, now = await _in_time(session, performer_id)
    if audition.state is AuditionState.STARTED:
        _count(audition, until=now, grace_seconds=grace_seconds)
        await session.flush()
    return audition


async def hand_in(
    session: AsyncSession, *, performer_id: UUID, recording_id: UUID, grace_seconds: int
) -> Audition:
    audition, now = await _in_time(session, performer_id)
    recording: Recording = await own_recording(session, recording_id, performer_id)
    if recording.state not in USABLE:
        raise RecordingNotUsable(f"The recording is {recording.state.value}.")
    move(audition, AuditionState.SUBMITTED, AUDITION_MOVES)
    _count(audition, until=now, grace_seconds=grace_seconds)
    audition.ended_at = audition.seen_at
    audition.recording_id = recording.id
    audition.due_at = now + JUDGED_WITHIN
    await _pay(session, audition)
    await session.flush()
    return audition


async def _in_time(session: AsyncSession, performer_id: UUID) -> tuple[Audition, datetime]:
    """The locked audition, while there is time to hand it in."""
    audition = await live_audition(session, performer_id, lock=True)
    now = await clock.now(session)
    handed_in = audition.state is AuditionState.SUBMITTED
    if not handed_in and audition.due_at is not None and audition.due_at <= now:
        raise AuditionOverdue
    return audition, now


def _count(audition: Audition, *, until: datetime, grace_seconds: int) -> None:
    """Add the whole seconds since the last sign of life; silence is worth the grace at most."""
    assert audition.seen_at is not None
    # A request that waited for the row may have begun before the last sign of life.
    seen_at = max(until.replace(microsecond=0), audition.seen_at)
    silent_seconds = int((seen_at - audition.seen_at).total_seconds())
    audition.worked_seconds += min(silent_seconds, grace_seconds)
    audition.seen_at = seen_at


async def decide(
    session: AsyncSession, *, audition_id: UUID, passed: bool, reason: str, reviewer: UUID
) -> Audition:
    """Vet or decline the performer. The time was paid when it was handed in."""
    audition = await _locked(session, audition_id)
    if audition.performer_id == reviewer:
        raise OwnAudition
    outcome = AuditionState.PASSED if passed else AuditionState.FAILED
    if audition.state is not AuditionState.SUBMITTED:
        # Only the sweep ends an audition that was not handed in.
        raise Conflict("This audition was not handed in yet, or is decided.")
    audition.decided_by = reviewer
    await _conclude(session, audition, outcome, reason)
    return audition


async def _locked(session: AsyncSession, audition_id: UUID) -> Audition:
    """Lock order: performer, then audition."""
    audition = await session.get(Audition, audition_id)
    if audition is None:
        raise NotFound
    await service.find(session, audition.performer_id, lock=True)
    await session.refresh(audition, with_for_update=True)
    return audition


async def _conclude(
    session: AsyncSession, audition: Audition, outcome: AuditionState, reason: str
) -> None:
    move(audition, outcome, AUDITION_MOVES, reason=reason)
    audition.due_at = None
    performer = await session.get_one(Performer, audition.performer_id)
    # An operator may have decided about them meanwhile; that word stands.
    if performer.state is PerformerState.AUDITIONING:
        to = PerformerState.VETTED if outcome is AuditionState.PASSED else PerformerState.DECLINED
        move(performer, to, PERFORMER_MOVES, reason=reason)
    await session.flush()


async def _pay(session: AsyncSession, audition: Audition) -> None:
    audition.paid_seconds = min(audition.worked_seconds, audition.seconds_cap)
    audition.pay_minor = pay_minor(audition.paid_seconds, audition.rate_minor_per_hour)
    if not audition.pay_minor:
        return
    posting = ledger.Posting(
        kind=TransactionKind.AUDITION_PAID,
        source_id=audition.id,
        currency=audition.currency,
        moves=(
            (
                (AccountKind.PLATFORM_EXPENSE, None),
                (AccountKind.PERFORMER_PAYABLE, audition.performer_id),
                audition.pay_minor,
            ),
        ),
        occurred_at=audition.ended_at,
    )
    await ledger.post(session, posting)
    audition.ledger_transaction_id = posting.id


async def mind_overdue(sessions: Sessions, *, grace_seconds: int) -> int:
    """Fail the auditions that were not handed in; the time worked is paid.

    Those that nobody judged in time are logged as errors, every day until somebody does.
    """
    overdue = (
        select(Audition.id)
        .where(col(Audition.due_at) <= sa.func.marketplace_now())
        .order_by(col(Audition.due_at))
    )
    mind = partial(_mind, grace_seconds=grace_seconds)
    return await sweeps.each_due(sessions, "auditions", overdue, mind)


async def _mind(session: AsyncSession, audition_id: UUID, *, grace_seconds: int) -> bool:
    audition = await _locked(session, audition_id)
    now = await clock.now(session)
    if audition.due_at is None or audition.due_at > now:
        return False
    if audition.state is AuditionState.SUBMITTED:
        log.error("audition %s waits for a reviewer since %s", audition.id, audition.ended_at)
        audition.due_at = now + ALARMED_AGAIN_AFTER
    else:
        await _give_up(session, audition, audition.due_at, grace_seconds=grace_seconds)
    return True


async def _give_up(
    session: AsyncSession, audition: Audition, due_at: datetime, *, grace_seconds: int
) -> None:
    if audition.seen_at is not None:
        silent_at = audition.seen_at + timedelta(seconds=grace_seconds)
        _count(audition, until=min(silent_at, due_at), grace_seconds=grace_seconds)
        audition.ended_at = audition.seen_at
    await _pay(session, audition)
    await _conclude(
        session, audition, AuditionState.FAILED, "It was not handed in by its deadline."
    )


async def recording_of(session: AsyncSession, *, audition_id: UUID, reviewer: UUID) -> Recording:
    """What was handed in, for somebody else to judge."""
    audition = await session.get(Audition, audition_id)
    if audition is None or audition.recording_id is None:
        raise NotFound
    if audition.performer_id == reviewer:
        raise OwnAudition
    return await session.get_one(Recording, audition.recording_id)


async def waiting(
    session: AsyncSession, reviewer: UUID, page: PageQuery
) -> tuple[list[Audition], str | None]:
    """A page of handed-in auditions, oldest first, without the reviewer's own."""
    order = sa.tuple_(col(Audition.ended_at), col(Audition.id))
    query = select(Audition).where(
        Audition.state == AuditionState.SUBMITTED, Audition.performer_id != reviewer
    )
    after = decode_cursor(page.cursor, datetime.fromisoformat, UUID)
    if after is not None:
        query = query.where(order > sa.tuple_(*after))
    found = await session.exec(
        query.order_by(col(Audition.ended_at), col(Audition.id)).limit(page.limit + 1)
    )
    shown, last = cut(list(found), page.limit)
    return shown, encode_cursor(last.ended_at, last.id) if last else None
