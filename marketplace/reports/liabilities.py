"""What performers are owed: how old it is and why, and how it came to be; each checked against the
ledger before it is handed out.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger.models import AccountKind
from marketplace.ledger.standing import STANDING
from marketplace.reports.checks.entries import SAID
from marketplace.reports.finance import ReportDoesNotAddUp
from marketplace.reports.past import PAYOUT_THEN
from marketplace.reports.tables import Report
from marketplace.shared.database import rows

# Several jurisdictions ask that work be paid within a month; before that somebody must know.
ALARM_DAYS = 25
# Upper ends of the age buckets, in days; the last is open.
BUCKETS = (7, 14, ALARM_DAYS)

AGEING_COLUMNS = (
    "performer_id",
    "ledger_entry_id",
    "source_type",
    "source_id",
    "amount_minor",
    "currency",
    "earned_at",
    "age_days",
    "alarm",
    "reason",
    "payout_id",
)

# An earning is owed until a transfer of it is on its way; one that was refused is owed again.
AGEING = f"""
    WITH excluded AS (
        SELECT DISTINCT ON (exclusion.performer_id, run.currency)
               exclusion.performer_id, run.currency, exclusion.reason, run.cut_off_at
        FROM payout_exclusion AS exclusion
        JOIN payout_run AS run ON run.id = exclusion.run_id
        JOIN LATERAL (
            SELECT to_state AS state FROM audit_event
            WHERE subject_type = 'payout_run' AND subject_id = run.id AND action = 'moved'
              AND booked_at <= :as_of
            ORDER BY id DESC LIMIT 1
        ) AS run_then ON run_then.state <> 'discarded'
        ORDER BY exclusion.performer_id, run.currency, run.cut_off_at DESC, run.id DESC
    )
    SELECT account.owner_id AS performer_id, entry.id AS ledger_entry_id,
           CASE earning.kind WHEN 'claim_paid' THEN 'claim' WHEN 'audition_paid' THEN 'audition'
               WHEN 'transfer_reversed' THEN 'reversal' ELSE 'correction' END AS source_type,
           coalesce(decision.claim_id, earning.source_id) AS source_id,
           -entry.amount_minor AS amount_minor, account.currency, earned_at,
           floor(extract(epoch FROM :as_of - earned_at) / 86400)::bigint AS age_days,
           earned_at <= :as_of - make_interval(hours => 24 * :alarm_days) AS alarm,
           CASE
               WHEN paying.id IS NOT NULL
                   THEN 'payout_' || paying.state || coalesce(': ' || paying.reason, '')
               WHEN excluded.cut_off_at >= earning.booked_at THEN excluded.reason
               ELSE 'waits_for_next_run'
           END AS reason,
           paying.id AS payout_id
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
    LEFT JOIN pay_decision AS decision ON decision.id = earning.source_id
    LEFT JOIN transfer_reversal AS reversal ON reversal.id = earning.source_id
    JOIN LATERAL (
        -- What came back is as old as what it paid.
        SELECT coalesce(min(first.booked_at), earning.booked_at) AS earned_at
        FROM payout_line AS line
        JOIN ledger_entry AS paid ON paid.id = line.ledger_entry_id
        JOIN ledger_transaction AS first ON first.id = paid.transaction_id
        WHERE line.payout_id = reversal.payout_id
    ) AS age ON true
    LEFT JOIN LATERAL (
        SELECT payout.id, payout_then.*
        FROM payout_line AS line
        JOIN payout ON payout.id = line.payout_id
        {PAYOUT_THEN}
        WHERE line.ledger_entry_id = entry.id AND payout_then.state <> 'released'
        ORDER BY line.id DESC LIMIT 1
    ) AS paying ON true
    LEFT JOIN excluded
        ON excluded.performer_id = account.owner_id AND excluded.currency = account.currency
    WHERE account.kind = 'performer_payable'
      AND is_earning(earning.kind)
      AND earning.booked_at <= :as_of
      AND coalesce(paying.state, 'none')
          NOT IN ('sending', 'unknown', 'paid', 'partly_reversed', 'reversed')
    ORDER BY earned_at, entry.id
"""  # noqa: S608 - this package's words

# What performers owe: overpaid and found, not yet taken off or given up. Negative is a debt that was
# paid before it was found.
RECEIVABLES = f"""
    WITH {STANDING}
    SELECT owner_id AS performer_id, currency, amount_minor, since
    FROM standing
    ORDER BY currency, owner_id
