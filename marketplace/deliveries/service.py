"""Accepted takes and links to them. A withdrawn consent ends every download at once."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts import tokens
from marketplace.claims.models import Claim, ClaimRecording
from marketplace.consents.models import ConsentGrant, ConsentWithdrawal
from marketplace.consents.service import ConsentWithdrawn, withdrawal_of
from marketplace.deliveries.models import DownloadLink
from marketplace.jobs.models import Role
from marketplace.recordings.models import Recording, RecordingState
from marketplace.reviews.models import Submission, SubmissionRecording, SubmissionState
from marketplace.shared import audit, clock
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import NotFound, Problem


class LinkGone(Problem):
    """This link has expired; make a new one."""

    status, code = 410, "link_gone"


class TakeGone(Problem):
    """The performer has withdrawn the consent to this take; it is not delivered any more."""

    status, code = 410, "consent_withdrawn"


class ConsentEnded(Problem):
    """The licence's term is over; this take is not delivered any more."""

    status, code = 410, "consent_ended"


DECODED_SECONDS = col(Recording.report)["measurement"]["duration_seconds"].as_float()


def _accepted_takes(client_id: UUID) -> Any:
    return (
        sa.select(
            Recording, Submission, Claim, Role, ConsentGrant, col(ConsentWithdrawal.withdrawn_at)
        )
        .join(SubmissionRecording, col(SubmissionRecording.recording_id) == Recording.id)
        .join(Submission, col(Submission.id) == SubmissionRecording.submission_id)
        .join(Claim, col(Claim.id) == Submission.claim_id)
        .join(Role, col(Role.id) == Claim.role_id)
        .join(ClaimRecording, col(ClaimRecording.recording_id) == Recording.id)
        .join(ConsentGrant, col(ConsentGrant.id) == ClaimRecording.consent_grant_id)
        .outerjoin(ConsentWithdrawal, col(ConsentWithdrawal.consent_grant_id) == ConsentGrant.id)
        .where(
            col(Submission.state) == SubmissionState.ACCEPTED,
            col(Submission.client_id) == client_id,
            # Its bytes are gone.
            col(Recording.state) != RecordingState.UNREADABLE,
        )
    )


async def takes_of_job(
    session: AsyncSession, *, job_id: UUID, client_id: UUID, page: PageQuery
) -> tuple[list[Any], str | None]:
    """The job's accepted takes, newest first; a withdrawn one stays listed, as withdrawn."""
    query = _accepted_takes(client_id).where(col(Submission.job_id) == job_id)
    return await newest_first(session, query, col(Recording.id), page)


@dataclass(frozen=True)
class Accepted:
    """What was accepted of one target, and may still be delivered."""

    target: dict[str, Any]
    takes: int
    seconds: float


async def accepted_of_job(
    session: AsyncSession, *, job_id: UUID, client_id: UUID
) -> list[Accepted]:
    """Per target, by the decoded length of the takes."""
    takes = (
        _accepted_takes(client_id)
        .where(col(Submission.job_id) == job_id, col(ConsentWithdrawal.withdrawn_at).is_(None))
        .with_only_columns(
            col(Role.target),
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(DECODED_SECONDS), 0),
        )
        .group_by(col(Role.target))
        .order_by(col(Role.target))
    )
    found = await session.execute(takes)
    return [Accepted(target, count, float(seconds)) for target, count, seconds in found]


async def make_link(
    session: AsyncSession, *, recording_id: UUID, client_id: UUID, made_by: UUID, lasts: timedelta
) -> tuple[str, datetime]:
    """A new link's secret and its expiry."""
    query = _accepted_takes(client_id).where(col(Recording.id) == recording_id)
    take = (await session.execute(query)).first()
    if take is None:
        raise NotFound
    if take.withdrawn_at is not None:
        raise ConsentWithdrawn
    now = await clock.now(session)
    _require_term(take.ConsentGrant, now)
    secret = tokens.new_secret(tokens.DOWNLOAD)
    link = DownloadLink(
        token_hash=tokens.hash_of(secret),
        client_id=client_id,
        recording_id=recording_id,
        consent_grant_id=take.ConsentGrant.id,
        made_by=made_by,
        expires_at=now + lasts,
    )
    session.add(link)
    await session.flush()
    await audit.record(session, subject=("recording", recording_id), action="link_made")
    return secret, link.expires_at


async def follow_link(session: AsyncSession, secret: str) -> tuple[DownloadLink, Recording]:
    """A link and its take, as long as the link and the licence last and the consent stands."""
    if not tokens.is_well_formed(secret):
        raise NotFound
    found = await session.exec(
        select(DownloadLink).where(DownloadLink.token_hash == tokens.hash_of(secret))
    )
    link = found.first()
    if link is None:
        raise NotFound
    now = await clock.now(session)
    if link.expires_at <= now:
        raise LinkGone
    if await withdrawal_of(session, link.consent_grant_id) is not None:
        raise TakeGone
    _require_term(await session.get_one(ConsentGrant, link.consent_grant_id), now)
    return link, await session.get_one(Recording, link.recording_id)


def _require_term(consent: ConsentGrant, now: datetime) -> None:
    if consent.term_ends_at is not None and consent.term_ends_at <= now:
        raise ConsentEnded
