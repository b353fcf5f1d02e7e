from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from sqlmodel import col, select

from marketplace.accounts import leaving, service
from marketplace.accounts.models import AccessToken, ClientMember, Person, Role
from marketplace.accounts.principals import AnyPerson, Authenticated, Member, Operator
from marketplace.accounts.schemas import (
    ApiKeyAnswer,
    ClientAnswer,
    Code,
    DeviceAnswer,
    InviteAnswer,
    Join,
    Me,
    MemberAnswer,
    NewApiKey,
    NewApiKeyAnswer,
    NewClient,
    NewClientAnswer,
    NewInvite,
    PersonAnswer,
    ResetPassword,
    SignIn,
    TokenAnswer,
)
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import SECRET_ANSWER, Session, TransactionalRoute
from marketplace.shared.schemas import Body, Page, Reason

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["accounts"])


StaffRole = Literal[Role.REVIEWER, Role.FINANCE, Role.OPERATOR]


class AcceptInvite(Body):
    code: Code


class PeopleQuery(PageQuery):
    role: Role | None = None


@router.post("/clients", status_code=201, dependencies=[SECRET_ANSWER])
async def create_client(body: NewClient, session: Session, operator: Operator) -> NewClientAnswer:
    """Add a client; answers the invite code of its first member."""
    client, invited = await service.create_client(
        session, name=body.name, currency=body.currency, invited_by=operator.person
    )
    fields = ClientAnswer.model_validate(client).model_dump()
    return NewClientAnswer(**fields, invite_code=invited.secret)


@router.post("/invites", status_code=201, dependencies=[SECRET_ANSWER])
async def create_invite(body: NewInvite, session: Session, operator: Operator) -> InviteAnswer:
    """Invite a performer, reviewer, finance person or operator."""
    invited = await service.invite(session, role=body.role, invited_by=operator.person)
    return InviteAnswer(code=invited.secret, expires_at=invited.expires_at)


@router.post("/client/invites", status_code=201, dependencies=[SECRET_ANSWER])
async def create_member_invite(session: Session, member: Member) -> InviteAnswer:
    """Invite another member of your client."""
    invited = await service.invite(session, client_id=member.client, invited_by=member.person)
    return InviteAnswer(code=invited.secret, expires_at=invited.expires_at)


@router.get("/client/members")
async def list_members(
    session: Session, member: Member, page: Annotated[PageQuery, Query()]
) -> Page[MemberAnswer]:
    """The people who act for your client, the newest here first."""
    query = select(Person, ClientMember.joined_at).join(
        ClientMember, col(ClientMember.person_id) == Person.id
    )
    ours = query.where(ClientMember.client_id == member.client)
    found, next_cursor = await newest_first(session, ours, col(Person.id), page)
    items = [
        MemberAnswer(
            person_id=row.Person.id,
            name=row.Person.name,
            email=row.Person.email,
            joined_at=row.joined_at,
        )
        for row in found
    ]
    return Page(items=items, next_cursor=next_cursor)


@router.delete(
    "/client/members/{person_id}",
    status_code=204,
    responses=documented(NotFound, leaving.LastMember),
)
async def remove_member(person_id: UUID, session: Session, member: Member) -> None:
    """Remove a member at once. API keys go on, those they made among them; revoke what they know."""
    await leaving.remove_member(session, client_id=member.client, person_id=person_id)


@router.get("/people")
async def list_people(
    session: Session, operator: Operator, query: Annotated[PeopleQuery, Query()]
) -> Page[PersonAnswer]:
    """Everybody who has joined, newest first."""
    found, next_cursor = await leaving.people(session, query, query.role)
    return Page(items=found, next_cursor=next_cursor)


@router.delete(
    "/people/{person_id}/roles/{role}",
    status_code=204,
    responses=documented(NotFound, leaving.LastOperator),
)
async def take_role_back(
    person_id: UUID,
    role: StaffRole,
    session: Session,
    operator: Operator,
    reason: Annotated[Reason, Query()],
) -> None:
    """Take a role back at once. A performer keeps theirs, and their earnings: suspend them."""
    await leaving.take_role_back(session, person_id=person_id, role=role, reason=reason)


