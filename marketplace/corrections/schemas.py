from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from marketplace.corrections.models import CorrectionKind, CorrectionState
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body, Reason

WHY = "Ten minutes of waiting were not counted; the recording shows them."


class NewPayCorrection(Body):
    seconds: Annotated[int, Field(ge=0, le=10**6, examples=[3_700])] = Field(
        description="The claim's new total, at its locked rate."
    )
    reason: Reason


class NewCorrection(Body):
    amount_minor: AmountMinor
    currency: Currency
    reason: Reason


class CorrectionDecision(Body):
    reason: Reason


class CorrectionAnswer(Answer):
    id: UUID
    kind: CorrectionKind = Field(examples=["pay_corrected"])
    performer_id: UUID
    currency: str
    amount_minor: int = Field(
        description="What moves between the performer and us.", examples=[1_233]
    )
    reason: str = Field(examples=[WHY])
    claim_id: UUID | None
    seconds: int | None = Field(description="The claim's new total.", examples=[4_300])
    pay_minor: int | None = Field(description="What that pays.", examples=[8_839])
    booked_minor: int | None = Field(
        description="What was booked for the claim until then.", examples=[7_606]
    )
    state: CorrectionState = Field(examples=["approved"])
    state_reason: str | None
    proposed_by: UUID
    proposed_at: datetime
    decided_by: UUID | None
    decided_at: datetime | None
    client_minor: int | None = Field(
        description="The client's part; negative is given back.", examples=[1_233]
    )
    platform_minor: int | None = Field(
        description="The platform's part; negative is given back.", examples=[0]
    )
    fee_minor: int | None = Field(description="The change of the fee.", examples=[185])
    ledger_transaction_id: UUID | None
