"""Every table of the product, gathered for migrations and reports."""

from typing import Any

from sqlmodel import SQLModel

from marketplace.accounts import models as accounts
from marketplace.bank import models as bank
from marketplace.claims import models as claims
from marketplace.consents import models as consents
from marketplace.corrections import models as corrections
from marketplace.deliveries import models as deliveries
from marketplace.exceptions import charge_models as charges
from marketplace.exceptions import models as exceptions
from marketplace.funding import dispute_models as disputes
from marketplace.funding import models as funding
from marketplace.funding import refund_models as refunds
from marketplace.jobs import models as jobs
from marketplace.ledger import models as ledger
from marketplace.payouts import models as payouts
from marketplace.performers import models as performers
from marketplace.periods import models as periods
from marketplace.rates import models as rates
from marketplace.reconciliation import models as reconciliation
from marketplace.recordings import models as recordings
from marketplace.reviews import models as reviews
from marketplace.seals import models as seals
from marketplace.shared import audit, clock, idempotency, states, sweeps
from marketplace.shared.states import Moves
from marketplace.stripe_api import models as stripe_api
from marketplace.webhooks import models as webhooks

metadata = SQLModel.metadata

MODULES = (
    accounts,
    bank,
    charges,
    claims,
    consents,
    corrections,
    deliveries,
    exceptions,
    disputes,
    funding,
    jobs,
    ledger,
    payouts,
    performers,
    periods,
    rates,
    reconciliation,
    recordings,
    refunds,
    reviews,
    seals,
    audit,
    clock,
    idempotency,
    states,
    sweeps,
    stripe_api,
    webhooks,
)

# Table -> its states and moves; the database holds the same in `allowed_move`.
MOVES: dict[str, Moves[Any]] = {
    "accounting_period": periods.PERIOD_MOVES,
    "audition": performers.AUDITION_MOVES,
    "bank_payout": bank.BANK_PAYOUT_MOVES,
    "claim": claims.CLAIM_MOVES,
    "client_charge": charges.CHARGE_MOVES,
    "client_debt_decision": disputes.DEBT_MOVES,
    "correction": corrections.CORRECTION_MOVES,
    "deposit": funding.DEPOSIT_MOVES,
    "dispute": disputes.DISPUTE_MOVES,
    "job": jobs.JOB_MOVES,
    "line_booking": exceptions.LINE_BOOKING_MOVES,
    "payout": payouts.PAYOUT_MOVES,
    "payout_run": payouts.RUN_MOVES,
    "performer": performers.PERFORMER_MOVES,
    "recording": recordings.RECORDING_MOVES,
    "refund": refunds.REFUND_MOVES,
    "role": jobs.ROLE_MOVES,
    "submission": reviews.SUBMISSION_MOVES,
    "topup": funding.TOPUP_MOVES,
    "withdrawal": bank.WITHDRAWAL_MOVES,
    "transfer_reversal": payouts.REVERSAL_MOVES,
    "withholding": claims.WITHHOLDING_MOVES,
}
