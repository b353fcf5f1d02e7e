"""What the reports of finance are made of. They are written as bytes by `tables`, not from these:
the tests hold the bytes to them.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from marketplace.ledger.models import AccountKind, TransactionKind
from marketplace.payouts.models import ExclusionReason, PayoutState, ReversalCause
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
    net_minor: int = Field(description="Without what was released.")
    released_minor: int = Field(description="Given up here; it is in a later run.", examples=[0])
    paid_minor: int = Field(description="Less what came back.")
    reversed_minor: int = Field(description="What was paid and came back.", examples=[0])


class ReportedReversal(Exact):
    payout_id: UUID
    performer_id: UUID
    amount_minor: int
    currency: str
    cause: ReversalCause = Field(examples=["wrong_destination"])
    reason: str = Field(examples=["The account is her sister's, as she wrote us."])
    reversal_id: str = Field(examples=["trr_1QxB0yLkdIwHu7ixK2mVq"])
    reversed_at: datetime


class ReportedExclusion(Exact):
    performer_id: UUID
    amount_minor: int = Field(examples=[1_233])
    reason: ExclusionReason = Field(examples=["account_not_active"])
    remedy: str
    next_run_at: datetime


class PayoutReportLine(Exact):
    """One paid claim or audition: seconds × rate = gross. What came back and is paid again, and what
    was corrected, has no seconds: it is an adjustment, negative if it was taken off.
    """

    payout_id: UUID
    performer_id: UUID
    claim_id: UUID | None
    audition_id: UUID | None = Field(examples=[None])
    reversal_id: UUID | None = Field(
        description="Of what came back earlier and is owed again.", examples=[None]
    )
    correction_id: UUID | None = Field(
        description="Of what was corrected, adjusted or netted.", examples=[None]
    )
    rate_id: UUID | None
    seconds: int
    rate_minor_per_hour: int | None
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
    reversals: list[ReportedReversal]
    lines: list[PayoutReportLine]


class PerformerTotal(Exact):
    """`net_minor` = owed + sent, and `paid_minor` what Stripe confirmed: both by the ledger.

    What came back from a transfer is owed, and so counted, once more: earned = net - came back.
    """

    currency: str
    seconds: int
    gross_minor: int
    adjustments_minor: int
    net_minor: int
    paid_minor: int
    came_back_minor: int = Field(examples=[123])
    owed_minor: int = Field(examples=[0])


class PerformerReportLine(Exact):
    """One earning, or what was changed of it later."""

    ledger_entry_id: UUID
    kind: TransactionKind = Field(examples=["claim_paid"])
    source_id: UUID = Field(description="The claim or audition, or the correction.")
    rate_id: UUID | None
    seconds: int | None
    hours: str | None = Field(description="Rounded for reading", examples=["1.0278"])
    rate_minor_per_hour: int | None
    gross_minor: int
    adjustments_minor: int
    net_minor: int
    currency: str
    booked_at: datetime
    status: str = Field(description="`waiting`, or its payout's state", examples=["paid"])
    status_reason: str | None
    payout_id: UUID | None
    transfer_id: str | None


class PerformerReport(Exact):
    as_of: datetime
    performer_id: UUID
    totals: list[PerformerTotal]
    lines: list[PerformerReportLine]


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


class BooksTotal(Exact):
    """One currency in three books, minor units."""

    currency: str
    ledger_minor: int = Field(description="Our Stripe accounts", examples=[596_947])
    booked_minor: int = Field(description="Stripe's lines that we booked", examples=[596_947])
    listed_minor: int = Field(description="Stripe's lines, all of them", examples=[596_747])
    agree: bool = Field(examples=[False])


class UnmatchedLine(Exact):
    """A line of Stripe's, or of ours, that the other side does not have so."""

    id: str = Field(examples=["txn_3QxAw2LkdIwHu7ix0jVqB5tD"])
    type: str | None = Field(
        description="Stripe's type; `withdrawal` and `bank_payout` are legs to a bank",
        examples=["stripe_fee"],
    )
    reason: Literal[
        "on_its_way",
        "not_booked",
        "no_event",
        "unknown_type",
        "amount_differs",
        "not_at_stripe",
        "late_at_bank",
        "returned_by_bank",
    ] = Field(examples=["unknown_type"])
    age_seconds: int = Field(examples=[5_400])
    stripe_net_minor: int | None = Field(examples=[-200])
    booked_net_minor: int | None = Field(examples=[None])
    currency: str
    source_id: str | None = Field(examples=[None])
    ledger_transaction_id: UUID | None = Field(examples=[None])
    created_at: datetime


