import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from marketplace.accounts.principals import AnyPerson
from marketplace.recordings import service
from marketplace.recordings.models import Recording
from marketplace.recordings.schemas import RecordingAnswer
from marketplace.recordings.storage import Storage, TooLarge, UploadError
from marketplace.shared.problems import BadRequest, NotFound, documented
from marketplace.shared.requests import Session, TransactionalRoute

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["recordings"])

# The declared size, checked against the settings' limit, is what counts.
LARGEST_UPLOAD_BYTES = 2**40
# A download under way is cut off so long after it stopped being allowed, or at its next chunk.
RECHECK_SECONDS = 1.0

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


# What `stream_of` answers.
TAKE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The take's bytes, as they were uploaded.",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class UploadMismatch(BadRequest):
    """The bytes are not the declared ones (size or SHA-256); nothing was kept, send them again."""

    code = "upload_mismatch"


def storage_of(request: Request) -> Storage:
    storage = request.app.state.storage
    assert isinstance(storage, Storage)
    return storage


FileStorage = Annotated[Storage, Depends(storage_of)]


def answer(recording: Recording) -> RecordingAnswer:
    return RecordingAnswer(
        **recording.model_dump(), upload_path=f"/v1/recordings/{recording.id}/content"
    )


async def stream_of(
    storage: Storage, recording: Recording, *, require: Callable[[], Awaitable[None]] | None = None
) -> StreamingResponse:
    """The take as it was recorded, as an attachment that no browser will try to interpret.

    It ends short of its length when `require`, asked again and again on the way, raises.
    """
    stored = await storage.read_stream(recording.storage_key)
    container = (recording.report or {}).get("measurement", {}).get("container", "bin").lower()
    return StreamingResponse(
        stored.chunks if require is None else _while_allowed(stored.chunks, require),
        media_type=f"audio/{container}",
        headers={
            "Content-Length": str(stored.total_bytes),
            "Content-Disposition": f'attachment; filename="{recording.id}.{container}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _while_allowed(
    chunks: AsyncIterator[bytes], require: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    asked_at = time.monotonic()
    async for chunk in chunks:
        if time.monotonic() - asked_at >= RECHECK_SECONDS:
            await require()
            asked_at = time.monotonic()
        yield chunk


@router.put(
    "/recordings/{recording_id}/content",
    responses=documented(
        NotFound,
        UploadMismatch,
        service.UploadTooLarge,
        service.UploadAlreadyDone,
        service.RecordingGivenUp,
    ),
    openapi_extra=UPLOAD_BODY,
    max_body_size=LARGEST_UPLOAD_BYTES,
)
async def upload_recording(
    recording_id: UUID, request: Request, session: Session, owner: AnyPerson, storage: FileStorage
) -> RecordingAnswer:
    """Upload the declared bytes. Whole and exact, or nothing is kept."""
    recording = await service.own_recording(session, recording_id, owner.person)
    try:
        received = await service.receive(
            session,
            storage,
            recording,
            request.stream(),
            actor=owner.person,
            limit_bytes=request.app.state.settings.upload_limit_bytes,
        )
    except TooLarge as error:
        raise service.UploadTooLarge from error
    except UploadError as error:
        raise UploadMismatch(str(error) or type(error).__doc__ or "") from error
    return answer(received)


@router.get("/recordings/{recording_id}", responses=documented(NotFound))
async def read_recording(recording_id: UUID, session: Session, owner: AnyPerson) -> RecordingAnswer:
    """Your own recording: its state, and what was measured with which gates."""
    return answer(await service.own_recording(session, recording_id, owner.person))
