"""The payout report, the rate history and the trial balance, each as of a moment."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import PAID_STATES
from marketplace.reports.past import PAYOUT_THEN
from marketplace.reports.tables import Report
from marketplace.shared.database import row, rows
from marketplace.shared.problems import Conflict, NotFound


class ReportDoesNotAddUp(Conflict):
    """The report's total differs from the ledger's; it is not handed out. Run `verify`."""

    code = "report_does_not_add_up"


PAYOUT_COLUMNS = (
    "payout_id",
    "performer_id",
    "claim_id",
    "audition_id",
    "reversal_id",
    "correction_id",
    "rate_id",
    "seconds",
    "rate_minor_per_hour",
    "gross_minor",
    "adjustments_minor",
    "net_minor",
    "currency",
    "status",
    "status_reason",
    "transfer_id",
)

SUMMED = ("seconds", "gross_minor", "adjustments_minor", "net_minor")

PAYOUT_LINES = f"""
    SELECT payout.id AS payout_id, payout.performer_id,
           coalesce(decision.claim_id, correction.claim_id) AS claim_id,
           audition.id AS audition_id,
           CASE earning.kind WHEN 'transfer_reversed' THEN earning.source_id END AS reversal_id,
           correction.id AS correction_id,
           coalesce(decision.rate_id, audition.rate_id) AS rate_id,
           coalesce(decision.seconds, audition.paid_seconds, 0) AS seconds,
           coalesce(decision.rate_minor_per_hour, audition.rate_minor_per_hour)
               AS rate_minor_per_hour,
           coalesce(decision.pay_minor, audition.pay_minor, 0) AS gross_minor,
           line.amount_minor - coalesce(decision.pay_minor, audition.pay_minor, 0)
               AS adjustments_minor,
           line.amount_minor AS net_minor,
           payout.currency,
           payout_then.state AS status,
           payout_then.reason AS status_reason,
           CASE WHEN payout_then.state IN ('paid', 'partly_reversed', 'reversed')
               THEN payout.transfer_id END AS transfer_id
    FROM payout
    JOIN payout_line AS line ON line.payout_id = payout.id
    JOIN ledger_entry AS entry ON entry.id = line.ledger_entry_id
    JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
    LEFT JOIN pay_decision AS decision ON decision.id = earning.source_id
    LEFT JOIN audition ON audition.id = earning.source_id
    LEFT JOIN correction ON correction.id = earning.source_id
    {PAYOUT_THEN}
    WHERE payout.run_id = :run
    ORDER BY payout.performer_id, line.id
"""  # noqa: S608 - this package's words

REVERSALS = """
    SELECT reversal.payout_id, payout.performer_id, reversal.amount_minor, reversal.currency,
           reversal.cause, reversal.reason, reversal.reversal_id,
           reversal.concluded_at AS reversed_at
    FROM transfer_reversal AS reversal
    JOIN payout ON payout.id = reversal.payout_id
    JOIN ledger_transaction AS header ON header.id = reversal.ledger_transaction_id
    WHERE payout.run_id = :run AND header.booked_at <= :as_of
    ORDER BY header.booked_at, reversal.id
"""


async def payout_report(session: AsyncSession, run_id: UUID, as_of: datetime) -> Report:
    """Every paid second of a run: who, how long, at which rate, and where the money is."""
    run = await row(
        session,
        # Read off the audit, whose stamps are as safe as the ledger's: who approved it last, unless
        # an edit voided that. Pausing it and going on changes nothing of that.
        "SELECT run.id, currency, slot_at, cut_off_at, prepared_by, person.id AS approved_by"
        " FROM payout_run AS run JOIN LATERAL ("
        "  SELECT to_state, actor FROM audit_event"
        "  WHERE subject_type = 'payout_run' AND subject_id = run.id AND action = 'moved'"
        "   AND booked_at <= :as_of AND 'draft' IN (from_state, to_state)"
        "  ORDER BY id DESC LIMIT 1) AS word ON true"
        " LEFT JOIN person ON person.id::text = actor AND to_state = 'approved'"
        " WHERE run.id = :run",
        run=run_id,
        as_of=as_of,
    )
    if run is None:
        raise NotFound
    lines = await rows(session, PAYOUT_LINES, run=run_id, as_of=as_of)
    paid = sum(_sum(lines, "net_minor", status) for status in PAID_STATES)
    await _check_paid(session, run_id, as_of, paid)
    reversals = await rows(session, REVERSALS, run=run_id, as_of=as_of)
    reversed_minor = sum(reversal["amount_minor"] for reversal in reversals)
    await _check_reversed(session, run_id, as_of, reversed_minor)
    # A released line is in the next run's report, too.
    standing = [line for line in lines if line["status"] != "released"]
    totals = {
        **{name: _sum(standing, name) for name in SUMMED},
        "released_minor": _sum(lines, "net_minor", "released"),
        "paid_minor": paid - reversed_minor,
        "reversed_minor": reversed_minor,
    }
    exclusions = await rows(
        session,
        "SELECT performer_id, amount_minor, reason, remedy, next_run_at FROM payout_exclusion"
        " WHERE run_id = :run ORDER BY performer_id",
        run=run_id,
    )
    return Report(
        as_of=as_of,
        columns=PAYOUT_COLUMNS,
        lines=lines,
        heading={
            "run": dict(run),
            "totals": totals,
            "exclusions": exclusions,
            "reversals": reversals,
        },
        name=f"payout-run-{run_id}",
    )


def _sum(lines: Sequence[Mapping[str, Any]], name: str, status: str | None = None) -> int:
    """Of all lines, or of those of one status."""
    return sum(line[name] for line in lines if status in (None, line["status"]))


async def _check_paid(session: AsyncSession, run_id: UUID, as_of: datetime, paid: int) -> None:
    """What the report calls paid left Stripe's balance in the ledger."""
    booked = await row(
        session,
        "SELECT coalesce(sum(entry.amount_minor), 0)::bigint AS minor FROM payout"
        " JOIN payout_attempt AS attempt ON attempt.payout_id = payout.id"
        " JOIN ledger_transaction AS confirmed ON confirmed.id = conclusion_transaction_id"
        "  AND confirmed.kind = 'transfer_confirmed' AND confirmed.booked_at <= :as_of"
        " JOIN ledger_entry AS entry ON entry.transaction_id = confirmed.id"
        "  AND entry.amount_minor > 0"
        " WHERE payout.run_id = :run",
        run=run_id,
        as_of=as_of,
    )
    assert booked is not None
    if booked["minor"] != paid:
        raise ReportDoesNotAddUp(report_minor=paid, ledger_minor=booked["minor"])