class Reconciliation(Exact):
    as_of: datetime
    totals: list[BooksTotal]
    reconciled: bool = Field(examples=[False])
    unmatched: list[UnmatchedLine]


class AgeBucket(Exact):
    from_days: int = Field(examples=[7])
    to_days: int | None = Field(description="Not in it; null is open", examples=[14])
    amount_minor: int = Field(examples=[1_233])


class AgeingTotal(Exact):
    currency: str
    amount_minor: int = Field(examples=[1_233])
    alarm_minor: int = Field(examples=[0])
    buckets: list[AgeBucket]


class OwedLine(Exact):
    performer_id: UUID
    ledger_entry_id: UUID
    source_type: Literal["claim", "audition", "reversal", "correction"]
    source_id: UUID
    amount_minor: int = Field(examples=[1_233])
    currency: str
    earned_at: datetime
    age_days: int = Field(examples=[3])
    alarm: bool = Field(examples=[False])
    reason: str = Field(examples=["no_account"])
    payout_id: UUID | None = Field(examples=[None])


class ReceivableLine(Exact):
    """Minor units; negative is a debt that was paid before it was found."""

    performer_id: UUID
    currency: str
    amount_minor: int = Field(examples=[1_233])
    since: datetime


class Liabilities(Exact):
    """The lines of each currency make the ledger's payables."""

    as_of: datetime
    alarm_days: int = Field(examples=[25])
    totals: list[AgeingTotal]
    receivables: list[ReceivableLine]
    lines: list[OwedLine]


class RolledLine(Exact):
    performer_id: UUID
    currency: str
    opening_minor: int = Field(examples=[0])
    earned_minor: int = Field(examples=[1_356])
    sent_minor: int = Field(examples=[123])
    returned_minor: int = Field(examples=[0])
    adjusted_minor: int = Field(examples=[0])
    closing_minor: int = Field(examples=[1_233])


class RolledTotal(Exact):
    currency: str
    opening_minor: int = Field(examples=[0])
    earned_minor: int = Field(examples=[1_356])
    sent_minor: int = Field(examples=[123])
    returned_minor: int = Field(examples=[0])
    adjusted_minor: int = Field(examples=[0])
    closing_minor: int = Field(examples=[1_233])


class RollForward(Exact):
    """opening + earned - sent + returned ± adjusted = closing."""

    as_of: datetime
    since: datetime
    totals: list[RolledTotal]
    lines: list[RolledLine]


class PersonOfFinance(Exact):
    """May prepare a run and approve another one; the database keeps the two apart in each run."""

    person_id: UUID
    roles: list[str] = Field(examples=[["finance", "operator"]])
    client_id: UUID | None = Field(description="Whom they act for, too.", examples=[None])
    conflicts: list[Literal["is_paid", "grants_roles", "decides_pay", "acts_for_a_client"]] = Field(
        examples=[["grants_roles"]]
    )


class Deed(Exact):
    run_id: UUID | None = Field(description="Null for a payout account.")
    subject_type: Literal["payout_run", "payout", "transfer_reversal", "payout_account"] = Field(
        examples=["payout_run"]
    )
    subject_id: UUID
    deed: str = Field(
        description="The state it was brought to; `account_retired` of a payout account.",
        examples=["approved"],
    )
    actor: str = Field(examples=["01a2086e-1062-71bf-bf59-ec8fafc2dc31"])
    reason: str | None = Field(examples=[None])
    done_at: datetime


class Duties(Exact):
    """People hold the roles they hold now; deeds are as of the moment."""

    as_of: datetime
    people: list[PersonOfFinance]
    deeds: list[Deed]


class FeesTotal(Exact):
    currency: str
    income_minor: int = Field(examples=[1_141])
    cost_minor: int = Field(examples=[2_930])


class FeesLine(Exact):
    side: Literal["income", "cost"]
    kind: TransactionKind = Field(examples=["claim_paid"])
    client_id: UUID | None
    currency: str
    transactions: int = Field(examples=[1])
    amount_minor: int = Field(examples=[1_141])


class Fees(Exact):
    as_of: datetime
    since: datetime
    totals: list[FeesTotal]
    lines: list[FeesLine]