"""  # noqa: S608 - the ledger's words

# What the events' own rows say must be booked, of an account that the ledger is compared with.
PAYABLE_SAID = f"""
    WITH {SAID}
    SELECT said.currency, -sum(minor)::bigint AS minor
    FROM said JOIN ledger_transaction AS header USING (kind, source_id)
    WHERE account = 'performer_payable' AND booked_at <= :as_of
    GROUP BY said.currency
"""  # noqa: S608 - this package's words

PAYABLE = """
    SELECT account.currency, coalesce(-sum(amount_minor), 0)::bigint AS minor
    FROM account
    JOIN ledger_entry ON account_id = account.id
    JOIN ledger_transaction AS header ON header.id = transaction_id
    WHERE account.kind = 'performer_payable' AND header.booked_at <= :as_of
    GROUP BY account.currency
"""


async def ageing(session: AsyncSession, as_of: datetime) -> Report:
    """Every earning that is not on its way yet: its age, and why; an alarm from day 25 on. What was
    netted stands against it.
    """
    lines = await rows(session, AGEING, as_of=as_of, alarm_days=ALARM_DAYS)
    owed = {line["currency"]: line["minor"] for line in await rows(session, PAYABLE, as_of=as_of)}
    _compare(owed, lines, "amount_minor")
    totals = [
        {
            "currency": currency,
            "amount_minor": minor,
            "alarm_minor": _sum(lines, currency, lambda line: line["alarm"]),
            "buckets": _buckets(lines, currency),
        }
        for currency, minor in sorted(owed.items())
    ]
    return Report(
        as_of=as_of,
        columns=AGEING_COLUMNS,
        lines=lines,
        heading={
            "alarm_days": ALARM_DAYS,
            "totals": totals,
            "receivables": await rows(
                session,
                RECEIVABLES,
                kind=AccountKind.PERFORMER_RECEIVABLE.value,
                as_of=as_of,
            ),
        },
        name="liabilities-ageing",
    )


def _buckets(lines: Sequence[Mapping[str, Any]], currency: str) -> list[dict[str, Any]]:
    found = []
    for least, most in zip((0, *BUCKETS), (*BUCKETS, None), strict=True):
        amount = _sum(
            lines,
            currency,
            lambda line, least=least, most=most: (
                least <= line["age_days"] and (most is None or line["age_days"] < most)
            ),
        )
        found.append({"from_days": least, "to_days": most, "amount_minor": amount})
    return found


def _sum(lines: Sequence[Mapping[str, Any]], currency: str, holds: Any) -> int:
    return sum(
        line["amount_minor"] for line in lines if line["currency"] == currency and holds(line)
    )


def _compare(ledger: Mapping[str, int], lines: Sequence[Mapping[str, Any]], amount: str) -> None:
    """Each currency's lines make what the other side says."""
    for currency in sorted({*ledger, *(line["currency"] for line in lines)}):
        total = sum(line[amount] for line in lines if line["currency"] == currency)
        minor = ledger.get(currency, 0)
        if total != minor:
            raise ReportDoesNotAddUp(currency=currency, report_minor=total, ledger_minor=minor)


ROLL_FORWARD_COLUMNS = (
    "performer_id",
    "currency",
    "opening_minor",
    "earned_minor",
    "sent_minor",
    "returned_minor",
    "adjusted_minor",
    "closing_minor",
)

# The payable's own entries by what made them; an entry of any other kind is an adjustment.
ROLL_FORWARD = """
    SELECT account.owner_id AS performer_id, account.currency,
           coalesce(-sum(amount_minor) FILTER (WHERE booked_at < :since), 0)::bigint
               AS opening_minor,
           coalesce(-sum(amount_minor) FILTER (WHERE booked_at >= :since
               AND header.kind IN ('claim_paid', 'audition_paid')), 0)::bigint AS earned_minor,
           coalesce(sum(amount_minor) FILTER (WHERE booked_at >= :since
               AND header.kind = 'transfer_sent'), 0)::bigint AS sent_minor,
           coalesce(-sum(amount_minor) FILTER (WHERE booked_at >= :since
               AND header.kind IN ('transfer_refused', 'transfer_reversed')), 0)::bigint
               AS returned_minor,
           coalesce(-sum(amount_minor) FILTER (WHERE booked_at >= :since AND header.kind NOT IN
               ('claim_paid', 'audition_paid', 'transfer_sent', 'transfer_refused',
                'transfer_reversed')), 0)::bigint AS adjusted_minor,
           -sum(amount_minor)::bigint AS closing_minor
    FROM account
    JOIN ledger_entry ON account_id = account.id
    JOIN ledger_transaction AS header ON header.id = transaction_id
    WHERE account.kind = 'performer_payable' AND header.booked_at <= :as_of
    GROUP BY account.owner_id, account.currency
    ORDER BY account.owner_id, account.currency
"""


