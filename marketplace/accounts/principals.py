"""Who is asking. The role stands in a route's signature, ownership in its query.

`Annotated[Principal, Depends(person_with(Role.FINANCE))]` admits the role, or answers 401 or 403.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts import tokens
from marketplace.accounts.models import Role, Scope
from marketplace.shared import idempotency
from marketplace.shared.database import row, statement
from marketplace.shared.problems import Forbidden, Unauthorized
from marketplace.shared.requests import Session

USE_NOTED_EVERY = timedelta(hours=1)

bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="opaque token",
    description="A person's device token (`mkt_dev_…`) or a client's API key (`mkt_live_…`).",
)


@dataclass(frozen=True)
class Principal:
    """The holder of a valid token. `id` names the actor in the audit: a person or an API key."""

    id: UUID
    token_id: UUID
    person_id: UUID | None
    client_id: UUID | None
    roles: frozenset[Role]
    scopes: frozenset[Scope]
    now: datetime

    @property
    def person(self) -> UUID:
        """The person's id; only behind `person_with` or `any_person`."""
        assert self.person_id is not None
        return self.person_id

    @property
    def client(self) -> UUID:
        """The client's id; only behind `client_with` or `client_member`."""
        assert self.client_id is not None
        return self.client_id


class ScopeMissing(Forbidden):
    """This API key lacks the scope for that."""

    code = "scope_missing"


async def authenticate(
    request: Request,
    session: Session,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Principal:
    if credentials is None or not tokens.is_well_formed(credentials.credentials):
        raise Unauthorized
    principal = await principal_of(
        session, credentials.credentials, request_id=request.state.request_id
    )
    request.state.actor = str(principal.id)
    await idempotency.begin(request, session, principal.id)
    return principal


async def principal_of(session: AsyncSession, secret: str, *, request_id: str) -> Principal:
    """The token's holder, who acts from here on in this transaction; else Unauthorized."""
    found = await row(
        session,
        statement("marketplace.accounts", "authenticate.sql"),
        token_hash=tokens.hash_of(secret),
        request_id=request_id,
    )
    if found is None:
        raise Unauthorized
    used = found["last_used_at"]
    if used is None or used < found["now"] - USE_NOTED_EVERY:
        await _note_use(session, found["token_id"])
    return Principal(
        id=found["person_id"] or found["token_id"],
        token_id=found["token_id"],
        person_id=found["person_id"],
        client_id=found["client_id"],
        roles=frozenset(Role(role) for role in found["roles"]),
        scopes=frozenset(Scope(scope) for scope in found["scopes"]),
        now=found["now"],
    )


async def _note_use(session: AsyncSession, token_id: UUID) -> None:
    # A reader must not wait for another reader of the same token: skip when the row is locked.
    await session.execute(
        sa.text(
            "UPDATE access_token SET last_used_at = marketplace_now() WHERE id ="
            " (SELECT id FROM access_token WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)"
        ),
        {"id": token_id},
    )


Authenticated = Annotated[Principal, Depends(authenticate)]
Check = Callable[[Principal], Awaitable[Principal]]


def person_with(*roles: Role) -> Check:
    """A person who has at least one of the roles."""

    async def check(principal: Authenticated) -> Principal:
        if principal.person_id is None or not principal.roles & set(roles):
            named = " or ".join(role.value for role in roles)
            raise Forbidden(f"This needs a person with the role {named}.")
        return principal

    return check


async def any_person(principal: Authenticated) -> Principal:
    if principal.person_id is None:
        raise Forbidden("This needs a person's own token, not an API key.")
    return principal


def client_with(scope: Scope) -> Check:
    """A client's API key with the scope, or a member of a client."""

    async def check(principal: Authenticated) -> Principal:
        if principal.client_id is None:
            raise Forbidden("This needs a client's API key or a member's token.")
        if principal.person_id is None and scope not in principal.scopes:
            raise ScopeMissing(f"This API key lacks the scope {scope.value}.")
        return principal

    return check


def client_or_person_with(scope: Scope, role: Role) -> Check:
    """A client as `client_with` admits it, or a person who has the role."""
    client = client_with(scope)

    async def check(principal: Authenticated) -> Principal:
        return principal if role in principal.roles else await client(principal)

    return check


def person_or_key_with(scope: Scope) -> Check:
    """Any person, or a client's API key with the scope."""

    async def check(principal: Authenticated) -> Principal:
        if principal.person_id is None and scope not in principal.scopes:
            raise ScopeMissing(f"This API key lacks the scope {scope.value}.")
        return principal

    return check


async def client_member(principal: Authenticated) -> Principal:
    if principal.client_id is None or principal.person_id is None:
        raise Forbidden("This needs a client member's own token, not an API key.")
    return principal


Performer = Annotated[Principal, Depends(person_with(Role.PERFORMER))]
Reviewer = Annotated[Principal, Depends(person_with(Role.REVIEWER))]
Finance = Annotated[Principal, Depends(person_with(Role.FINANCE))]
Operator = Annotated[Principal, Depends(person_with(Role.OPERATOR))]
AnyPerson = Annotated[Principal, Depends(any_person)]
Member = Annotated[Principal, Depends(client_member)]
