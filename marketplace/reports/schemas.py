"""What the reports of finance are made of. They are written as bytes by `tables`, not from these:
the tests hold the bytes to them.
"""

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict, Field

from marketplace.ledger.models import AccountKind
from marketplace.payouts.models import ExclusionReason, PayoutState
from marketplace.rates.schemas import RateStatus
from marketplace.shared.schemas import Answer


class Exact(Answer):
    model_config = ConfigDict(extra="forbid")


class ReportedRun(Exact):
    id: UUID
    currency: str
    slot_at: datetime | None = Field(description="The weekly slot; null when a person asked.")
    cut_off_at: datetime
    prepared_by: UUID | None = Field(description="Null when the scheduler prepared it.")
    approved_by: UUID | None


class RunTotals(Exact):
    seconds: int
    gross_minor: int
    adjustments_minor: int
    net_minor: int
    paid_minor: int


class ReportedExclusion(Exact):
    performer_id: UUID
    amount_minor: int = Field(examples=[1_233])
    reason: ExclusionReason = Field(examples=["account_not_active"])
    remedy: str
    next_run_at: datetime


class PayoutReportLine(Exact):
    """One paid claim or audition: seconds × rate = gross."""

    payout_id: UUID
    performer_id: UUID
    claim_id: UUID | None
    audition_id: UUID | None = Field(examples=[None])
    rate_id: UUID
    seconds: int
    rate_minor_per_hour: int
    gross_minor: int
    adjustments_minor: int
    net_minor: int
    currency: str
    status: PayoutState = Field(examples=["paid"])
    status_reason: str | None
    transfer_id: str | None


class PayoutReport(Exact):
    """Money in minor units. `paid_minor` equals what the ledger says left Stripe's balance."""

    as_of: datetime
    run: ReportedRun
    totals: RunTotals
    exclusions: list[ReportedExclusion]
    lines: list[PayoutReportLine]


class RateReportLine(Exact):
    lineage_id: UUID
    client_id: UUID | None = Field(description="Null for the platform's own auditions.")
    elicitation: str
    languages: str = Field(description="Joined by commas.", examples=["en-US"])
    role_profile: str
    currency: str
    number: int
    rate_minor_per_hour: int
    previous_rate_minor_per_hour: int | None = Field(
        description="What it follows in order of effect; null for the first."
    )
    announced_at: datetime
    effective_from: datetime
    status: RateStatus = Field(examples=["in_force"])
    reason: str = Field(examples=["Agreed with the performers on the call of 3 November."])
    announced_by: UUID


class RateReport(Exact):
    as_of: datetime
    lines: list[RateReportLine]


class CurrencySum(Exact):
    currency: str
    sum_minor: int = Field(description="All accounts together: zero.", examples=[0])


class AccountLine(Exact):
    """Minor units; balance = debits - credits."""

    kind: AccountKind = Field(examples=["client_wallet"])
    currency: str
    debits_minor: int = Field(examples=[38_295])
    credits_minor: int = Field(examples=[100_000])
    balance_minor: int = Field(examples=[-61_705])


class TrialBalance(Exact):
    as_of: datetime
    totals: list[CurrencySum]
    accounts: list[AccountLine]
