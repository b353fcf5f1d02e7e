"""Follow any cent along the database's own references: down to the seconds, up to Stripe.

The tree is what the rows say. A reference that must lead somewhere and does not, and arithmetic that
does not come out, make it incomplete.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.ledger.models import SOURCE_TABLES, TransactionKind
from marketplace.shared.database import rows
from marketplace.shared.money import display, fee_minor, pay_minor

Row = Mapping[str, Any]


def always(_row: Row) -> bool:
    return True


def never(_row: Row) -> bool:
    return False


@dataclass(frozen=True)
class Link:
    """Rows of `table` whose `column` holds this row's `own` value."""

    table: str
    column: str
    own: str
    # Whether this row must lead somewhere by it.
    required: Callable[[Row], bool] = never
    # Whether this row has the link at all.
    when: Callable[[Row], bool] = always
    # Whether the rows are in the tree; if not, this row is only compared with them.
    shown: bool = True


@dataclass
class Node:
    table: str
    row: Row
    problems: list[str] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)
    # All that its links led to, by table and id, whether it stands below or elsewhere in the tree.
    linked: dict[str, dict[Any, Row]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.problems and all(child.complete for child in self.children)


def _source(table: str) -> Link:
    return Link(
        table, "id", "source_id", required=always, when=lambda row: row["source_type"] == table
    )


# What moves our balance at Stripe: a line of Stripe's own books stands behind each. Deposits and
# top-ups are booked only with it; a transfer is booked even if Stripe did not name its line, and is
# incomplete then.
AT_STRIPE = {
    TransactionKind.DEPOSIT_CREDITED,
    TransactionKind.TOPUP_SUCCEEDED,
    TransactionKind.TRANSFER_CONFIRMED,
}


# Towards the seconds and the rate.
DOWN: dict[str, tuple[Link, ...]] = {
    "payout_run": (Link("payout", "run_id", "id"),),
    "payout": (Link("payout_line", "payout_id", "id", required=always),),
    "payout_attempt": (Link("payout", "id", "payout_id", required=always),),
    "payout_line": (Link("ledger_entry", "id", "ledger_entry_id", required=always),),
    "ledger_entry": (Link("ledger_transaction", "id", "transaction_id", required=always),),
    "ledger_transaction": tuple(_source(table) for table in dict.fromkeys(SOURCE_TABLES.values())),
    "pay_decision": (Link("claim", "id", "claim_id", required=always),),
    "time_entry": (Link("claim", "id", "claim_id", required=always),),
    "claim": (
        Link("rate", "id", "rate_id", required=always),
        Link("role", "id", "role_id", required=always),
        Link("consent_grant", "id", "consent_grant_id", required=always),
        Link("time_entry", "claim_id", "id"),
        Link("pay_decision", "claim_id", "id", shown=False),
    ),
    "role": (Link("task", "id", "task_id", required=always),),
    "task": (Link("job", "id", "job_id", required=always),),
    "audition": (Link("rate", "id", "rate_id", required=always),),
    "rate": (Link("rate_lineage", "id", "lineage_id", required=always),),
    "booked_balance_transaction": (
        Link("ledger_transaction", "id", "ledger_transaction_id", required=always),
    ),
}

# Towards Stripe.
UP: dict[str, tuple[Link, ...]] = {
    "time_entry": (Link("claim", "id", "claim_id", required=always),),
    "claim": (
        Link("pay_decision", "claim_id", "id", required=lambda row: row["state"] == "settled"),
    ),
    "pay_decision": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["pay_minor"] > 0,
        ),
    ),
    "audition": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: bool(row["pay_minor"]),
        ),
    ),
    "deposit": (
        Link(
            "ledger_transaction",
            "source_id",
            "id",
            required=lambda row: row["state"] in {"credited", "available"},
        ),
    ),
    "topup": (
        Link(
            "ledger_transaction",
            "source_id",
            "id",
            required=lambda row: row["state"] == "succeeded",
        ),
    ),
    "reserve_move": (Link("ledger_transaction", "id", "ledger_transaction_id", required=always),),
    "booked_balance_transaction": (Link("ledger_transaction", "id", "ledger_transaction_id"),),
    "ledger_transaction": (
        Link("ledger_entry", "transaction_id", "id", required=always),
        Link(
            "booked_balance_transaction",
            "ledger_transaction_id",
            "id",
            required=lambda row: row["kind"] in AT_STRIPE,
        ),
    ),
    "ledger_entry": (
        Link("ledger_transaction", "id", "transaction_id", required=always),
        Link("payout_line", "ledger_entry_id", "id"),
    ),
    "payout_line": (Link("payout", "id", "payout_id", required=always),),
    "payout": (
        Link("payout_run", "id", "run_id", required=always),
        Link(
            "payout_attempt",
            "payout_id",
            "id",
            required=lambda row: row["state"] in {"sending", "unknown", "paid"},
        ),
    ),
    "payout_attempt": (
        Link("ledger_transaction", "id", "in_flight_transaction_id", required=always),
        Link(
            "ledger_transaction",
            "id",
            "conclusion_transaction_id",
            required=lambda row: row["outcome"] is not None,
        ),
    ),
}

TABLES = (
    "payout",
    "claim",
    "ledger_entry",
    "ledger_transaction",
    "payout_run",
    "payout_line",
    "payout_attempt",
    "pay_decision",
    "time_entry",
    "audition",
    "deposit",
    "topup",
    "reserve_move",
)


