"""I1 for refunds: at Stripe each is there once, as asked for, and our books say so."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared.database import rows
from marketplace.stripe_api.gateway_answers import Refund

MAY_BE_THERE = {"sending", "unknown", "pending", "succeeded"}


async def compare(
    session: AsyncSession, at_stripe: Sequence[Refund], read_from: datetime
) -> list[str]:
    """What Stripe's refunds and ours differ in; `read_from` is when Stripe's were read."""
    ours = {
        str(row["id"]): row
        for row in await rows(
            session,
            "SELECT refund.id, amount_minor, refund.currency, state, stripe_refund_id,"
            " confirmed.booked_at AS confirmed_at,"
            # It may have stood when Stripe's were read.
            " coalesce(ended.booked_at > :read_from, false) AS has_just_ended"
            " FROM refund"
            " LEFT JOIN ledger_transaction AS confirmed ON confirmed.id = confirmed_transaction_id"
            " LEFT JOIN ledger_transaction AS ended ON ended.id = ended_transaction_id",
            read_from=read_from,
        )
    }
    # Of these finance charges the client; their lines are booked like any other.
    otherwise = {
        row["payment_intent_id"]
        for row in await rows(
            session, "SELECT payment_intent_id FROM deposit WHERE foreign_line_id IS NOT NULL"
        )
    } - {None}
    # What two people booked by hand stands for no refund of ours.
    by_hand = {
        row["line_id"]
        for row in await rows(session, "SELECT line_id FROM line_booking WHERE state = 'booked'")
    }
    found_later = {row["stripe_refund_id"]: refund_id for refund_id, row in ours.items()}
    standing: dict[str, list[Refund]] = defaultdict(list)
    for refund in at_stripe:
        if refund.status in {"failed", "canceled"} or refund.payment_intent_id in otherwise:
            continue
        if refund.taken is None or refund.taken.id not in by_hand:
            standing[found_later.get(refund.id) or refund.metadata.get("refund_id", "")].append(
                refund
            )
    violations = [
        violation
        for refund_id, found in standing.items()
        for violation in _differs(refund_id, found, ours.get(refund_id))
    ]
    violations += [
        f"refund {refund_id} is {row['state']}, but Stripe has none that stands"
        for refund_id, row in ours.items()
        if row["state"] == "succeeded"
        and (row["confirmed_at"] or read_from) <= read_from
        and refund_id not in standing
        and not _is_on_its_way_back(row, at_stripe)
    ]
    return violations + _asked_once(at_stripe)


def _asked_once(at_stripe: Sequence[Refund]) -> list[str]:
    """Whatever our books say of them: what was asked for once stands once."""
    asked: dict[str, list[str]] = defaultdict(list)
    for refund in at_stripe:
        if refund.status not in {"failed", "canceled"} and "refund_id" in refund.metadata:
            asked[refund.metadata["refund_id"]].append(refund.id)
    return [
        f"refund {refund_id} stands {len(ids)} times at Stripe: {', '.join(sorted(ids))}"
        for refund_id, ids in asked.items()
        if len(ids) > 1
    ]


def _is_on_its_way_back(row: Mapping[str, Any], at_stripe: Sequence[Refund]) -> bool:
    """Its bank has sent it back, and the event of it is still to be applied."""
    return any(refund.id == row["stripe_refund_id"] for refund in at_stripe)


def _differs(refund_id: str, found: Sequence[Refund], row: Mapping[str, Any] | None) -> list[str]:
    known = {refund.id for refund in found}
    ids = ", ".join(sorted(known))
    if row is None:
        return [f"Stripe has {ids}, which belong to no refund of ours"]
    violations = []
    asked = (row["amount_minor"], row["currency"])
    violations += [
        f"{refund.id} gives back {refund.amount_minor} {refund.currency}; "
        f"refund {refund_id} says {asked}"
        for refund in found
        if (refund.amount_minor, refund.currency) != asked
    ]
    if row["state"] not in MAY_BE_THERE and not row["has_just_ended"]:
        violations.append(f"refund {refund_id} is {row['state']}, but Stripe has {ids}")
    elif row["stripe_refund_id"] and row["stripe_refund_id"] not in known:
        violations.append(f"refund {refund_id} names {row['stripe_refund_id']}, Stripe has {ids}")
    return violations
