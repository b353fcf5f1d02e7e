from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from marketplace.exceptions.charge_models import ChargeState
from marketplace.shared.money import LARGEST_AMOUNT_MINOR, Currency
from marketplace.shared.schemas import Answer, Body, Id, Reason

WHY = "Refunded at Stripe by hand on 3 November."


class NewClientCharge(Body):
    deposit_id: Id
    dispute_id: Id | None = Field(
        default=None,
        description="Of the deposit, when that is why. Approving the charge ends the dispute.",
        examples=[None],
    )
    amount_minor: Annotated[
        int,
        Field(
            ge=0,
            le=LARGEST_AMOUNT_MINOR,
            description="0 only with a dispute: the platform bears it, or nothing was lost.",
            examples=[100_000],
        ),
    ]
    currency: Currency
    reason: Reason = Field(description="The client reads it.")


class ClientChargeAnswer(Answer):
    id: UUID
    client_id: UUID
    deposit_id: UUID
    dispute_id: UUID | None = Field(examples=[None])
    amount_minor: int = Field(examples=[100_000])
    currency: str = Field(examples=["USD"])
    reason: str = Field(examples=[WHY])
    state: ChargeState = Field(examples=["approved"])
    state_reason: str | None
    proposed_by: UUID | None = Field(description="Who of finance, and why: told to finance alone.")
    proposed_at: datetime
    decided_by: UUID | None
    decided_at: datetime | None
    from_wallet_minor: int | None = Field(
        description="How much of it the wallet had; the rest the client owes.", examples=[60_000]
    )
    ledger_transaction_id: UUID | None