@router.delete("/people/{person_id}/devices", status_code=204, responses=documented(NotFound))
async def sign_person_out(
    person_id: UUID, session: Session, operator: Operator, reason: Annotated[Reason, Query()]
) -> None:
    """Sign somebody out of every device at once."""
    await leaving.sign_out(session, person_id=person_id, reason=reason)


@router.post(
    "/join", status_code=201, responses=documented(service.CodeNotValid, service.EmailTaken)
)
async def join(body: Join, session: Session) -> TokenAnswer:
    """Join with an invite code, and be signed in on this device."""
    granted = await service.join(
        session,
        code=body.code,
        email=body.email,
        name=body.name,
        password=body.password.get_secret_value(),
        device=body.device,
    )
    return TokenAnswer(
        token=granted.secret, expires_at=granted.expires_at, person_id=granted.holder_id
    )


@router.post(
    "/invites/accept",
    status_code=204,
    responses=documented(service.CodeNotValid, service.RoleAlreadyHeld),
)
async def accept_invite(body: AcceptInvite, session: Session, person: AnyPerson) -> None:
    """Accept a further invite as the person you are."""
    await service.accept_invite(session, code=body.code, person_id=person.person)


@router.post(
    "/sign-in",
    status_code=201,
    responses=documented(service.SignInRefused, service.TooManyFailures),
)
async def sign_in(body: SignIn, session: Session) -> TokenAnswer:
    """Sign in on a device: its own token, which expires and can be revoked."""
    granted = await service.sign_in(
        session,
        email=body.email,
        password=body.password.get_secret_value(),
        device=body.device,
    )
    return TokenAnswer(
        token=granted.secret, expires_at=granted.expires_at, person_id=granted.holder_id
    )


@router.post("/password-reset", status_code=204, responses=documented(service.CodeNotValid))
async def reset_password(body: ResetPassword, session: Session) -> None:
    """Set a new password with a one-time code; every device is signed out."""
    await service.reset_password(session, code=body.code, password=body.password.get_secret_value())


@router.get("/me")
async def read_me(principal: Authenticated) -> Me:
    """Who this token speaks for, and what it may do."""
    return Me(
        person_id=principal.person_id,
        client_id=principal.client_id,
        roles=sorted(principal.roles),
        scopes=sorted(principal.scopes),
    )


@router.get("/devices")
async def list_devices(
    session: Session, person: AnyPerson, page: Annotated[PageQuery, Query()]
) -> Page[DeviceAnswer]:
    """Your signed-in devices, newest first."""
    own = select(AccessToken).where(AccessToken.person_id == person.person)
    found, next_cursor = await newest_first(session, own, col(AccessToken.id), page)
    items = [DeviceAnswer.model_validate(row.AccessToken) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.delete("/devices/{token_id}")
async def sign_out_device(token_id: UUID, session: Session, person: AnyPerson) -> DeviceAnswer:
    """Sign a device out at once."""
    token = await service.own_token(session, token_id, person_id=person.person)
    return DeviceAnswer.model_validate(await service.revoke(session, token))


@router.post("/api-keys", status_code=201, dependencies=[SECRET_ANSWER])
async def create_api_key(body: NewApiKey, session: Session, member: Member) -> NewApiKeyAnswer:
    """Make an API key of your client, limited to the scopes it needs."""
    api_key, secret = await service.create_api_key(
        session,
        client_id=member.client,
        name=body.name,
        scopes=body.scopes,
        lasts=timedelta(days=body.expires_in_days),
        created_by=member.person,
    )
    return NewApiKeyAnswer(**_api_key(api_key).model_dump(), token=secret)


@router.get("/api-keys")
async def list_api_keys(
    session: Session, member: Member, page: Annotated[PageQuery, Query()]
) -> Page[ApiKeyAnswer]:
    """Your client's API keys, newest first."""
    own = select(AccessToken).where(AccessToken.client_id == member.client)
    found, next_cursor = await newest_first(session, own, col(AccessToken.id), page)
    return Page(items=[_api_key(row.AccessToken) for row in found], next_cursor=next_cursor)


@router.delete("/api-keys/{token_id}")
async def revoke_api_key(token_id: UUID, session: Session, member: Member) -> ApiKeyAnswer:
    """Revoke an API key at once."""
    token = await service.own_token(session, token_id, client_id=member.client)
    return _api_key(await service.revoke(session, token))


def _api_key(token: AccessToken) -> ApiKeyAnswer:
    return ApiKeyAnswer.model_validate(token)