async def _check_reversed(
    session: AsyncSession, run_id: UUID, as_of: datetime, reversed_minor: int
) -> None:
    """What the report says came back is in Stripe's balance again in the ledger."""
    booked = await row(
        session,
        "SELECT coalesce(sum(entry.amount_minor), 0)::bigint AS minor FROM payout"
        " JOIN transfer_reversal AS reversal ON reversal.payout_id = payout.id"
        " JOIN ledger_transaction AS header ON header.source_id = reversal.id"
        "  AND header.kind = 'transfer_reversed' AND header.booked_at <= :as_of"
        " JOIN ledger_entry AS entry ON entry.transaction_id = header.id"
        "  AND entry.amount_minor > 0"
        " WHERE payout.run_id = :run",
        run=run_id,
        as_of=as_of,
    )
    assert booked is not None
    if booked["minor"] != reversed_minor:
        raise ReportDoesNotAddUp(report_minor=reversed_minor, ledger_minor=booked["minor"])


RATE_COLUMNS = (
    "lineage_id",
    "client_id",
    "elicitation",
    "languages",
    "role_profile",
    "currency",
    "number",
    "rate_minor_per_hour",
    "previous_rate_minor_per_hour",
    "announced_at",
    "effective_from",
    "status",
    "reason",
    "announced_by",
)


async def rate_report(session: AsyncSession, as_of: datetime) -> Report:
    """The whole rate history of every lineage, as it was announced by then."""
    lines = await rows(
        session,
        "SELECT lineage.id AS lineage_id, client_id, elicitation, languages, role_profile,"
        " rate.currency, number, rate_minor_per_hour,"
        " lag(rate_minor_per_hour) OVER in_effect AS previous_rate_minor_per_hour,"
        " announced_at, effective_from,"
        " CASE WHEN effective_from > :as_of THEN 'announced'"
        "  WHEN lead(effective_from) OVER in_effect <= :as_of THEN 'superseded'"
        "  ELSE 'in_force' END AS status,"
        " reason, announced_by"
        " FROM rate JOIN rate_lineage AS lineage ON lineage.id = lineage_id"
        " WHERE rate.booked_at <= :as_of"
        " WINDOW in_effect AS (PARTITION BY lineage_id ORDER BY effective_from, number)"
        " ORDER BY lineage_id, effective_from, number",
        as_of=as_of,
    )
    return Report(as_of=as_of, columns=RATE_COLUMNS, lines=lines, name="rate-history")


TRIAL_BALANCE_COLUMNS = ("kind", "currency", "debits_minor", "credits_minor", "balance_minor")


async def trial_balance(session: AsyncSession, as_of: datetime) -> Report:
    """Every kind of account; debits positive. Each currency sums to zero."""
    lines = await rows(
        session,
        "SELECT account.kind, account.currency,"
        " coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0)::bigint AS debits_minor,"
        " coalesce(-sum(amount_minor) FILTER (WHERE amount_minor < 0), 0)::bigint"
        "  AS credits_minor,"
        " sum(amount_minor)::bigint AS balance_minor"
        " FROM ledger_entry JOIN account ON account.id = account_id"
        " JOIN ledger_transaction AS booked ON booked.id = transaction_id"
        " WHERE booked.booked_at <= :as_of"
        " GROUP BY account.kind, account.currency ORDER BY account.currency, account.kind",
        as_of=as_of,
    )
    currencies = sorted({line["currency"] for line in lines})
    totals = [
        {
            "currency": currency,
            "sum_minor": sum(
                line["balance_minor"] for line in lines if line["currency"] == currency
            ),
        }
        for currency in currencies
    ]
    return Report(
        as_of=as_of,
        columns=TRIAL_BALANCE_COLUMNS,
        lines=lines,
        heading={"totals": totals},
        name="trial-balance",
        lines_name="accounts",
    )
