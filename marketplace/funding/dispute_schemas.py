from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, Strict

from marketplace.funding.dispute_models import DebtRemedy, DebtState, DisputeOutcome, DisputeState
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body, Reason


class DisputeAnswer(Answer):
    id: UUID
    stripe_dispute_id: str = Field(examples=["du_1QxAw2LkdIwHu7ixR5cT8vQp"])
    client_id: UUID
    deposit_id: UUID
    amount_minor: int = Field(examples=[100_000])
    currency: str = Field(examples=["USD"])
    reason: str = Field(description="The bank's, in Stripe's words.", examples=["fraudulent"])
    opened_at: datetime
    answer_by: datetime | None = Field(description="Hand evidence in at Stripe by then.")
    state: DisputeState = Field(examples=["open"])
    state_reason: str | None
    due_at: datetime | None = Field(description="When it is looked at next.")
    outcome: DisputeOutcome | None = Field(
        description="How it has ended at Stripe. What our books cannot follow then stays open until "
        "finance charges the client for it, or nothing.",
        examples=[None],
    )
    withdrawn_minor: int | None = Field(
        description="What Stripe took; null until it has.", examples=[100_000]
    )
    fee_minor: int | None = Field(description="Stripe's fee for it.", examples=[1_500])
    held_minor: int | None = Field(
        description="How much of it the wallet had; set aside until it is decided.",
        examples=[60_000],
    )
    fee_returned_minor: int | None = Field(
        description="Of a won one: how much of the fee came back.", examples=[None]
    )
    from_reserves_minor: int | None = Field(
        description="Of a lost one: how much open roles gave up. The rest the client owes.",
        examples=[None],
    )


class ClientDebt(Answer):
    client_id: UUID
    currency: str = Field(examples=["USD"])
    owed_minor: int = Field(examples=[27_235])
    since: datetime
    wallet_minor: int = Field(description="What it could be settled out of.", examples=[10_000])


class NewDebtDecision(Body):
    remedy: Annotated[DebtRemedy, Strict(strict=False)] = Field(examples=["write_off"])
    amount_minor: AmountMinor
    currency: Currency
    reason: Reason


class SecondWord(Body):
    confirm: bool
    reason: Reason


class DebtDecisionAnswer(Answer):
    id: UUID
    client_id: UUID
    remedy: DebtRemedy = Field(examples=["write_off"])
    amount_minor: int = Field(examples=[27_235])
    currency: str = Field(examples=["USD"])
    reason: str = Field(examples=["The client is insolvent."])
    state: DebtState
    state_reason: str | None
    proposed_by: UUID
    proposed_at: datetime
    decided_by: UUID | None
    decided_at: datetime | None
    ledger_transaction_id: UUID | None
