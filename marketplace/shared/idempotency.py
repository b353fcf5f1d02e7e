"""A key makes a POST safe to repeat (IETF draft-ietf-httpapi-idempotency-key-header-07).

Key, work and answer are committed together. A repeat with the same body gets the stored answer;
with another body it is refused; while the first is still at work it waits. Not stored: 401, 403,
429 and validation failures. After 30 days a key is forgotten, and free again.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import Request, Response
from sqlmodel import Field, Index, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import sweeps
from marketplace.shared.columns import now_stamp, updatable
from marketplace.shared.database import Sessions, sqlstate
from marketplace.shared.problems import BadRequest, Conflict, InvalidRequest, Problem

HEADER = "Idempotency-Key"
LONGEST_KEY = 255
STORED_REFUSALS = {404, 409}
LOCK_NOT_AVAILABLE = "55P03"
KEPT = timedelta(days=30)


class IdempotencyKey(SQLModel, table=True):
    __tablename__ = "idempotency_key"
    __table_args__ = (
        Index("ix_idempotency_key_created_at", "created_at"),
        updatable("status", "body", "etag", deletable=True),
    )

    principal_id: UUID = Field(primary_key=True)
    operation: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_hash: str
    # Null only inside the transaction that is at work.
    status: int | None = None
    body: str | None = None
    etag: str | None = None
    created_at: datetime = now_stamp()


class IdempotencyKeyMissing(BadRequest):
    """This request moves money or makes a claim: send an Idempotency-Key header.

    Use a new random value (a UUID serves) for each new intent, and the same one for its repeats.
    """

    code = "idempotency_key_missing"


class IdempotencyKeyUnreadable(BadRequest):
    """The Idempotency-Key header must be 1 to 255 visible ASCII characters."""

    code = "idempotency_key_unreadable"


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key was used with another request; use a new key for a new intent."""

    code = "idempotency_key_reused"


class SecretShownOnce(Conflict):
    """This was done, and its answer held a secret that is shown only once; make a new one."""

    code = "secret_shown_once"


class RequestInFlight(Conflict):
    """The first request with this key is still at work; repeat this one in a moment."""

    code = "request_in_flight"


class Replay(Exception):
    """This key was answered before: here is that answer."""

    def __init__(self, status: int, body: str, etag: str | None = None) -> None:
        super().__init__()
        self.status, self.body, self.etag = status, body, etag

    def answer(self) -> Response:
        kind = "application/json" if self.status < 400 else "application/problem+json"
        headers = {"Idempotent-Replayed": "true"} | ({"ETag": self.etag} if self.etag else {})
        return Response(self.body, self.status, media_type=kind, headers=headers)


def key_of(request: Request) -> str | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not (1 <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise IdempotencyKeyUnreadable
    return key


async def require_key(request: Request) -> None:
    if key_of(request) is None:
        raise IdempotencyKeyMissing(
            f"Send {HEADER}: a new random value for each new intent, the same one for a repeat."
        )


async def own_key(request: Request) -> None:
    """A route's dependency: its rows carry the key, because it works in several transactions."""
    request.state.keeps_own_key = True


async def request_hash(request: Request) -> str:
    content = request.url.path.encode() + b"\n" + await request.body()
    return hashlib.sha256(content).hexdigest()


async def begin(request: Request, session: AsyncSession, principal_id: UUID) -> None:
    """Take the key, waiting for another holder; raise Replay if it was answered before."""
    key = key_of(request) if request.method == "POST" else None
    if key is None or getattr(request.state, "keeps_own_key", False):
        return
    where = {
        "principal_id": principal_id,
        "operation": request.scope["route"].operation_id or request.scope["route"].name,
        "key": key,
    }
    fingerprint = await request_hash(request)
    if not await take(session, where, fingerprint):
        await replay(session, where, fingerprint)
    request.state.idempotency = where
    request.state.work = await session.begin_nested()


async def take(session: AsyncSession, where: dict[str, Any], fingerprint: str) -> bool:
    try:
        taken = await session.scalar(
            sa.text(
                "INSERT INTO idempotency_key (principal_id, operation, key, request_hash)"
                " VALUES (:principal_id, :operation, :key, :request_hash)"
                " ON CONFLICT DO NOTHING RETURNING true"
            ),
            {**where, "request_hash": fingerprint},
        )
    except sa.exc.DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise RequestInFlight from error
        raise
    return bool(taken)


async def replay(session: AsyncSession, where: dict[str, Any], fingerprint: str) -> None:
    stored = await session.get(IdempotencyKey, tuple(where.values()))
    if stored is None:
        # Forgotten at this very moment.
        raise RequestInFlight
    if stored.request_hash != fingerprint:
        raise IdempotencyKeyReused
    assert stored.status is not None
    assert stored.body is not None
    raise Replay(stored.status, stored.body, stored.etag)


async def shown_once(request: Request) -> None:
    """A route's dependency: its answer holds a secret, which must not be kept."""
    request.state.answer_is_secret = True


async def store(request: Request, session: AsyncSession, response: Response) -> None:
    """Keep the answer with the key, in the transaction of the work."""
    where = getattr(request.state, "idempotency", None)
    if where is None:
        return
    if response.status_code < 400 and getattr(request.state, "answer_is_secret", False):
        response = SecretShownOnce().answer()
    await _write_answer(session, where, response)


async def _write_answer(session: AsyncSession, where: dict[str, Any], response: Response) -> None:
    await session.execute(
        sa.update(IdempotencyKey)
        .where(*(getattr(IdempotencyKey, name) == value for name, value in where.items()))
        .values(
            status=response.status_code,
            body=bytes(response.body).decode(),
            etag=response.headers.get("ETag"),
        )
    )


async def keep_refusal(
    session: AsyncSession, where: dict[str, Any], fingerprint: str, problem: Problem
) -> None:
    """Store a refusal for repeats, unless it is one that is not stored; commits.

    For statements that take their key themselves. Raises Replay if the key was answered meanwhile.
    """
    if problem.status not in STORED_REFUSALS:
        return
    if not await take(session, where, fingerprint):
        await replay(session, where, fingerprint)
    await _write_answer(session, where, problem.answer())
    await session.commit()


async def forget_old(sessions: Sessions) -> int:
    """Delete the keys that were answered more than 30 days ago, with their answers."""
    return await sweeps.delete_in_batches(
        sessions,
        "DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY("
        " SELECT ctid FROM idempotency_key"
        " WHERE created_at < marketplace_now() - :kept AND status IS NOT NULL"
        " LIMIT :most FOR UPDATE SKIP LOCKED))",
        kept=KEPT,
    )


async def undo_work(request: Request, status: int) -> bool:
    """Roll the work back but keep the key; false when there is no key to keep."""
    work = getattr(request.state, "work", None)
    if work is None or status not in STORED_REFUSALS:
        return False
    await work.rollback()
    return True


def documented(*, required: bool) -> dict[str, Any]:
    return {
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "required": required,
                "description": "A new random value for each new intent; the same one repeats it "
                "safely and gets the same answer.",
                "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
                "example": "4e0f9c1e-52c7-4f67-9d0d-0b6a2a5d9a10",
            }
        ]
    }
