"""What a performer has earned, what is on its way, what is paid, and why the rest is not yet."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.database import rows
from marketplace.shared.pagination import PageQuery, cut, decode_cursor, encode_cursor

IN_THE_NEXT_RUN = "It is in the next payout run."

# One row per earning: the credit in the performer's payable, where it came from, where it stands.
EARNINGS = """
    SELECT entry.id, account.currency, -entry.amount_minor AS pay_minor,
           transaction.booked_at AS earned_at,
           CASE transaction.kind WHEN 'claim_paid' THEN 'claim' WHEN 'audition_paid' THEN 'audition'
               WHEN 'transfer_reversed' THEN 'reversal' WHEN 'receivable_netted' THEN 'netting'
               ELSE 'correction' END AS source_type,
           coalesce(correction.reason, reversal.reason) AS reason,
           coalesce(decision.claim_id, transaction.source_id) AS source_id,
           coalesce(decision.seconds, audition.paid_seconds, 0) AS seconds,
           coalesce(decision.rate_minor_per_hour, audition.rate_minor_per_hour)
               AS rate_minor_per_hour,
           coalesce(decision.rate_id, audition.rate_id) AS rate_id,
           claim.pay_by,
           payout.id AS payout_id, payout.transfer_id,
           coalesce(payout.state_reason, CASE payout.state
               WHEN 'draft' THEN format(
                   'In the payout run of %s; waits for its approval.', api_time(run.cut_off_at))
               WHEN 'approved' THEN format(
                   'In the payout run of %s; %s.', api_time(run.cut_off_at), CASE run.state
                   WHEN 'paused' THEN 'paused: ' || run.state_reason ELSE 'approved, to be sent' END)
           END) AS state_reason,
           CASE
               WHEN payout.id IS NULL THEN 'waiting'
               WHEN payout.state IN ('draft', 'approved') THEN 'scheduled'
               WHEN payout.state IN ('sending', 'unknown') THEN 'sending'
               ELSE payout.state
           END AS status
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN ledger_transaction AS transaction ON transaction.id = entry.transaction_id
    LEFT JOIN pay_decision AS decision ON decision.id = transaction.source_id
    LEFT JOIN claim ON claim.id = decision.claim_id
    LEFT JOIN audition ON audition.id = transaction.source_id
    LEFT JOIN correction ON correction.id = transaction.source_id
    LEFT JOIN transfer_reversal AS reversal ON reversal.id = transaction.source_id
    LEFT JOIN payout_line AS line
        ON line.ledger_entry_id = entry.id AND line.released_at IS NULL
    LEFT JOIN payout ON payout.id = line.payout_id
    LEFT JOIN payout_run AS run ON run.id = payout.run_id
    WHERE account.kind = 'performer_payable'
      AND account.owner_id = :performer
      AND is_earning(transaction.kind)
"""


# What came back of the performer's payouts, and how much of it was no earning.
CAME_BACK = """
    SELECT reversal.currency, sum(reversal.amount_minor) AS minor,
           sum(reversal.amount_minor) FILTER (WHERE cause <> 'wrong_destination') AS taken_minor
    FROM transfer_reversal AS reversal
    JOIN payout ON payout.id = reversal.payout_id
    WHERE payout.performer_id = :performer AND reversal.state = 'reversed'
    GROUP BY reversal.currency
