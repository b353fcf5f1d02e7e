"""Three books that must agree: our ledger, Stripe's lines, and what Stripe's balance says.

What does not match is listed by reason and age; a line of a type that we know no booking for goes
to finance, never to the floor.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reports.tables import Report
from marketplace.shared.database import rows

# Stripe's types and what books them here. Any other is a matter for finance.
BOOKED_BY = {
    "charge": "deposit_credited",
    "payment": "deposit_credited",
    "topup": "topup_succeeded",
    "transfer": "transfer_confirmed",
    "transfer_refund": "transfer_reversed",
    "payout": "withdrawal_confirmed",
    "payout_cancel": "withdrawal_returned",
    "payout_failure": "withdrawal_returned",
    "refund": "refund_confirmed",
    "payment_refund": "refund_confirmed",
    "refund_failure": "refund_returned",
    "payment_failure_refund": "refund_returned",
}
# As long as an unknown outcome may take to be found out.
ON_ITS_WAY_HOURS = 24

COLUMNS = (
    "id",
    "type",
    "reason",
    "age_seconds",
    "stripe_net_minor",
    "booked_net_minor",
    "currency",
    "source_id",
    "ledger_transaction_id",
    "created_at",
)

UNMATCHED = """
    WITH booked AS (
        SELECT line.id, line.net_minor, line.currency, line.ledger_transaction_id, header.booked_at,
               header.kind
        FROM booked_balance_transaction AS line
        JOIN ledger_transaction AS header ON header.id = line.ledger_transaction_id
        WHERE header.booked_at <= :as_of
    ), listed AS (
        SELECT * FROM stripe_line WHERE booked_at <= :as_of
    ), judged AS (
        SELECT coalesce(listed.id, booked.id) AS id, listed.type,
               CASE
                   WHEN listed.id IS NULL THEN 'not_at_stripe'
                   WHEN booked.id IS NOT NULL AND booked.net_minor <> listed.net_minor
                       THEN 'amount_differs'
                   WHEN booked.id IS NOT NULL THEN NULL
                   WHEN NOT listed.type = ANY (:known) THEN 'unknown_type'
                   WHEN listed.created_at < :as_of - make_interval(hours => :on_its_way) THEN 'not_booked'
                   ELSE 'on_its_way'
               END AS reason,
               extract(epoch FROM :as_of - coalesce(listed.created_at, booked.booked_at))::bigint
                   AS age_seconds,
               listed.net_minor AS stripe_net_minor, booked.net_minor AS booked_net_minor,
               coalesce(listed.currency, booked.currency) AS currency, listed.source_id,
               booked.ledger_transaction_id,
               coalesce(listed.created_at, booked.booked_at) AS created_at
        FROM listed FULL JOIN booked ON booked.id = listed.id
    )
    SELECT * FROM judged WHERE reason IS NOT NULL ORDER BY created_at, id
"""

TOTALS = """
    SELECT currency, sum(ledger)::bigint AS ledger_minor, sum(booked)::bigint AS booked_minor,
           sum(listed)::bigint AS listed_minor
    FROM (
        SELECT account.currency, entry.amount_minor AS ledger, 0 AS booked, 0 AS listed
        FROM ledger_entry AS entry
        JOIN account ON account.id = entry.account_id
        JOIN ledger_transaction AS header ON header.id = entry.transaction_id
        WHERE account.kind IN ('stripe_pending', 'stripe_available') AND header.booked_at <= :as_of
        UNION ALL
        SELECT line.currency, 0, line.net_minor, 0
        FROM booked_balance_transaction AS line
        JOIN ledger_transaction AS header ON header.id = line.ledger_transaction_id
        WHERE header.booked_at <= :as_of
        UNION ALL
        SELECT currency, 0, 0, net_minor FROM stripe_line WHERE booked_at <= :as_of
    ) AS books
    GROUP BY currency ORDER BY currency
"""


async def reconciliation(session: AsyncSession, as_of: datetime) -> Report:
    """Ledger, booked lines and Stripe's lines per currency; then each line that does not match."""
    lines = await rows(
        session, UNMATCHED, as_of=as_of, known=list(BOOKED_BY), on_its_way=ON_ITS_WAY_HOURS
    )
    totals = [
        {**total, "agree": total["ledger_minor"] == total["booked_minor"] == total["listed_minor"]}
        for total in await rows(session, TOTALS, as_of=as_of)
    ]
    heading = {"totals": totals, "reconciled": is_reconciled(totals, lines)}
    return Report(
        as_of=as_of,
        columns=COLUMNS,
        lines=lines,
        heading=heading,
        name="reconciliation",
        lines_name="unmatched",
    )


def is_reconciled(totals: Sequence[Mapping[str, Any]], lines: Sequence[object]) -> bool:
    return not lines and all(total["agree"] for total in totals)
