import json
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from marketplace.accounts.models import Scope
from marketplace.accounts.principals import Principal, client_with
from marketplace.consents.service import ConsentWithdrawn, require_consent_now
from marketplace.deliveries import service
from marketplace.jobs.service import own_job
from marketplace.jobs.specification import Arc, Intensity, Specification, WantedMinutes
from marketplace.recordings.routes import TAKE, FileStorage, stream_of
from marketplace.shared.pagination import PageQuery
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import SECRET_ANSWER, Session, TransactionalRoute
from marketplace.shared.schemas import Answer, Page
from marketplace.shared.settings import Settings

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["deliveries"])

TakeReader = Annotated[Principal, Depends(client_with(Scope.RECORDINGS_READ))]


class Consent(Answer):
    id: UUID
    licence_version: str
    licence_sha256: str
    allowed_uses: list[str]
    forbidden_uses: list[str]
    territory: str
    exclusive: bool
    term_ends_at: datetime | None
    signed_at: datetime
    withdrawn_at: datetime | None


class Take(Answer):
    """An accepted recording. The speaker is a stable pseudonym."""

    id: UUID
    job_id: UUID
    task_id: UUID
    role_id: UUID
    speaker_id: UUID
    target: dict[str, Any] = Field(description="What was asked for.")
    self_labels: dict[str, Any] = Field(description="What the performer says it conveys.")
    sha256: str
    size_bytes: int
    report: dict[str, Any] = Field(description="What was measured, and each gate's verdict.")
    consent: Consent
    accepted_submission_id: UUID


class WantedProgress(Answer):
    """One of the specification's `labels.wanted`, and what was accepted of it."""

    emotion: str = Field(examples=["sadness"])
    intensity: Intensity | None
    arc: Arc | None
    wanted_seconds: int = Field(examples=[1_800])
    accepted_seconds: int = Field(examples=[1_260])


class ProgressAnswer(Answer):
    """By the decoded length of accepted takes whose consent stands, in whole seconds."""

    accepted_takes: int = Field(examples=[12])
    accepted_seconds: int = Field(examples=[1_260])
    wanted: list[WantedProgress]


class LinkAnswer(Answer):
    url: str = Field(
        description="GET it without a token, before it expires.",
        examples=["https://api.example/v1/downloads/mkt_dl_w2Jq0bTn5YxkVhR3fGz8"],
    )
    expires_at: datetime


@router.get("/jobs/{job_id}/recordings", responses=documented(NotFound))
async def list_accepted_recordings(
    job_id: UUID, session: Session, client: TakeReader, page: Annotated[PageQuery, Query()]
) -> Page[Take]:
    """The job's accepted takes, newest first, with their checks, labels and consent."""
    job = await own_job(session, job_id, client.client)
    found, next_cursor = await service.takes_of_job(
        session, job_id=job.id, client_id=client.client, page=page
    )
    return Page(items=[_take(row) for row in found], next_cursor=next_cursor)


@router.get("/jobs/{job_id}/progress", responses=documented(NotFound))
async def read_progress(job_id: UUID, session: Session, client: TakeReader) -> ProgressAnswer:
    """How much was accepted, beside what the specification wants of each emotion."""
    job = await own_job(session, job_id, client.client)
    accepted = await service.accepted_of_job(session, job_id=job.id, client_id=client.client)
    labels = Specification.model_validate_json(json.dumps(job.specification)).labels
    return ProgressAnswer(
        accepted_takes=sum(each.takes for each in accepted),
        accepted_seconds=int(sum(each.seconds for each in accepted)),
        wanted=[_progress(wanted, accepted) for wanted in labels.wanted],
    )


def _progress(wanted: WantedMinutes, accepted: list[service.Accepted]) -> WantedProgress:
    asked = wanted.model_dump(
        mode="json", include={"emotion", "intensity", "arc"}, exclude_none=True
    )
    matching = [each for each in accepted if asked.items() <= each.target.items()]
    return WantedProgress(
        **wanted.model_dump(include={"emotion", "intensity", "arc"}),
        wanted_seconds=60 * wanted.accepted_minutes,
        accepted_seconds=int(sum(each.seconds for each in matching)),
    )


@router.post(
    "/recordings/{recording_id}/links",
    status_code=201,
    dependencies=[SECRET_ANSWER],
    responses=documented(NotFound, ConsentWithdrawn, service.ConsentEnded),
)
async def create_download_link(
    recording_id: UUID, request: Request, session: Session, client: TakeReader
) -> LinkAnswer:
    """Make a link that downloads an accepted take for a few minutes."""
    settings: Settings = request.app.state.settings
    secret, expires_at = await service.make_link(
        session,
        recording_id=recording_id,
        client_id=client.client,
        made_by=client.id,
        lasts=timedelta(seconds=settings.download_link_seconds),
    )
    return LinkAnswer(url=f"{settings.public_url}/v1/downloads/{secret}", expires_at=expires_at)


@router.get(
    "/downloads/{token}",
    response_class=StreamingResponse,
    responses={
        **TAKE,
        **documented(NotFound, service.LinkGone, service.TakeGone, service.ConsentEnded),
    },
)
async def download_recording(
    token: str, request: Request, session: Session, storage: FileStorage
) -> StreamingResponse:
    """Download a take by its link, until the performer withdraws the consent or its term ends.

    A download under way is cut off when the consent is withdrawn.
    """
    link, recording = await service.follow_link(session, token)
    sessions = request.app.state.sessions
    standing = partial(require_consent_now, sessions, link.consent_grant_id)
    return await stream_of(storage, recording, require=standing)


def _take(row: Any) -> Take:
    consent = row.ConsentGrant.model_dump() | {"withdrawn_at": row.withdrawn_at}
    return Take(
        **row.Recording.model_dump(include={"id", "sha256", "size_bytes", "report"}),
        **row.Claim.model_dump(include={"job_id", "task_id", "role_id"}),
        speaker_id=row.Claim.performer_id,
        target=row.Role.target,
        self_labels=row.Submission.self_labels,
        consent=Consent.model_validate(consent),
        accepted_submission_id=row.Submission.id,
    )
