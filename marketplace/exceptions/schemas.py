from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from marketplace.exceptions.models import BookedAs, LineBookingState
from marketplace.shared.schemas import Answer, Body, Reason

Because = Literal[
    "not_booked", "no_event", "unknown_type", "other_currency", "amount_differs", "not_at_stripe"
]
LINE = "txn_3QxAw2LkdIwHu7ix0jVqB5tD"


class ExceptionAnswer(Answer):
    """A line of Stripe's (or of ours) that no event explains."""

    line_id: str = Field(examples=[LINE])
    type: str | None = Field(description="Stripe's type", examples=["stripe_fee"])
    reason: Because = Field(examples=["unknown_type"])
    age_seconds: int = Field(examples=[5_400])
    net_minor: int | None = Field(description="As Stripe has it", examples=[-200])
    booked_net_minor: int | None = Field(examples=[None])
    currency: str
    source_id: str | None = Field(examples=[None])
    description: str | None = Field(examples=["A fee for the use of Stripe"])
    created_at: datetime
    deposit_id: UUID | None = Field(
        description="The deposit that was settled in another currency or at another amount.",
        examples=[None],
    )
    charge_deposit_id: UUID | None = Field(
        description="The deposit of which this was taken (or came back) and that our books cannot "
        "follow: book the line as capital, and charge the client by `POST /v1/client-charges`, "
        "unless `GET /v1/client-charges` says that it was charged.",
        examples=[None],
    )
    charge_dispute_id: UUID | None = Field(
        description="The dispute, when it was taken by one.", examples=[None]
    )
    may_be_booked_as: list[BookedAs] = Field(
        description="Empty when the two books contradict each other (an engineer looks), and while "
        "the line waits for a row of ours.",
        examples=[["stripe_fee", "capital"]],
    )
    waits_for: str | None = Field(
        description="The row of ours that may yet book this line: decide about that.",
        examples=[None],
    )
    line_booking_id: UUID | None = Field(
        description="What somebody said of it, while it waits for a second person.",
        examples=[None],
    )


class NewLineBooking(Body):
    booked_as: Annotated[
        BookedAs, Field(strict=False, description="One of the exception's `may_be_booked_as`.")
    ]
    reason: Reason


class LineBookingDecision(Body):
    reason: Reason


class LineBookingAnswer(Answer):
    id: UUID
    line_id: str = Field(examples=[LINE])
    booked_as: BookedAs = Field(examples=["stripe_fee"])
    currency: str
    net_minor: int = Field(examples=[-200])
    reason: str = Field(examples=["Radar for Fraud Teams, October."])
    proposed_by: UUID
    proposed_at: datetime
    state: LineBookingState = Field(examples=["proposed"])
    state_reason: str | None
    decided_by: UUID | None
    decided_at: datetime | None
    ledger_transaction_id: UUID | None
    deposit_id: UUID | None = Field(examples=[None])
