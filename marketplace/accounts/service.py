"""Joining, signing in, keys."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts import passwords, tokens
from marketplace.accounts.leaving import end_sessions
from marketplace.accounts.models import (
    AccessToken,
    Client,
    ClientMember,
    Invite,
    PasswordReset,
    Person,
    PersonRole,
    Role,
    Scope,
)
from marketplace.shared import audit, clock, sweeps
from marketplace.shared.database import Sessions, row, violated
from marketplace.shared.problems import (
    BadRequest,
    Conflict,
    NotFound,
    TooManyRequests,
    Unauthorized,
)

INVITE_LASTS = timedelta(days=14)
RESET_LASTS = timedelta(hours=1)
DEVICE_TOKEN_LASTS = timedelta(days=90)
MOST_FAILURES = 10
FAILURE_WINDOW = timedelta(minutes=15)


class CodeNotValid(BadRequest):
    """This code is unknown, expired or used; ask for a new one."""

    code = "code_not_valid"


class EmailTaken(Conflict):
    """Somebody has joined with this e-mail address; sign in, or join with another."""

    code = "email_taken"


class SignInRefused(Unauthorized):
    """The e-mail address or the password is wrong."""

    code = "sign_in_refused"


class TooManyFailures(TooManyRequests):
    """Too many wrong passwords for this address; wait as long as Retry-After says."""

    code = "too_many_failures"


class RoleAlreadyHeld(Conflict):
    """This person has that role already, or acts for a client already."""

    code = "role_already_held"


@dataclass(frozen=True)
class Granted:
    """A new secret, told once, and until when it serves."""

    secret: str
    row_id: UUID
    holder_id: UUID
    expires_at: datetime


async def create_client(
    session: AsyncSession, *, name: str, currency: str, invited_by: UUID
) -> tuple[Client, Granted]:
    """A client and the invite code of its first member."""
    client = Client(name=name, currency=currency)
    session.add(client)
    await session.flush()
    await audit.record(session, subject=("client", client.id), action="created")
    return client, await invite(session, client_id=client.id, invited_by=invited_by)


async def invite(
    session: AsyncSession,
    *,
    role: Role | None = None,
    client_id: UUID | None = None,
    invited_by: UUID | None,
) -> Granted:
    secret = tokens.new_secret(tokens.INVITE)
    made = Invite(
        code_hash=tokens.hash_of(secret),
        role=role,
        client_id=client_id,
        invited_by=invited_by,
        expires_at=await clock.now(session) + INVITE_LASTS,
    )
    session.add(made)
    await session.flush()
    await audit.record(session, subject=("invite", made.id), action="created")
    return Granted(secret, made.id, made.id, made.expires_at)


async def join(
    session: AsyncSession, *, code: str, email: str, name: str, password: str, device: str
) -> Granted:
    """A new person with what the invite grants, signed in on this device.

    Commits once the code is known to serve: the password is hashed in no transaction.
    """
    with passwords.place_in_line():
        await _valid_invite(session, code)
        await session.commit()
        password_hash = await passwords.hashed(password)
    invited = await _take_invite(session, code)
    person = Person(email=email, name=name, password_hash=password_hash)
    await audit.act_as(session, str(person.id))
    session.add(person)
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        if violated(error) == "uq_person_email":
            raise EmailTaken from error
        raise
    invited.used_by = person.id
    await _grant(session, person.id, invited)
    return await issue_device_token(session, person_id=person.id, device=device)


async def accept_invite(session: AsyncSession, *, code: str, person_id: UUID) -> None:
    """Add what the invite grants to a person who has joined before."""
    invited = await _take_invite(session, code)
    invited.used_by = person_id
    try:
        await _grant(session, person_id, invited)
    except sa.exc.IntegrityError as error:
        raise RoleAlreadyHeld from error


async def _take_invite(session: AsyncSession, code: str) -> Invite:
    invited = await _valid_invite(session, code, lock=True)
    invited.used_at = await clock.now(session)
    return invited


async def _valid_invite(session: AsyncSession, code: str, *, lock: bool = False) -> Invite:
    query = select(Invite).where(
        Invite.code_hash == tokens.hash_of(code),
        col(Invite.used_at).is_(None),
        Invite.expires_at > await clock.now(session),
    )
    invited = (await session.exec(query.with_for_update() if lock else query)).first()
    if invited is None:
        raise CodeNotValid
    return invited


async def _grant(session: AsyncSession, person_id: UUID, invited: Invite) -> None:
    if invited.role is not None:
        session.add(PersonRole(person_id=person_id, role=invited.role))
    if invited.client_id is not None:
        session.add(ClientMember(person_id=person_id, client_id=invited.client_id))
    await session.flush()
    granted = invited.role.value if invited.role else f"member of client {invited.client_id}"
    await audit.record(session, subject=("person", person_id), action="joined", reason=granted)


async def sign_in(session: AsyncSession, *, email: str, password: str, device: str) -> Granted:
    """A token for this device. Commits the try before the password is checked in no transaction."""
    with passwords.place_in_line():
        await _count_try(session, email)
        person = await person_by_email(session, email)
        await session.commit()
        stored = person.password_hash if person else passwords.NOBODYS_HASH
        if not await passwords.is_right(password, stored) or person is None:
            raise SignInRefused
    await session.refresh(person, with_for_update={"key_share": True})
    if person.password_hash != stored:
        # Reset meanwhile: that reset signs every device out.
        raise SignInRefused
    await audit.act_as(session, str(person.id))
    await session.execute(
        sa.text("DELETE FROM sign_in_failure WHERE email_hash = :email"),
        {"email": _email_hash(email)},
    )
    return await issue_device_token(session, person_id=person.id, device=device)


async def person_by_email(session: AsyncSession, email: str) -> Person | None:
    found = await session.exec(select(Person).where(sa.func.lower(Person.email) == email.lower()))
    return found.first()


async def _count_try(session: AsyncSession, email: str) -> None:
    """A failure until it succeeds: counted first, so that parallel tries cannot outrun the count."""
    found = await row(
        session,
        "INSERT INTO sign_in_failure AS f (email_hash, failures, window_started_at)"
        " VALUES (:email, 1, marketplace_now())"
        " ON CONFLICT (email_hash) DO UPDATE SET"
        "  failures = CASE WHEN f.window_started_at < marketplace_now() - :window THEN 1"
        "   ELSE f.failures + 1 END,"
        "  window_started_at = CASE WHEN f.window_started_at < marketplace_now() - :window"
        "   THEN marketplace_now() ELSE f.window_started_at END"
        " RETURNING failures, window_started_at + :window - marketplace_now() AS wait",
        email=_email_hash(email),
        window=FAILURE_WINDOW,
    )
    assert found is not None
    if found["failures"] > MOST_FAILURES:
        raise TooManyFailures(headers={"Retry-After": str(int(found["wait"].total_seconds()) + 1)})


async def forget_failures(sessions: Sessions) -> int:
    """Delete the counts of wrong passwords whose window is over."""
    return await sweeps.delete_in_batches(
        sessions,
        "DELETE FROM sign_in_failure WHERE email_hash = ANY (ARRAY("
        " SELECT email_hash FROM sign_in_failure"
        " WHERE window_started_at < marketplace_now() - :window"
        " LIMIT :most FOR UPDATE SKIP LOCKED))",
        window=FAILURE_WINDOW,
    )


def _email_hash(email: str) -> str:
    return hashlib.sha256(email.lower().encode()).hexdigest()


async def issue_device_token(session: AsyncSession, *, person_id: UUID, device: str) -> Granted:
    secret = tokens.new_secret(tokens.DEVICE)
    token = AccessToken(
        token_hash=tokens.hash_of(secret),
        person_id=person_id,
        name=device,
        created_by=person_id,
        expires_at=await clock.now(session) + DEVICE_TOKEN_LASTS,
    )
    session.add(token)
    await session.flush()
    await audit.record(session, subject=("access_token", token.id), action="created")
    return Granted(secret, token.id, person_id, token.expires_at)


async def create_api_key(
    session: AsyncSession,
    *,
    client_id: UUID,
    name: str,
    scopes: list[Scope],
    lasts: timedelta,
    created_by: UUID,
) -> tuple[AccessToken, str]:
    secret = tokens.new_secret(tokens.API_KEY)
    api_key = AccessToken(
        token_hash=tokens.hash_of(secret),
        client_id=client_id,
        name=name,
        scopes=sorted({scope.value for scope in scopes}),
        created_by=created_by,
        expires_at=await clock.now(session) + lasts,
    )
    session.add(api_key)
    await session.flush()
    await audit.record(session, subject=("access_token", api_key.id), action="created")
    return api_key, secret


async def revoke(session: AsyncSession, token: AccessToken) -> AccessToken:
    """From the next request on the token is refused. Revoking twice changes nothing."""
    if token.revoked_at is None:
        token.revoked_at = await clock.now(session)
        session.add(token)
        await session.flush()
        await audit.record(session, subject=("access_token", token.id), action="revoked")
    return token


async def own_token(
    session: AsyncSession,
    token_id: UUID,
    *,
    person_id: UUID | None = None,
    client_id: UUID | None = None,
) -> AccessToken:
    found = await session.exec(
        select(AccessToken).where(
            AccessToken.id == token_id,
            AccessToken.person_id == person_id,
            AccessToken.client_id == client_id,
        )
    )
    token = found.first()
    if token is None:
        raise NotFound
    return token


async def password_reset_code(session: AsyncSession, *, email: str) -> Granted:
    """A one-time code that sets a new password; for the command line only."""
    person = await person_by_email(session, email)
    if person is None:
        raise NotFound("Nobody has joined with this e-mail address.")
    secret = tokens.new_secret(tokens.RESET)
    reset = PasswordReset(
        code_hash=tokens.hash_of(secret),
        person_id=person.id,
        expires_at=await clock.now(session) + RESET_LASTS,
    )
    session.add(reset)
    await session.flush()
    await audit.record(session, subject=("person", person.id), action="password_reset_offered")
    return Granted(secret, reset.id, person.id, reset.expires_at)


async def reset_password(session: AsyncSession, *, code: str, password: str) -> None:
    """Set the new password and end every session of the person.

    Commits once the code is known to serve: the password is hashed in no transaction.
    """
    with passwords.place_in_line():
        await _valid_reset(session, code)
        await session.commit()
        password_hash = await passwords.hashed(password)
    reset = await _valid_reset(session, code, lock=True)
    reset.used_at = await clock.now(session)
    person = await session.get_one(Person, reset.person_id)
    person.password_hash = password_hash
    await audit.act_as(session, str(person.id))
    # First the person's row: who signs in at this moment holds it, or sees the new password.
    await session.flush()
    await end_sessions(session, person.id)
    await audit.record(session, subject=("person", person.id), action="password_reset")


async def _valid_reset(session: AsyncSession, code: str, *, lock: bool = False) -> PasswordReset:
    query = select(PasswordReset).where(
        PasswordReset.code_hash == tokens.hash_of(code),
        col(PasswordReset.used_at).is_(None),
        PasswordReset.expires_at > await clock.now(session),
    )
    reset = (await session.exec(query.with_for_update() if lock else query)).first()
    if reset is None:
        raise CodeNotValid
    return reset
