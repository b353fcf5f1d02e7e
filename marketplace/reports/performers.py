"""One performer's account with us: every earning, at which rate, and what became of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import PAID_STATES
from marketplace.reports.finance import ReportDoesNotAddUp
from marketplace.reports.past import PAYOUT_THEN
from marketplace.reports.tables import Report
from marketplace.shared.database import row, rows
from marketplace.shared.problems import NotFound

COLUMNS = (
    "ledger_entry_id",
    "kind",
    "source_id",
    "rate_id",
    "seconds",
    "hours",
    "rate_minor_per_hour",
    "gross_minor",
    "adjustments_minor",
    "net_minor",
    "currency",
    "booked_at",
    "status",
    "status_reason",
    "payout_id",
    "transfer_id",
)

# Everything in the payable but its transfers: earnings, what was changed of them later, and what
# came back from a transfer and is owed again.
LINES = f"""
    SELECT entry.id AS ledger_entry_id, booked.kind,
           coalesce(decision.claim_id, booked.source_id) AS source_id,
           coalesce(decision.rate_id, audition.rate_id) AS rate_id,
           coalesce(decision.seconds, audition.paid_seconds) AS seconds,
           round(coalesce(decision.seconds, audition.paid_seconds) / 3600.0, 4)::text AS hours,
           coalesce(decision.rate_minor_per_hour, audition.rate_minor_per_hour)
               AS rate_minor_per_hour,
           coalesce(decision.pay_minor, audition.pay_minor, 0) AS gross_minor,
           -entry.amount_minor - coalesce(decision.pay_minor, audition.pay_minor, 0)
               AS adjustments_minor,
           -entry.amount_minor AS net_minor, account.currency, booked.booked_at,
           coalesce(paying.state, 'waiting') AS status, paying.reason AS status_reason,
           paying.payout_id, CASE WHEN paying.is_at_stripe THEN paying.transfer_id END AS transfer_id
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN ledger_transaction AS booked ON booked.id = entry.transaction_id
    LEFT JOIN pay_decision AS decision
        ON booked.kind = 'claim_paid' AND decision.id = booked.source_id
    LEFT JOIN audition ON booked.kind = 'audition_paid' AND audition.id = booked.source_id
    LEFT JOIN LATERAL (
        -- The payout it stood in at that moment, by that payout's own moves.
        SELECT payout.id AS payout_id, payout_then.*, payout.transfer_id,
               payout_then.state IN ('paid', 'partly_reversed', 'reversed') AS is_at_stripe
        FROM payout_line AS line
        JOIN payout ON payout.id = line.payout_id
        {PAYOUT_THEN}
        WHERE line.ledger_entry_id = entry.id AND payout_then.state <> 'released'
        ORDER BY line.id DESC LIMIT 1
    ) AS paying ON true
    WHERE account.kind = 'performer_payable' AND account.owner_id = :performer
      AND booked.kind NOT IN ('transfer_sent', 'transfer_refused') AND booked.booked_at <= :as_of
    ORDER BY booked.booked_at, entry.id
"""  # noqa: S608 - this package's words

# What the ledger says by itself: owed now, earned, come back, and confirmed by Stripe.
LEDGER = """
    SELECT account.currency,
           coalesce(-sum(entry.amount_minor), 0)::bigint AS owed_minor,
           coalesce(-sum(entry.amount_minor) FILTER (
               WHERE booked.kind IN ('claim_paid', 'audition_paid')), 0)::bigint AS earned_minor,
           coalesce(-sum(entry.amount_minor) FILTER (
               WHERE booked.kind = 'transfer_reversed'), 0)::bigint AS came_back_minor,
           coalesce(sum(entry.amount_minor) FILTER (WHERE booked.kind = 'transfer_sent'
               AND EXISTS (
                   SELECT FROM ledger_transaction AS confirmed
                   WHERE confirmed.kind = 'transfer_confirmed'
                     AND confirmed.source_id = booked.source_id
                     AND confirmed.booked_at <= :as_of)), 0)::bigint AS paid_minor
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN ledger_transaction AS booked ON booked.id = entry.transaction_id
    WHERE account.kind = 'performer_payable' AND account.owner_id = :performer
      AND booked.booked_at <= :as_of
    GROUP BY account.currency ORDER BY account.currency
"""
SUMMED = ("seconds", "gross_minor", "adjustments_minor", "net_minor")


async def performer_report(session: AsyncSession, performer_id: UUID, as_of: datetime) -> Report:
    """Hours, rate, gross, adjustments, net, and where each stands; it adds up to the ledger."""
    found = await row(
        session, "SELECT person_id FROM performer WHERE person_id = :id", id=performer_id
    )
    if found is None:
        raise NotFound
    lines = await rows(session, LINES, performer=performer_id, as_of=as_of)
    booked = await rows(session, LEDGER, performer=performer_id, as_of=as_of)
    totals = [_total(lines, each) for each in booked]
    return Report(
        as_of=as_of,
        columns=COLUMNS,
        lines=lines,
        heading={"performer_id": performer_id, "totals": totals},
        name=f"performer-{performer_id}",
    )


def _total(lines: Sequence[Mapping[str, Any]], booked: Mapping[str, Any]) -> dict[str, Any]:
    currency = booked["currency"]
    own = [line for line in lines if line["currency"] == currency]
    total = {name: sum(line[name] or 0 for line in own) for name in SUMMED}
    paid = sum(line["net_minor"] for line in own if line["status"] in PAID_STATES)
    for report_minor, ledger_minor in (
        # What was decided is what was booked; what the payouts call paid is what was confirmed.
        (total["gross_minor"], booked["earned_minor"]),
        (paid, booked["paid_minor"]),
    ):
        if report_minor != ledger_minor:
            raise ReportDoesNotAddUp(
                currency=currency, report_minor=report_minor, ledger_minor=ledger_minor
            )
    return {
        "currency": currency,
        **total,
        "paid_minor": paid,
        "came_back_minor": booked["came_back_minor"],
        "owed_minor": booked["owed_minor"],
    }
