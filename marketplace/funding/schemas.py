from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from marketplace.funding.models import DepositState, TopupState
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body


class NewDeposit(Body):
    amount_minor: AmountMinor
    success_url: Annotated[
        str,
        StringConstraints(max_length=2_000, pattern=r"^https?://[\x21-\x7e]+$"),
        Field(
            description="Where Stripe's page sends the payer afterwards. Coming back there does "
            "not mean paid; the deposit's state does.",
            examples=["https://acme.example/wallet"],
        ),
    ]


class DepositAnswer(Answer):
    id: UUID
    state: DepositState
    state_reason: str | None
    amount_minor: int = Field(examples=[100_000])
    currency: str = Field(examples=["USD"])
    checkout_url: str | None = Field(description="Stripe's hosted page: pay there.")
    available_on: datetime | None = Field(
        description="When Stripe lets the platform spend it; your wallet does not wait for that."
    )
    created_at: datetime


class WalletAnswer(Answer):
    currency: str = Field(examples=["USD"])
    balance_minor: int = Field(description="Free to reserve.", examples=[61_705])
    reserved_minor: int = Field(description="Set aside for your jobs.", examples=[38_295])
    disputed_minor: int = Field(
        description="Set aside until a payment that your bank takes back is decided.",
        examples=[0],
    )
    owed_minor: int = Field(description="What you owe after a lost dispute.", examples=[0])


class NewTopup(Body):
    amount_minor: AmountMinor
    currency: Currency


class TopupAnswer(Answer):
    id: UUID
    state: TopupState
    state_reason: str | None
    amount_minor: int = Field(examples=[5_000])
    currency: str
    created_at: datetime