async def explain(session: AsyncSession, id_: str) -> Node | None:
    """The tree of a payout, claim, ledger line, time entry … or of Stripe's own id (`tr_…`)."""
    found = await _find(session, id_)
    if found is None:
        return None
    node = Node(*found)
    seen = {(node.table, node.row["id"])}
    await _follow(session, node, DOWN, set(seen))
    await _follow(session, node, UP, set(seen))
    _check(node)
    return node


async def _find(session: AsyncSession, id_: str) -> tuple[str, Row] | None:
    for table, column in (
        ("payout_attempt", "transfer_id"),
        ("booked_balance_transaction", "id"),
        ("deposit", "checkout_session_id"),
        ("topup", "stripe_topup_id"),
    ):
        for row in await _select(session, table, column, id_):
            return table, row
    try:
        uuid = UUID(id_)
    except ValueError:
        return None
    for table in TABLES:
        for row in await _select(session, table, "id", uuid):
            return table, row
    return None


# Rows that say little without a second look.
READABLE = {
    "ledger_entry": "(SELECT ledger_entry.*, account.kind AS account FROM ledger_entry"
    " JOIN account ON account.id = account_id) AS readable",
    "time_entry": "(SELECT time_entry.*, extract(epoch FROM ended_at - started_at)::bigint"
    " AS seconds FROM time_entry) AS readable",
}


async def _select(session: AsyncSession, table: str, column: str, value: Any) -> list[Row]:
    """Table and column are this module's own words."""
    return await rows(
        session,
        f"SELECT * FROM {READABLE.get(table, table)}"  # noqa: S608 - see docstring
        f" WHERE {column} = :value ORDER BY id",
        value=value,
    )


async def _follow(
    session: AsyncSession,
    node: Node,
    links: Mapping[str, tuple[Link, ...]],
    seen: set[tuple[str, Any]],
) -> None:
    for link in links.get(node.table, ()):
        if not link.when(node.row):
            continue
        found = await _select(session, link.table, link.column, node.row[link.own])
        if not found and link.required(node.row):
            node.problems.append(f"leads to no {link.table} ({link.own} {node.row[link.own]})")
        linked = node.linked.setdefault(link.table, {})
        for row in found:
            linked[row["id"]] = row
            if not link.shown or (link.table, row["id"]) in seen:
                continue
            seen.add((link.table, row["id"]))
            child = Node(link.table, row)
            node.children.append(child)
            await _follow(session, child, links, seen)
            _check(child)


def _check(node: Node) -> None:
    check = ARITHMETIC.get(node.table)
    if check is not None:
        node.problems += check(node)


def _linked(node: Node, table: str) -> list[Row]:
    return list(node.linked.get(table, {}).values())


def _check_payout(node: Node) -> list[str]:
    lines = _linked(node, "payout_line")
    total = sum(line["amount_minor"] for line in lines)
    if lines and total != node.row["amount_minor"]:
        return [f"its lines sum to {total}"]
    return []


def _check_pay_decision(node: Node) -> list[str]:
    row = node.row
    pay = pay_minor(row["seconds"], row["rate_minor_per_hour"]) if row["outcome"] == "pay" else 0
    if (pay, fee_minor(pay, row["fee_basis_points"])) != (row["pay_minor"], row["fee_minor"]):
        return [f"{row['seconds']} s at its rate make {pay}"]
    return []


def _check_claim(node: Node) -> list[str]:
    problems = [
        f"its rate row says {rate['rate_minor_per_hour']}, the claim "
        f"{node.row['rate_minor_per_hour']}"
        for rate in _linked(node, "rate")
        if rate["rate_minor_per_hour"] != node.row["rate_minor_per_hour"]
    ]
    # On the way up to Stripe its time is not looked at.
    if "time_entry" in node.linked:
        worked = sum(entry["seconds"] or 0 for entry in _linked(node, "time_entry"))
        problems += [
            f"its time entries sum to {worked} s, its pay decision says {decision['seconds']} s"
            for decision in _linked(node, "pay_decision")
            if decision["seconds"] != worked
        ]
    return problems


def _check_ledger_transaction(node: Node) -> list[str]:
    total = sum(entry["amount_minor"] for entry in _linked(node, "ledger_entry"))
    problems = [f"its entries sum to {total}"] if total else []
    if (source := node.row["source_type"]) not in SOURCE_TABLES.values():
        problems.append(f"leads to no row: {source} is unknown")
    return problems


def _check_line(node: Node) -> list[str]:
    return [
        f"its earning is {-entry['amount_minor']}"
        for entry in _linked(node, "ledger_entry")
        if -entry["amount_minor"] != node.row["amount_minor"]
    ]


ARITHMETIC: dict[str, Callable[[Node], list[str]]] = {
    "payout": _check_payout,
    "payout_line": _check_line,
    "pay_decision": _check_pay_decision,
    "claim": _check_claim,
    "ledger_transaction": _check_ledger_transaction,
}

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
    "topup": ("state", "stripe_topup_id"),
    "reserve_move": ("cause",),
    "booked_balance_transaction": ("net_minor",),
}


def lines(node: Node, depth: int = 0) -> Iterator[str]:
    """The tree as indented text."""
    shown = [
        f"{name}={_text(node.row[name])}"
        for name in SHOWN.get(node.table, ())
        if node.row[name] is not None
    ]
    amount = node.row.get("amount_minor", node.row.get("pay_minor"))
    money = [display(amount, node.row["currency"])] if amount and "currency" in node.row else []
    yield "  " * depth + " ".join([node.table, str(node.row["id"]), *money, *shown])
    for problem in node.problems:
        yield "  " * (depth + 1) + f"MISSING: {problem}"
    for child in node.children:
        yield from lines(child, depth + 1)


def _text(value: Any) -> str:
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)
