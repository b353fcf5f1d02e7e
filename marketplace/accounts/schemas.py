from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, Strict, StringConstraints

from marketplace.accounts.models import Role, Scope
from marketplace.shared.money import Currency
from marketplace.shared.schemas import Answer, Body, Name


def _plausible_email(text: str) -> str:
    # The only proof of an address is a letter that arrives; this catches slips.
    local, at, domain = text.partition("@")
    if not (local and at and domain) or "@" in domain or any(c.isspace() for c in text):
        raise ValueError("must look like name@example.org")
    return text


Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=254, pattern=r"^[\x21-\x7e]+$"),
    AfterValidator(_plausible_email),
    Field(examples=["ana@example.org"]),
]
Password = Annotated[
    SecretStr,
    Strict(strict=False),
    Field(min_length=12, max_length=200, examples=["a long sentence of your own"]),
]
Code = Annotated[str, StringConstraints(max_length=100), Field(examples=["mkt_inv_…"])]
DeviceName = Annotated[Name, Field(examples=["Ana's phone"])]


class NewClient(Body):
    name: Annotated[Name, Field(examples=["Acme Voice Lab"])]
    currency: Annotated[Currency, Field(description="Its one settlement currency, ISO 4217")]


class ClientAnswer(Answer):
    id: UUID
    name: str = Field(examples=["Acme Voice Lab"])
    currency: str
    created_at: datetime


class NewClientAnswer(ClientAnswer):
    invite_code: str = Field(
        description="For the client's first member; shown once.", examples=["mkt_inv_…"]
    )


class NewInvite(Body):
    role: Annotated[Role, Strict(strict=False)]


class InviteAnswer(Answer):
    code: str = Field(
        description="Shown once; hand it to the person invited.", examples=["mkt_inv_…"]
    )
    expires_at: datetime


class Join(Body):
    code: Code
    email: Email
    name: Annotated[Name, Field(examples=["Ana"])]
    password: Password
    device: DeviceName


class SignIn(Body):
    email: Email
    password: Password
    device: DeviceName


class ResetPassword(Body):
    code: Code
    password: Password


class TokenAnswer(Answer):
    token: str = Field(
        description="Send it as `Authorization: Bearer`; shown once.", examples=["mkt_dev_…"]
    )
    expires_at: datetime
    person_id: UUID


class Me(Answer):
    person_id: UUID | None
    client_id: UUID | None
    roles: list[Role]
    scopes: list[Scope]


class PersonAnswer(Answer):
    person_id: UUID
    name: str = Field(examples=["Cleo"])
    email: str = Field(examples=["cleo@example.com"])
    roles: list[Role]
    client_id: UUID | None
    joined_at: datetime


class MemberAnswer(Answer):
    person_id: UUID
    name: str = Field(examples=["Cleo"])
    email: str = Field(examples=["cleo@example.com"])
    joined_at: datetime


class DeviceAnswer(Answer):
    id: UUID
    name: str = Field(examples=["Ana's phone"])
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime
    revoked_at: datetime | None


class NewApiKey(Body):
    name: Annotated[Name, Field(examples=["training pipeline"])]
    scopes: Annotated[
        list[Annotated[Scope, Strict(strict=False)]], Field(min_length=1, max_length=len(Scope))
    ]
    expires_in_days: Annotated[int, Field(ge=1, le=730)] = 365


class ApiKeyAnswer(DeviceAnswer):
    name: str = Field(examples=["training pipeline"])
    scopes: list[Scope]
    created_by: UUID | None = Field(
        description="The member who made it. It goes on when they leave; revoke it if they know it."
    )


class NewApiKeyAnswer(ApiKeyAnswer):
    token: str = Field(description="The API key itself; shown once.", examples=["mkt_live_…"])
