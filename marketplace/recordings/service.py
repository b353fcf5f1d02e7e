"""From declared upload to judged recording. The bytes are streamed outside any transaction."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings import gates
from marketplace.recordings.checks import Limits, Measurement, Unreadable, measure
from marketplace.recordings.gates import Tier, Verdict
from marketplace.recordings.models import (
    CHECKED,
    RECORDING_MOVES,
    WITHOUT_BYTES,
    Recording,
    RecordingState,
)
from marketplace.recordings.storage import Storage
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions, take_turns
from marketplace.shared.problems import Conflict, NotFound, Problem
from marketplace.shared.states import move

log = logging.getLogger(__name__)

UPLOAD_LASTS = timedelta(hours=24)
# A check that breaks off is tried again after this, then after twice as long, …: for a day in all.
FIRST_RETRY_AFTER = timedelta(seconds=90)
MOST_TRIES = 11
# Of one owner's recordings, uploading or waiting for their check.
MOST_UNCHECKED = 10
# Takes with their bytes, for each time that work may be handed in.
MOST_TAKES = 20
# The confined workers run as many at once as there are cores.
CHECKS_AT_ONCE = 4
# Longer than a check may take that waits for all others at once; then another process may try.
CHECK_LEASE = timedelta(minutes=25)

UNMEASURED = "Our check could not measure it; a person judges it by ear."

OUTCOME = {
    Verdict.PASS: RecordingState.PASSED,
    Verdict.LOOK: RecordingState.LOOK,
    Verdict.RETAKE: RecordingState.RETAKE,
}


class UploadTooLarge(Problem):
    """This file is larger than uploads may be."""

    status, code = 413, "upload_too_large"


class TooManyUploads(Conflict):
    """You have many recordings on their way already; upload them, or wait for their checks."""

    code = "too_many_uploads"


class TooManyTakes(Conflict):
    """You have uploaded as many takes as this work may have; hand in the best of them."""

    code = "too_many_takes"


class UploadAlreadyDone(Conflict):
    """This recording's bytes are here already; declare a new recording for other bytes."""

    code = "upload_already_done"


class RecordingGivenUp(Conflict):
    """This recording's bytes came too late, cannot be read or are deleted; declare a new one."""

    code = "recording_given_up"


async def declare(
    session: AsyncSession,
    *,
    owner_id: UUID,
    client_id: UUID | None,
    size_bytes: int,
    sha256: str,
    tier: Tier,
    longest_seconds: int,
    limit_bytes: int,
    beside: sa.ColumnElement[bool],
    most_takes: int = MOST_TAKES,
) -> Recording:
    """A recording whose bytes are still to come: exactly these bytes, within a day.

    `beside` names the takes of the same work, of which so many may be kept.
    """
    if size_bytes > limit_bytes:
        raise UploadTooLarge(f"At most {limit_bytes} bytes are taken.")
    # One declaration at a time per owner: recordings are counted before one more is inserted.
    await take_turns(session, "recordings", owner_id)
    unchecked = col(Recording.state).in_([RecordingState.UPLOADING, RecordingState.CHECKING])
    if await _count(session, owner_id, unchecked) >= MOST_UNCHECKED:
        raise TooManyUploads
    kept = col(Recording.state).not_in(WITHOUT_BYTES)
    if await _count(session, owner_id, beside, kept) >= most_takes:
        raise TooManyTakes
    recording = Recording(
        owner_id=owner_id,
        client_id=client_id,
        state=RecordingState.UPLOADING,
        due_at=await clock.now(session) + UPLOAD_LASTS,
        size_bytes=size_bytes,
        sha256=sha256,
        tier=tier,
        longest_seconds=longest_seconds,
    )
    session.add(recording)
    await session.flush()
    return recording


async def _count(session: AsyncSession, owner_id: UUID, *which: sa.ColumnElement[bool]) -> int:
    found = await session.scalar(
        select(sa.func.count()).select_from(Recording).where(Recording.owner_id == owner_id, *which)
    )
    return int(found or 0)


async def own_recording(session: AsyncSession, recording_id: UUID, owner_id: UUID) -> Recording:
    found = await session.exec(
        select(Recording).where(Recording.id == recording_id, Recording.owner_id == owner_id)
    )
    recording = found.first()
    if recording is None:
        raise NotFound
    return recording


async def receive(
    session: AsyncSession,
    storage: Storage,
    recording: Recording,
    chunks: AsyncIterator[bytes],
    *,
    actor: UUID,
    limit_bytes: int,
) -> Recording:
    """Store the declared bytes; then the check is due. Commits before the bytes are read.

    Raises the storage's UploadError; nothing is kept then, and the upload may be tried again.
    """
    if recording.state in WITHOUT_BYTES:
        raise RecordingGivenUp
    if recording.state is not RecordingState.UPLOADING:
        raise UploadAlreadyDone
    await session.commit()
    await storage.put_stream(
        recording.storage_key,
        chunks,
        declared_bytes=recording.size_bytes,
        declared_sha256=recording.sha256,
        limit_bytes=limit_bytes,
    )
    await audit.act_as(session, str(actor))
    locked = await _locked(session, recording.id)
    if locked.state is RecordingState.UNREADABLE:
        # Given up while its last bytes came: nothing refers to them any more.
        await storage.delete(recording.storage_key)
        raise RecordingGivenUp
    if locked.state is RecordingState.UPLOADING:
        move(locked, RecordingState.CHECKING, RECORDING_MOVES)
        locked.due_at = await clock.now(session)
        await session.flush()
    return locked