"""


async def lines(
    session: AsyncSession, *, performer_id: UUID, page: PageQuery
) -> tuple[list[Mapping[str, Any]], str | None]:
    """Earnings, newest first."""
    after = decode_cursor(page.cursor, UUID)
    found = await rows(
        session,
        f"SELECT * FROM ({EARNINGS}) AS earning"  # noqa: S608 - a constant of this module
        " WHERE CAST(:after AS uuid) IS NULL OR id < :after ORDER BY id DESC LIMIT :limit",
        performer=performer_id,
        after=after[0] if after else None,
        limit=page.limit + 1,
    )
    kept, last = cut(found, page.limit)
    why = await _exclusions(session, performer_id)
    for line in kept:
        if line["status"] == "waiting":
            excluded = why.get(line["currency"])
            line["state_reason"] = excluded["remedy"] if excluded else IN_THE_NEXT_RUN
    return kept, encode_cursor(last["id"]) if last else None


async def totals(session: AsyncSession, performer_id: UUID) -> list[Mapping[str, Any]]:
    """Per currency, in minor units: earned = waiting + scheduled + sending + held + paid + taken
    back. What came back from a wrong destination is earned once, and waits again.
    """
    found = await rows(
        session,
        f"WITH came_back AS ({CAME_BACK}) "  # noqa: S608 - constants of this module
        "SELECT currency,"
        " coalesce(sum(pay_minor) FILTER (WHERE source_type NOT IN ('reversal', 'netting')), 0)"
        "  ::bigint AS earned_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'waiting'), 0)::bigint AS waiting_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'scheduled'), 0)::bigint"
        "  AS scheduled_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'sending'), 0)::bigint AS sending_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status IN ('held', 'refused')), 0)::bigint"
        "  AS held_minor,"
        " (coalesce(sum(pay_minor) FILTER (WHERE status IN ('paid', 'partly_reversed', 'reversed')),"
        "  0) - coalesce(max(came_back.minor), 0))::bigint AS paid_minor,"
        " (coalesce(max(came_back.taken_minor), 0) - coalesce(sum(pay_minor) FILTER"
        "  (WHERE source_type = 'netting'), 0))::bigint AS taken_back_minor,"
        " receivable_minor(:performer, currency) AS owed_back_minor,"
        " next_run_at(marketplace_now()) AS next_run_at"
        f" FROM ({EARNINGS}) AS earning LEFT JOIN came_back USING (currency)"
        " GROUP BY currency ORDER BY currency",
        performer=performer_id,
    )
    why = await _exclusions(session, performer_id)
    return [
        {**row, "exclusion": why.get(row["currency"]) if row["waiting_minor"] else None}
        for row in found
    ]


async def _exclusions(session: AsyncSession, performer_id: UUID) -> dict[str, Mapping[str, Any]]:
    """By currency: why the latest run left the performer out, unless the next one will not."""
    found = await rows(
        session,
        "SELECT run.currency, reason, remedy, amount_minor, next_run_at"
        " FROM payout_exclusion JOIN payout_run AS run ON run.id = run_id"
        " WHERE performer_id = :performer"
        "  AND run.id = (SELECT id FROM payout_run AS latest"
        "   WHERE latest.currency = run.currency AND latest.state <> 'discarded'"
        "   ORDER BY cut_off_at DESC, id DESC LIMIT 1)"
        "  AND (reason = 'below_minimum' OR NOT EXISTS ("
        "   SELECT FROM payout_account"
        "   WHERE payout_account.performer_id = :performer AND transfers = 'active'"
        "    AND NOT is_wrong_destination(performer_id, stripe_account_id)))",
        performer=performer_id,
    )
    return {row["currency"]: row for row in found}


async def undecided(session: AsyncSession, performer_id: UUID) -> list[Mapping[str, Any]]:
    """Worked, but the pay is not decided yet: per currency, at the locked rates."""
    return await rows(
        session,
        "SELECT currency, count(*) AS claims, coalesce(sum(seconds), 0)::bigint AS seconds,"
        " coalesce(sum(pay_minor(seconds, rate_minor_per_hour)), 0)::bigint AS pay_minor FROM ("
        "  SELECT claim.currency, claim.rate_minor_per_hour,"
        "   (SELECT extract(epoch FROM sum(ended_at - started_at))::bigint FROM time_entry"
        "    WHERE time_entry.claim_id = claim.id) AS seconds"
        "  FROM claim WHERE performer_id = :performer"
        "   AND NOT EXISTS (SELECT FROM pay_decision WHERE pay_decision.claim_id = claim.id)"
        " ) AS open_claim WHERE seconds > 0 GROUP BY currency ORDER BY currency",
        performer=performer_id,
    )
