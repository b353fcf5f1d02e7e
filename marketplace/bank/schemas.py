from datetime import datetime
from uuid import UUID

from pydantic import Field, computed_field

from marketplace.bank.models import BankPayoutState, WithdrawalState
from marketplace.shared.money import AmountMinor, Currency
from marketplace.shared.schemas import Answer, Body, Reason

# By Stripe's codes (https://docs.stripe.com/api/payouts/failures).
REMEDIES = {
    "account_closed": "The bank account is closed: give Stripe another one.",
    "no_account": "The bank found no such account: correct its details at Stripe.",
    "could_not_process": "The bank could not process it: Stripe tries again with your next payout.",
}
LEADS_THERE = "POST /v1/payout-account leads to Stripe's page."


class NewWithdrawal(Body):
    amount_minor: AmountMinor
    currency: Currency
    reason: Reason


class WithdrawalDecision(Body):
    reason: Reason


class WithdrawalAnswer(Answer):
    id: UUID
    currency: str
    amount_minor: int = Field(examples=[50_000])
    reason: str = Field(examples=["Fees earned in October."])
    requested_by: UUID
    requested_at: datetime
    approved_by: UUID | None
    decided_by: UUID | None = Field(
        examples=[None], description="Who called an unknown outcome absent."
    )
    approved_at: datetime | None
    state: WithdrawalState = Field(examples=["arrived"])
    state_reason: str | None = Field(description="Why it is not there yet, and what to do.")
    due_at: datetime | None = Field(description="When it is looked at next.", examples=[None])
    sent_at: datetime | None
    not_found_at: datetime | None = Field(
        examples=[None],
        description="When a look-up last found no payout of it; finance may then decide.",
    )
    stripe_payout_id: str | None
    stripe_request_id: str | None
    error_code: str | None
    arrives_at: datetime | None = Field(description="The day Stripe expects it at the bank.")


class OwnBankPayoutAnswer(Answer):
    """A payout of your Stripe account to your bank."""

    id: UUID
    stripe_payout_id: str
    currency: str
    amount_minor: int
    state: BankPayoutState = Field(
        examples=["paid"],
        description="`paid` should have arrived; a bank may still send it back (`failed`).",
    )
    state_reason: str | None = Field(description="Why the bank sent it back, in Stripe's words.")
    failure_code: str | None = Field(examples=[None])
    arrives_at: datetime
    made_at: datetime

    @computed_field(  # type: ignore[prop-decorator]
        description="What to do; null while there is nothing to do.", examples=[None]
    )
    @property
    def remedy(self) -> str | None:
        match self.state:
            case BankPayoutState.FAILED:
                what = REMEDIES.get(
                    self.failure_code or "", "The bank sent it back: look at it at Stripe."
                )
                return f"It is in the Stripe balance again. {what} {LEADS_THERE}"
            case BankPayoutState.CANCELED:
                return "It is in the Stripe balance again, and goes out with the next payout."
        return None


class BankPayoutAnswer(OwnBankPayoutAnswer):
    """A payout of a performer's Stripe account to their bank."""

    performer_id: UUID
    stripe_account_id: str
    automatic: bool = Field(examples=[True])