async def roll_forward(session: AsyncSession, *, since: datetime, as_of: datetime) -> Report:
    """For each performer, opening + earned - sent + returned ± adjusted = closing.

    `since` is inclusive; what is booked at `as_of` is in it.
    """
    lines = await rows(session, ROLL_FORWARD, since=since, as_of=as_of)
    said = await rows(session, PAYABLE_SAID, as_of=as_of)
    owed = {line["currency"]: line["minor"] for line in said}
    _compare(owed, [_rolled(line) for line in lines], "rolled_minor")
    columns = ROLL_FORWARD_COLUMNS[2:]
    totals = [
        {
            "currency": currency,
            **{
                name: sum(line[name] for line in lines if line["currency"] == currency)
                for name in columns
            },
        }
        for currency in sorted(owed)
    ]
    return Report(
        as_of=as_of,
        columns=ROLL_FORWARD_COLUMNS,
        lines=lines,
        heading={"since": since, "totals": totals},
        name="liabilities-roll-forward",
    )


def _rolled(line: Mapping[str, Any]) -> dict[str, Any]:
    """Added up by its parts, so that the comparison proves them, not the closing alone."""
    rolled = (
        line["opening_minor"]
        + line["earned_minor"]
        - line["sent_minor"]
        + line["returned_minor"]
        + line["adjusted_minor"]
    )
    return {"currency": line["currency"], "rolled_minor": rolled}


FEES_COLUMNS = ("side", "kind", "client_id", "currency", "transactions", "amount_minor")

# Income: our fee on pay, by the client whose reserve paid it. Cost: Stripe's fee on deposits,
# refunds and disputes.
FEES = """
    SELECT CASE account.kind WHEN 'platform_fees' THEN 'income' ELSE 'cost' END AS side,
           header.kind, coalesce(claim.client_id, deposit.client_id, refund.client_id, dispute.client_id)
               AS client_id,
           account.currency, count(DISTINCT header.id) AS transactions,
           sum(CASE account.kind WHEN 'platform_fees' THEN -entry.amount_minor ELSE entry.amount_minor END)
               ::bigint AS amount_minor
    FROM ledger_entry AS entry
    JOIN account ON account.id = entry.account_id
    JOIN ledger_transaction AS header ON header.id = entry.transaction_id
    LEFT JOIN pay_decision ON pay_decision.id = header.source_id
    LEFT JOIN correction ON correction.id = header.source_id
    LEFT JOIN claim ON claim.id = coalesce(pay_decision.claim_id, correction.claim_id)
    LEFT JOIN deposit ON deposit.id = header.source_id
    LEFT JOIN refund ON refund.id = header.source_id
    LEFT JOIN dispute ON dispute.id = header.source_id
    WHERE account.kind IN ('platform_fees', 'stripe_fees', 'dispute_fees')
      AND header.booked_at >= :since AND header.booked_at <= :as_of
    GROUP BY 1, 2, 3, 4
    ORDER BY 4, 1 DESC, 2, 3
"""

FEES_SAID = f"""
    WITH {SAID}
    SELECT said.currency,
           sum(CASE account WHEN 'platform_fees' THEN -minor ELSE minor END)::bigint AS minor
    FROM said JOIN ledger_transaction AS header USING (kind, source_id)
    WHERE account IN ('platform_fees', 'stripe_fees', 'dispute_fees')
      AND booked_at >= :since AND booked_at <= :as_of
    GROUP BY said.currency
"""  # noqa: S608 - this package's words


async def fees(session: AsyncSession, *, since: datetime, as_of: datetime) -> Report:
    """The platform's fees by client, and Stripe's fees, booked in a span of time."""
    lines = await rows(session, FEES, since=since, as_of=as_of)
    said = await rows(session, FEES_SAID, since=since, as_of=as_of)
    _compare({line["currency"]: line["minor"] or 0 for line in said}, lines, "amount_minor")
    totals = [
        {
            "currency": currency,
            "income_minor": _sum(lines, currency, lambda line: line["side"] == "income"),
            "cost_minor": _sum(lines, currency, lambda line: line["side"] == "cost"),
        }
        for currency in sorted({line["currency"] for line in lines})
    ]
    return Report(
        as_of=as_of,
        columns=FEES_COLUMNS,
        lines=lines,
        heading={"since": since, "totals": totals},
        name="fees",
    )