async def _locked(session: AsyncSession, recording_id: UUID) -> Recording:
    found = await session.exec(
        select(Recording)
        .where(Recording.id == recording_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.one()


async def check_due(sessions: Sessions, storage: Storage) -> int:
    """Check stored recordings and give up uploads that never came; answers how many."""
    checking = (_check_due(sessions, storage) for _ in range(CHECKS_AT_ONCE))
    # Not a task group: the failure of one must not cut off the others' checks, which are leased.
    ended = await asyncio.gather(*checking, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return sum(done for done in ended if isinstance(done, int))


async def _check_due(sessions: Sessions, storage: Storage) -> int:
    done = 0
    while (recording := await _take_due(sessions)) is not None:
        with sweeps.one_row("recordings", recording.id):
            found = await _find_out(storage, recording)
            await _conclude(sessions, storage, recording, found)
            done += 1
    return done


async def _take_due(sessions: Sessions) -> Recording | None:
    """Lease one due recording: the check runs outside any transaction."""
    async with sessions() as session:
        found = await session.exec(
            select(Recording)
            .where(col(Recording.due_at) <= sa.func.marketplace_now())
            .order_by(col(Recording.due_at))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        recording = found.first()
        if recording is not None:
            recording.due_at = await clock.now(session) + CHECK_LEASE
        await session.commit()
        return recording


async def _find_out(storage: Storage, recording: Recording) -> Measurement | Unreadable:
    if recording.state is RecordingState.UPLOADING:
        return Unreadable("never_uploaded", "The file was not uploaded within a day.")
    # With room above what the role allows, so that the duration gate, not the worker, judges it.
    limits = Limits(longest_seconds=max(Limits.longest_seconds, 2 * recording.longest_seconds))
    try:
        async with storage.open_for_check(recording.storage_key) as path:
            return await measure(path, limits=limits)
    except FileNotFoundError:
        return Unreadable("file_missing", "The stored file is gone; upload it again.")


async def _conclude(
    sessions: Sessions, storage: Storage, recording: Recording, found: Measurement | Unreadable
) -> None:
    """Judge, unless the recording moved on meanwhile: uploaded at last, or checked by another."""
    async with sessions() as session:
        await audit.act_as(session, "sweep:recordings")
        locked = await _locked(session, recording.id)
        if locked.state is recording.state:
            if isinstance(found, Measurement):
                _judge(locked, found)
            elif found.retryable:
                _try_again(locked, found, now=await clock.now(session))
            else:
                # Before the commit: after a crash the check runs again and finds them missing.
                await storage.delete(recording.storage_key)
                _give_up(locked, found)
        await session.commit()


def _judge(recording: Recording, measurement: Measurement) -> None:
    report = gates.report(measurement, recording.tier, longest_seconds=recording.longest_seconds)
    move(recording, OUTCOME[Verdict(report["verdict"])], RECORDING_MOVES)
    recording.report = report
    recording.due_at = None


def _try_again(recording: Recording, found: Unreadable, *, now: datetime) -> None:
    """Our fault, perhaps: the bytes stay. When no try succeeds, people judge the take by ear."""
    recording.check_tries += 1
    if recording.check_tries < MOST_TRIES:
        recording.state_reason = found.message
        recording.due_at = now + FIRST_RETRY_AFTER * 2 ** (recording.check_tries - 1)
        return
    log.error(
        "recording %s was checked %s times in vain: %s",
        *(recording.id, recording.check_tries, found.reason_code),
    )
    move(recording, RecordingState.LOOK, RECORDING_MOVES, reason=UNMEASURED)
    recording.report = {"reason_code": found.reason_code, "message": UNMEASURED}
    recording.due_at = None


def _give_up(recording: Recording, found: Unreadable) -> None:
    move(recording, RecordingState.UNREADABLE, RECORDING_MOVES, reason=found.message)
    recording.report = {"reason_code": found.reason_code, "message": found.message}
    recording.due_at = None


async def purge(
    session: AsyncSession, storage: Storage, recording_id: UUID, *, reason: str
) -> bool:
    """Delete a checked take's bytes for good. The database refuses when it was handed in."""
    locked = await _locked(session, recording_id)
    if locked.state not in CHECKED:
        return False
    move(locked, RecordingState.PURGED, RECORDING_MOVES, reason=reason)
    await session.flush()
    await storage.delete(locked.storage_key)
    return True
