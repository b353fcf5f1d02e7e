"""Grants and withdrawals are only ever inserted."""

from datetime import datetime
from uuid import UUID

from sqlmodel import Field, SQLModel

from marketplace.shared.columns import (
    booking_stamp,
    key,
    link,
    now_stamp,
    stamp,
    texts,
    updatable,
)


class ConsentGrant(SQLModel, table=True):
    """Signed by a performer for one client in the claim statement; every take refers to one."""

    __tablename__ = "consent_grant"
    __table_args__ = updatable()

    id: UUID = key()
    performer_id: UUID = link("person.id", index=True)
    client_id: UUID = link("client.id")
    licence_version: str
    # Of the licence text that was shown and accepted.
    licence_sha256: str
    allowed_uses: list[str] = texts()
    forbidden_uses: list[str] = texts()
    territory: str
    exclusive: bool
    # Null is without end.
    term_ends_at: datetime | None = stamp(default=None)
    # What is given in return, in the words that were accepted.
    consideration: str
    method: str = Field(default="api_claim")
    signed_at: datetime = now_stamp()
    booked_at: datetime = booking_stamp()


class ConsentWithdrawal(SQLModel, table=True):
    """From the moment it is inserted no download of the grant's takes is answered."""

    __tablename__ = "consent_withdrawal"
    __table_args__ = updatable()

    id: UUID = key()
    consent_grant_id: UUID = link("consent_grant.id", unique=True)
    reason: str | None = None
    withdrawn_at: datetime = now_stamp()
    booked_at: datetime = booking_stamp()
