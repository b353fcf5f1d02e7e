"""What Stripe does by itself once time has passed on the virtual clock."""

import sqlite3
from collections.abc import Callable
from typing import Any

from marketplace.stripe_sandbox import charges, checkout, payouts, refunds, state, topups
from marketplace.stripe_sandbox.calls import Call

# What was planned -> the kind of object it happens to, and how.
EFFECTS: dict[str, tuple[str, Callable[[Call, dict[str, Any]], object]]] = {
    "account_is_emptied": ("account", payouts.empty_by_schedule),
    "debit_bounces": ("checkout.session", checkout.bounce_later),
    "debit_succeeds": ("checkout.session", checkout.succeed_later),
    "fee_is_told": ("charge", charges.tell_fee),
    "page_expires": ("checkout.session", checkout.expire),
    "payout_arrives": ("payout", payouts.arrive),
    "payout_leaves": ("payout", payouts.leave),
    "refund_ends": ("refund", refunds.end_later),
    "refund_tries_again": ("refund", refunds.try_again),
    "topup_arrives": ("topup", topups.arrive),
}


def happen(db: sqlite3.Connection) -> bool:
    """Do all that is due, in its order and each as at its own time; answers whether any was.

    Called before every look at the sandbox, so that nobody sees it late.
    """
    happened = False
    while (due := _next_due(db)) is not None:
        happened = True
        kind, effect = EFFECTS[due["what"]]
        with state.transaction(db):
            db.execute("DELETE FROM later WHERE id = ?", (due["id"],))
            subject = state.find(db, kind, due["subject"])
            assert subject is not None
            effect(Call(db=db, now=due["due_at"], base_url=""), subject)
    return happened


def _next_due(db: sqlite3.Connection) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM later WHERE due_at <= ? ORDER BY due_at, id LIMIT 1",
        (state.virtual_now(db),),
    ).fetchone()
    return row
