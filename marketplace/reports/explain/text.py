"""The tree as indented text."""

from collections.abc import Iterator
from typing import Any

from marketplace.reports.explain.nodes import Node
from marketplace.shared.money import display

# What a line of the tree shows of a row, after its table and id.
SHOWN: dict[str, tuple[str, ...]] = {
    "payout_run": ("state", "cut_off_at", "prepared_by", "approved_by"),
    "payout": ("state", "state_reason", "destination", "transfer_id"),
    "payout_attempt": ("number", "idempotency_key", "outcome", "transfer_id", "error_code"),
    "payout_line": ("released_at",),
    "ledger_entry": ("account",),
    "ledger_transaction": ("kind", "source_type", "booked_at"),
    "pay_decision": ("outcome", "seconds", "rate_minor_per_hour", "fee_minor", "reason"),
    "claim": ("state", "performer_id", "claimed_at", "rate_minor_per_hour"),
    "time_entry": ("activity", "seconds", "started_at", "ended_at", "ended_by"),
    "rate": ("number", "rate_minor_per_hour", "announced_at", "effective_from", "reason"),
    "rate_lineage": ("elicitation", "languages", "role_profile"),
    "role": ("name", "state"),
    "task": ("number",),
    "job": ("title", "state"),
    "consent_grant": ("licence_version", "signed_at"),
    "audition": ("state", "paid_seconds", "rate_minor_per_hour"),
    "deposit": ("state", "checkout_session_id", "fee_minor"),
    "dispute": (
        *("state", "state_reason", "stripe_dispute_id", "withdrawn_minor", "fee_minor"),
        *("held_minor", "from_reserves_minor"),
    ),
    "client_charge": (
        *("state", "state_reason", "reason", "from_wallet_minor", "proposed_by", "decided_by"),
    ),
    "client_debt_decision": ("remedy", "state", "reason", "proposed_by", "decided_by"),
    "refund": ("state", "state_reason", "stripe_refund_id", "decided_by"),
    "topup": ("state", "stripe_topup_id"),
    "withdrawal": (
        "state",
        "state_reason",
        "stripe_payout_id",
        "requested_by",
        "approved_by",
        "decided_by",
    ),
    "line_booking": ("state", "booked_as", "line_id", "reason", "proposed_by", "decided_by"),
    "stripe_line": ("type", "net_minor", "description", "created_at"),
    "bank_payout": ("state", "state_reason", "stripe_payout_id", "performer_id", "arrives_at"),
    "reserve_move": ("cause",),
    "reservation": ("balance_minor",),
    "payout_account": ("stripe_account_id", "transfers", "requirement"),
    "correction": (
        "kind",
        "state",
        "seconds",
        "booked_minor",
        "reason",
        "proposed_by",
        "decided_by",
    ),
    "transfer_reversal": ("state", "cause", "reason", "asked_by", "decided_by", "reversal_id"),
    "booked_balance_transaction": ("net_minor",),
}


def facts(node: Node) -> dict[str, str]:
    """What is shown of a row, by name."""
    return {
        name: _text(node.row[name])
        for name in SHOWN.get(node.table, ())
        if node.row[name] is not None
    }


def amount_minor(node: Node) -> int | None:
    amount = node.row.get("amount_minor", node.row.get("pay_minor"))
    return amount if "currency" in node.row else None


def lines(node: Node, depth: int = 0) -> Iterator[str]:
    """The tree as indented text."""
    shown = [f"{name}={text}" for name, text in facts(node).items()]
    amount = amount_minor(node)
    money = [display(amount, node.row["currency"])] if amount else []
    yield "  " * depth + " ".join([node.table, str(node.row["id"]), *money, *shown])
    for problem in node.problems:
        yield "  " * (depth + 1) + f"MISSING: {problem}"
    for child in node.children:
        yield from lines(child, depth + 1)


def _text(value: Any) -> str:
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)
