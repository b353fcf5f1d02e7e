"""What a performer may see of an explanation: their own rows, and what their work was agreed on."""

from dataclasses import replace
from uuid import UUID

from marketplace.reports.explain.nodes import Node

PERFORMERS_ACCOUNTS = ("performer_payable", "performer_receivable")
# Whose row it is stands in the row that it belongs to.
BELONGS_TO = {
    "time_entry": "claim",
    "payout_line": "payout",
    "payout_attempt": "payout",
    "transfer_reversal": "payout",
    "ledger_transaction": "ledger_entry",
}
# Shown wherever one's own rows lead: what the work was, and at which rate.
AGREED = {"rate", "rate_lineage", "role", "task", "job", "consent_grant"}
# Between the platform and its clients.
NOT_FOR_PERFORMERS = {
    *("fee_minor", "client_minor", "platform_minor", "idempotency_key"),
    *("prepared_by", "approved_by", "proposed_by", "asked_by", "decided_by"),
}


def own_part(node: Node, performer_id: UUID) -> Node | None:
    """The tree without what is not theirs; None if they asked for somebody else's row."""
    return _pruned(node, performer_id) if _is_own(node, performer_id) else None


def _is_own(node: Node, performer_id: UUID) -> bool:
    rows = [node.row, *node.leads_to(BELONGS_TO.get(node.table, ""))]
    return any(
        row.get("performer_id") == performer_id
        or (row.get("account") in PERFORMERS_ACCOUNTS and row.get("owner_id") == performer_id)
        for row in rows
    )


def _pruned(node: Node, performer_id: UUID) -> Node:
    kept = [
        _pruned(child, performer_id)
        for child in node.children
        # What belongs to a row of theirs hangs on it.
        if child.table in AGREED or child.table in BELONGS_TO or _is_own(child, performer_id)
    ]
    row = {name: value for name, value in node.row.items() if name not in NOT_FOR_PERFORMERS}
    return replace(node, row=row | dict.fromkeys(NOT_FOR_PERFORMERS), children=kept)
