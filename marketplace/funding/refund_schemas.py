from datetime import datetime
from uuid import UUID

from pydantic import Field

from marketplace.funding.refund_models import RefundState
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body, Id, Reason


class NewRefund(Body):
    amount_minor: AmountMinor
    currency: Currency
    client_id: Id | None = Field(
        default=None, description="Finance names whose wallet; a client leaves it out."
    )
    reason: Reason | None = None


class AbsentRefund(Body):
    reason: Reason


class RefundAnswer(Answer):
    id: UUID
    request_id: UUID = Field(description="The same for all parts of one request.")
    client_id: UUID
    deposit_id: UUID = Field(description="Which of your deposits this part goes back to.")
    amount_minor: int = Field(examples=[25_000])
    currency: str = Field(examples=["USD"])
    state: RefundState = Field(examples=["succeeded"])
    state_reason: str | None
    requested_at: datetime
    due_at: datetime | None = Field(description="When it is looked at next.", examples=[None])
    not_found_at: datetime | None = Field(
        examples=[None],
        description="When a look-up last found no sign of it at Stripe; finance may then decide.",
    )
    stripe_refund_id: str | None = Field(examples=["re_3QxAw2LkdIwHu7ix1b6NmZtE"])


class RequestedRefund(Answer):
    """One request, and its parts: one for each deposit it goes back to, the newest first."""

    request_id: UUID
    amount_minor: int = Field(examples=[25_000])
    currency: str = Field(examples=["USD"])
    refunds: list[RefundAnswer]
