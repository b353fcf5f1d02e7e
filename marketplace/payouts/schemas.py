from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, Strict

from marketplace.payouts.models import (
    AttemptOutcome,
    ExclusionReason,
    PayoutState,
    ReversalCause,
    ReversalState,
    RunState,
)
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body, Reason


class NewPayoutRun(Body):
    currency: Currency


class Decision(Body):
    reason: Reason


class PayoutRunAnswer(Answer):
    id: UUID
    currency: str = Field(examples=["USD"])
    state: RunState
    state_reason: str | None
    slot_at: datetime | None = Field(description="The weekly slot; null when a person asked.")
    cut_off_at: datetime
    prepared_by: UUID | None = Field(description="Null when the scheduler prepared it.")
    approved_by: UUID | None
    approved_at: datetime | None
    edited_by: list[UUID] = Field(
        description="Who released or held a payout of it since its last approval; "
        "none of them approves what is left."
    )
    payouts: int = Field(examples=[3])
    amount_minor: int = Field(examples=[13_978])
    paid_minor: int = Field(examples=[0], description="Less what came back.")
    reversed_minor: int = Field(examples=[0], description="What was paid and came back.")
    excluded: int = Field(examples=[1])
    excluded_minor: int = Field(examples=[1_233])
    done: bool = Field(
        description="Nothing is on its way any more: each payout is paid, refused, released or reversed."
    )


class PayoutRunSummary(Answer):
    id: UUID
    currency: str
    state: RunState
    slot_at: datetime | None
    cut_off_at: datetime
    prepared_by: UUID | None
    approved_by: UUID | None


class AttemptAnswer(Answer):
    number: int
    idempotency_key: str
    request: dict[str, Any]
    committed_at: datetime
    outcome: AttemptOutcome | None
    concluded_at: datetime | None
    transfer_id: str | None
    not_found_at: datetime | None = Field(
        examples=[None],
        description="When a look-up last found no transfer of it; finance may then decide.",
    )
    error_code: str | None
    error_message: str | None
    stripe_request_id: str | None


class PayoutAnswer(Answer):
    id: UUID
    run_id: UUID
    performer_id: UUID
    currency: str
    amount_minor: int
    destination: str
    state: PayoutState = Field(examples=["paid"])
    state_reason: str | None = Field(description="Why it is not paid yet, and what to do.")
    due_at: datetime | None = Field(description="When it is looked at next.", examples=[None])
    transfer_id: str | None
    approved_again_by: UUID | None = Field(
        description="Who let it be tried again after it was held or refused.", examples=[None]
    )


class PayoutDetail(PayoutAnswer):
    attempts: list[AttemptAnswer]


class ExclusionAnswer(Answer):
    performer_id: UUID
    amount_minor: int = Field(examples=[1_233])
    reason: ExclusionReason = Field(examples=["account_not_active"])
    remedy: str
    next_run_at: datetime


class NewReversal(Body):
    amount_minor: AmountMinor
    cause: Annotated[ReversalCause, Strict(strict=False)] = Field(examples=["wrong_destination"])
    reason: Reason


class ReversalExplanation(Body):
    cause: Annotated[ReversalCause, Strict(strict=False)] = Field(examples=["wrong_destination"])
    reason: Reason


class ReversalAnswer(Answer):
    id: UUID
    payout_id: UUID
    transfer_id: str
    currency: str
    amount_minor: int
    cause: ReversalCause | None = Field(
        examples=["wrong_destination"],
        description="Null while nobody has said what Stripe reversed without us.",
    )
    reason: str | None = Field(examples=["The account is her sister's, as she wrote us."])
    state: ReversalState = Field(examples=["reversed"])
    state_reason: str | None
    asked_by: UUID | None
    asked_at: datetime | None
    decided_by: UUID | None
    decided_at: datetime | None
    due_at: datetime | None = Field(description="When it is looked at next.", examples=[None])
    idempotency_key: str | None = Field(examples=["reversal-01a2086e-1062-71bf-bf59-ec8fafc2dc31"])
    committed_at: datetime | None
    reversal_id: str | None = Field(examples=["trr_1QxB0yLkdIwHu7ixK2mVq"])
    balance_transaction_id: str | None = Field(examples=["txn_1QxB0yLkdIwHu7ixZ8sTq"])
    not_found_at: datetime | None = Field(
        examples=[None], description="When a look-up last did not find it; finance may then decide."
    )
    error_code: str | None
    error_message: str | None
    ledger_transaction_id: UUID | None
    concluded_at: datetime | None
