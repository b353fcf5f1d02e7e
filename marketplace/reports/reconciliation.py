"""Three books that must agree: our ledger, Stripe's lines, and what went from Stripe to a bank.

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
    "payout": "withdrawal_confirmed",
    "payout_cancel": "withdrawal_returned",
    "payout_failure": "withdrawal_returned",
    "refund": "refund_confirmed",
    "payment_refund": "refund_confirmed",
    "refund_failure": "refund_returned",
    "payment_failure_refund": "refund_returned",
    # Disputes are among them, both ways.
    "adjustment": "dispute_opened",
    "transfer_refund": "transfer_reversed",
}
# As long as an unknown outcome may take to be found out.
ON_ITS_WAY_HOURS = 24
# Banks take days.
LATE_AT_BANK_DAYS = 7
# Of the performers' own Stripe balances: nothing of it is in our books.
NOT_OURS = "bank_payout"

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

# An event of ours that is in flight at that moment may be what stands behind a line.
JUDGED = """
    WITH booked AS (
        SELECT line.id, line.net_minor, line.currency, line.ledger_transaction_id, header.booked_at,
               header.kind
        FROM booked_balance_transaction AS line
        JOIN ledger_transaction AS header ON header.id = line.ledger_transaction_id
        WHERE greatest(header.booked_at, line.booked_at) <= :as_of
    ), listed AS (
        SELECT * FROM stripe_line WHERE booked_at <= :as_of
    ), judged AS (
        SELECT coalesce(listed.id, booked.id) AS id, listed.type,
               CASE
                   WHEN listed.id IS NULL THEN 'not_at_stripe'
                   WHEN (booked.net_minor, booked.currency) <> (listed.net_minor, listed.currency)
                       THEN 'amount_differs'
                   WHEN booked.id IS NOT NULL THEN NULL
                   -- It moves nothing.
                   WHEN listed.net_minor = 0 THEN NULL
                   WHEN NOT listed.type = ANY (:known) THEN 'unknown_type'
                   WHEN NOT is_expected THEN 'no_event'
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
        LEFT JOIN LATERAL (
            SELECT CASE
                WHEN booked.id IS NOT NULL THEN true
                WHEN listed.type = 'transfer' THEN EXISTS (
                    SELECT FROM payout_attempt AS attempt
                    JOIN ledger_transaction AS sent ON sent.id = in_flight_transaction_id
                    LEFT JOIN ledger_transaction AS ended ON ended.id = conclusion_transaction_id
                    WHERE sent.booked_at <= :as_of AND (attempt.transfer_id = listed.source_id
                       OR coalesce(ended.booked_at > :as_of, true)))
                WHEN listed.type LIKE 'payout%' THEN EXISTS (
                    SELECT FROM withdrawal
                    JOIN ledger_transaction AS sent ON sent.id = sent_transaction_id
                    LEFT JOIN ledger_transaction AS ended ON ended.id = conclusion_transaction_id
                    WHERE sent.booked_at <= :as_of AND (
                        withdrawal.stripe_payout_id = listed.source_id
                        OR coalesce(ended.booked_at > :as_of, true)))
                ELSE true
            END AS is_expected
        ) AS ours ON true
    )
"""
UNMATCHED = f"""
    {JUDGED}
    SELECT * FROM judged WHERE reason IS NOT NULL
    UNION ALL
    -- The third book: what has left Stripe and is not known to have come to its bank, or came back.
    SELECT stripe_payout_id, subject_type, reason, extract(epoch FROM :as_of - since)::bigint,
           -amount_minor, CASE subject_type WHEN 'withdrawal' THEN -amount_minor END, currency,
           stripe_account_id, conclusion_transaction_id, since
    FROM (
        SELECT DISTINCT ON (subject_type, subject_id) subject_type, subject_id, to_state,
               booked_at AS since
        FROM audit_event
        WHERE subject_type IN ('withdrawal', 'bank_payout') AND action = 'moved'
          AND booked_at <= :as_of
        ORDER BY subject_type, subject_id, audit_event.id DESC
    ) AS latest
    JOIN LATERAL (
        SELECT stripe_payout_id, amount_minor, currency, NULL AS stripe_account_id,
               conclusion_transaction_id, 'late_at_bank' AS reason
        FROM withdrawal
        WHERE id = subject_id AND subject_type = 'withdrawal' AND to_state = 'in_transit'
          AND since < :as_of - make_interval(days => :late_at_bank_days)
        UNION ALL
        SELECT stripe_payout_id, amount_minor, currency, stripe_account_id, NULL,
               CASE to_state WHEN 'failed' THEN 'returned_by_bank' ELSE 'late_at_bank' END
        FROM bank_payout
        WHERE id = subject_id AND subject_type = 'bank_payout' AND (
            to_state IN ('pending', 'in_transit')
            AND since < :as_of - make_interval(days => :late_at_bank_days)
            -- Until a later one of that account has arrived.
            OR to_state = 'failed' AND NOT EXISTS (
                SELECT FROM bank_payout AS later
                JOIN audit_event AS arrived ON arrived.subject_id = later.id
                WHERE later.stripe_account_id = bank_payout.stripe_account_id
                  AND later.made_at > bank_payout.made_at AND arrived.to_state = 'paid'
                  AND arrived.subject_type = 'bank_payout' AND arrived.booked_at <= :as_of)
        )
    ) AS leg ON true
    ORDER BY 10, 1
"""  # noqa: S608 - this module's words

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
        WHERE greatest(header.booked_at, line.booked_at) <= :as_of
        UNION ALL
        SELECT currency, 0, 0, net_minor FROM stripe_line WHERE booked_at <= :as_of
    ) AS books
    GROUP BY currency ORDER BY currency
"""


async def reconciliation(session: AsyncSession, as_of: datetime) -> Report:
    """Ledger, booked lines and Stripe's lines per currency; then each line that does not match."""
    lines = await rows(
        session,
        UNMATCHED,
        as_of=as_of,
        known=list(BOOKED_BY),
        on_its_way=ON_ITS_WAY_HOURS,
        late_at_bank_days=LATE_AT_BANK_DAYS,
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


def is_reconciled(totals: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> bool:
    ours = [line for line in lines if line["type"] != NOT_OURS]
    return not ours and all(total["agree"] for total in totals)
