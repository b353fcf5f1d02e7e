from datetime import datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel

from marketplace.shared.columns import (
    choice,
    is_one_of,
    key,
    link,
    now_stamp,
    stamp,
    texts,
    updatable,
)


class Role(StrEnum):
    PERFORMER = "performer"
    REVIEWER = "reviewer"
    FINANCE = "finance"
    OPERATOR = "operator"


class Scope(StrEnum):
    """What a client's API key may do. A member's own token may do all of it."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    RECORDINGS_READ = "recordings:read"
    WALLET_READ = "wallet:read"
    WALLET_WRITE = "wallet:write"
    EVENTS_READ = "events:read"


class Client(SQLModel, table=True):
    __tablename__ = "client"
    __table_args__ = updatable("name")

    id: UUID = key()
    name: str
    # Its one settlement currency: wallets, jobs, rates and pay are all in it.
    currency: str
    created_at: datetime = now_stamp()


class Person(SQLModel, table=True):
    __tablename__ = "person"
    __table_args__ = (
        Index("uq_person_email", sa.text("lower(email)"), unique=True),
        updatable("name", "password_hash"),
    )

    id: UUID = key()
    email: str
    name: str
    password_hash: str
    created_at: datetime = now_stamp()


class PersonRole(SQLModel, table=True):
    __tablename__ = "person_role"
    __table_args__ = (is_one_of("role", Role), updatable(deletable=True))

    person_id: UUID = link("person.id", primary_key=True)
    role: Role = choice(Role, primary_key=True)
    granted_at: datetime = now_stamp()


class ClientMember(SQLModel, table=True):
    """A person who acts for a client. One person acts for one client at most."""

    __tablename__ = "client_member"
    __table_args__ = updatable(deletable=True)

    person_id: UUID = link("person.id", primary_key=True)
    client_id: UUID = link("client.id", index=True)
    joined_at: datetime = now_stamp()


class Invite(SQLModel, table=True):
    """A one-time code to join with a role, or as a member of a client."""

    __tablename__ = "invite"
    __table_args__ = (
        sa.CheckConstraint("num_nonnulls(role, client_id) = 1", name="one_purpose"),
        is_one_of("role", Role),
        updatable("used_at", "used_by"),
    )

    id: UUID = key()
    code_hash: str = Field(unique=True)
    role: Role | None = choice(Role, default=None)
    client_id: UUID | None = link("client.id", default=None)
    invited_by: UUID | None = link("person.id", default=None)
    created_at: datetime = now_stamp()
    expires_at: datetime = stamp()
    used_at: datetime | None = stamp(default=None)
    used_by: UUID | None = link("person.id", default=None)


class AccessToken(SQLModel, table=True):
    """A person's device token or a client's API key; only the hash is kept."""

    __tablename__ = "access_token"
    __table_args__ = (
        sa.CheckConstraint("num_nonnulls(person_id, client_id) = 1", name="one_holder"),
        updatable("revoked_at", "last_used_at"),
    )

    id: UUID = key()
    token_hash: str = Field(unique=True)
    person_id: UUID | None = link("person.id", default=None, index=True)
    client_id: UUID | None = link("client.id", default=None, index=True)
    name: str
    scopes: list[str] = texts(default_factory=list)
    created_at: datetime = now_stamp()
    created_by: UUID | None = link("person.id", default=None)
    expires_at: datetime = stamp()
    # Kept to the hour, so that reading does not mean writing.
    last_used_at: datetime | None = stamp(default=None)
    revoked_at: datetime | None = stamp(default=None)


class PasswordReset(SQLModel, table=True):
    """A one-time code, handed over by an operator with access to the command line."""

    __tablename__ = "password_reset"
    __table_args__ = updatable("used_at")

    id: UUID = key()
    code_hash: str = Field(unique=True)
    person_id: UUID = link("person.id")
    created_at: datetime = now_stamp()
    expires_at: datetime = stamp()
    used_at: datetime | None = stamp(default=None)


class SignInFailure(SQLModel, table=True):
    """Wrong passwords of one e-mail address in its current window; the address is hashed."""

    __tablename__ = "sign_in_failure"
    __table_args__ = updatable("failures", "window_started_at", deletable=True)

    email_hash: str = Field(primary_key=True)
    failures: int
    window_started_at: datetime = stamp()
