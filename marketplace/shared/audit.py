"""Who did what, when and why: append-only, written in the transaction of the deed itself.

Moves between states are recorded by the database's own trigger. `record` is for all the rest.
Actors and subjects are opaque ids here; names live elsewhere and can be erased.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.columns import json_object, updatable


class AuditEvent(SQLModel, table=True):
    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_subject", "subject_type", "subject_id", "id"),
        # Written in the order of time: a few bytes say where the rows since the last seal begin.
        Index(
            "ix_audit_event_booked_at",
            "booked_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
        updatable(),
    )

    id: int | None = Field(
        default=None, sa_column=sa.Column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    )
    subject_type: str
    subject_id: UUID
    action: str
    from_state: str | None = None
    to_state: str | None = None
    reason: str | None = None
    detail: dict[str, Any] | None = json_object(default=None)
    # A person's or an API key's id, or the name of the sweep that acted.
    actor: str = Field(sa_column_kwargs={"server_default": sa.text("acting()")})
    request_id: str | None = Field(
        default=None, sa_column_kwargs={"server_default": sa.text("acting_request()")}
    )
    booked_at: datetime = Field(
        sa_type=sa.DateTime(timezone=True),
        sa_column_kwargs={"server_default": sa.text("booking_time()")},
    )


async def record(
    session: AsyncSession,
    *,
    subject: tuple[str, UUID],
    action: str,
    reason: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    subject_type, subject_id = subject
    await session.execute(
        sa.insert(AuditEvent).values(
            subject_type=subject_type,
            subject_id=subject_id,
            action=action,
            reason=reason,
            detail=detail,
        )
    )


async def act_as(session: AsyncSession, actor: str, request_id: str | None = None) -> None:
    """Say who acts in this transaction; every audit row of it carries the name."""
    await session.execute(
        sa.text(
            "SELECT set_config('marketplace.actor', :actor, true),"
            " set_config('marketplace.request_id', :request_id, true)"
        ),
        {"actor": actor, "request_id": request_id or ""},
    )
