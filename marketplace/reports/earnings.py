"""What a performer has earned, what is on its way, what is paid, and why the rest is not yet."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.database import rows
from marketplace.shared.pagination import PageQuery, cut, decode_cursor, encode_cursor

# One row per earning: the credit in the performer's payable, where it came from, where it stands.
EARNINGS = """
    SELECT entry.id, account.currency, -entry.amount_minor AS pay_minor,
           transaction.booked_at AS earned_at,
           CASE transaction.kind WHEN 'claim_paid' THEN 'claim' ELSE 'audition' END AS source_type,
           coalesce(decision.claim_id, audition.id) AS source_id,
           coalesce(decision.seconds, audition.paid_seconds) AS seconds,
           coalesce(decision.rate_minor_per_hour, audition.rate_minor_per_hour)
               AS rate_minor_per_hour,
           coalesce(decision.rate_id, audition.rate_id) AS rate_id,
           claim.pay_by, payout.id AS payout_id, payout.transfer_id,
           coalesce(payout.state_reason, CASE payout.state
               WHEN 'draft' THEN 'In a payout run that waits for its approval.'
               WHEN 'approved' THEN 'Approved; it is sent next.'
           END) AS state_reason,
           CASE
               WHEN payout.id IS NULL THEN 'waiting'
               WHEN payout.state IN ('draft', 'approved') THEN 'scheduled'
               WHEN payout.state IN ('sending', 'unknown') THEN 'sending'
               ELSE payout.state
           END AS status
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id AND entry.amount_minor < 0
    JOIN ledger_transaction AS transaction ON transaction.id = entry.transaction_id
    LEFT JOIN pay_decision AS decision ON decision.id = transaction.source_id
    LEFT JOIN claim ON claim.id = decision.claim_id
    LEFT JOIN audition ON audition.id = transaction.source_id
    LEFT JOIN payout_line AS line
        ON line.ledger_entry_id = entry.id AND line.released_at IS NULL
    LEFT JOIN payout ON payout.id = line.payout_id
    WHERE account.kind = 'performer_payable'
      AND account.owner_id = :performer
      AND transaction.kind IN ('claim_paid', 'audition_paid')
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
    left_out = await _exclusions(session, performer_id)
    for line in kept:
        if line["status"] == "waiting":
            why = left_out.get(line["currency"])
            line["state_reason"] = why["remedy"] if why else "It is in the next payout run."
    return kept, encode_cursor(last["id"]) if last else None


async def totals(session: AsyncSession, performer_id: UUID) -> list[Mapping[str, Any]]:
    """Per currency, in minor units: earned = waiting + scheduled + sending + held + paid."""
    found = await rows(
        session,
        "SELECT currency, sum(pay_minor)::bigint AS earned_minor,"  # noqa: S608 - a constant of this module
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'waiting'), 0)::bigint AS waiting_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'scheduled'), 0)::bigint"
        "  AS scheduled_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'sending'), 0)::bigint AS sending_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status IN ('held', 'refused')), 0)::bigint"
        "  AS held_minor,"
        " coalesce(sum(pay_minor) FILTER (WHERE status = 'paid'), 0)::bigint AS paid_minor,"
        " next_run_at(marketplace_now()) AS next_run_at"
        f" FROM ({EARNINGS}) AS earning GROUP BY currency ORDER BY currency",
        performer=performer_id,
    )
    left_out = await _exclusions(session, performer_id)
    return [
        {**row, "exclusion": left_out.get(row["currency"]) if row["waiting_minor"] else None}
        for row in found
    ]


async def _exclusions(session: AsyncSession, performer_id: UUID) -> dict[str, Mapping[str, Any]]:
    """By currency, why the latest run left the performer out, unless that is mended since."""
    found = await rows(
        session,
        "SELECT latest.currency, exclusion.reason, remedy, amount_minor, next_run_at"
        " FROM payout_exclusion AS exclusion"
        " JOIN (SELECT DISTINCT ON (currency) id, currency FROM payout_run"
        "  WHERE state <> 'discarded' ORDER BY currency, cut_off_at DESC, id DESC"
        " ) AS latest ON latest.id = exclusion.run_id"
        " LEFT JOIN payout_account AS account USING (performer_id)"
        " WHERE exclusion.performer_id = :performer"
        "  AND NOT (exclusion.reason IN ('no_account', 'account_not_active')"
        "   AND account.transfers IS NOT DISTINCT FROM 'active')",
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
