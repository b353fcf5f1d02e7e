"""Takes that were never handed in go when nobody can need them any more."""

from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings import service as recordings
from marketplace.recordings.storage import Storage
from marketplace.shared import sweeps
from marketplace.shared.database import Sessions

REASON = "It was never handed in."

# Until then they may be evidence in an appeal.
DUE = sa.text(
    """
    SELECT recording.id FROM recording
    JOIN claim_recording ON claim_recording.recording_id = recording.id
    JOIN claim ON claim.id = claim_recording.claim_id
    WHERE recording.state IN ('passed', 'look', 'retake')
      AND claim.state IN ('settled', 'released', 'expired')
      AND NOT EXISTS (SELECT FROM submission_recording WHERE recording_id = recording.id)
      AND EXISTS (
          SELECT FROM audit_event
          WHERE subject_type = 'claim' AND subject_id = claim.id AND to_state = claim.state
            AND booked_at <= marketplace_now() - interval '30 days'
      )
    UNION ALL
    SELECT recording.id FROM recording
    WHERE recording.state IN ('passed', 'look', 'retake') AND recording.client_id IS NULL
      AND recording.created_at <= marketplace_now() - interval '30 days'
      AND NOT EXISTS (
          SELECT FROM audition
          WHERE performer_id = recording.owner_id
            AND (recording_id = recording.id OR state IN ('offered', 'started', 'submitted'))
      )
    """
)


async def purge_unused(sessions: Sessions, storage: Storage) -> int:
    """Delete what was never handed in, 30 days after its claim ended (or it was made to audition)."""
    return await sweeps.each_due(sessions, "unused", DUE, partial(_purge, storage=storage))


async def _purge(session: AsyncSession, recording_id: UUID, *, storage: Storage) -> bool:
    return await recordings.purge(session, storage, recording_id, reason=REASON)
