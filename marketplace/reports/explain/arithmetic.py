"""What must come out between a row and the rows it leads to."""

from collections.abc import Callable

from marketplace.ledger.models import SOURCE_TABLES
from marketplace.reports.explain.nodes import Node
from marketplace.shared.money import fee_minor, pay_minor


def check(node: Node) -> None:
    comes_out = ARITHMETIC.get(node.table)
    if comes_out is not None:
        node.problems += comes_out(node)


def _check_payout(node: Node) -> list[str]:
    lines = node.leads_to("payout_line")
    total = sum(line["amount_minor"] for line in lines)
    amount = node.row["amount_minor"]
    problems = [f"its lines sum to {total}"] if lines and total != amount else []
    reversals = node.leads_to("transfer_reversal")
    returned = sum(each["amount_minor"] for each in reversals if each["state"] == "reversed")
    if returned and node.row["state"] != ("reversed" if returned == amount else "partly_reversed"):
        problems.append(f"{returned} of it came back, and it is {node.row['state']}")
    return problems


def _check_deposit(node: Node) -> list[str]:
    standing = sum(
        refund["amount_minor"]
        for refund in node.leads_to("refund")
        if refund["state"] not in {"refused", "returned"}
    )
    charges = node.leads_to("client_charge")
    standing += sum(each["amount_minor"] for each in charges if each["state"] == "approved")
    if standing > node.row["amount_minor"]:
        return [f"{standing} of it are refunded or charged"]
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
        for rate in node.leads_to("rate")
        if rate["rate_minor_per_hour"] != node.row["rate_minor_per_hour"]
    ]
    # On the way up to Stripe its time is not looked at.
    if "time_entry" in node.linked:
        worked = sum(entry["seconds"] or 0 for entry in node.leads_to("time_entry"))
        problems += [
            f"its time entries sum to {worked} s, its pay decision says {decision['seconds']} s"
            for decision in node.leads_to("pay_decision")
            if decision["seconds"] != worked
        ]
    return problems


def _check_ledger_transaction(node: Node) -> list[str]:
    total = sum(entry["amount_minor"] for entry in node.leads_to("ledger_entry"))
    problems = [f"its entries sum to {total}"] if total else []
    if (source := node.row["source_type"]) not in SOURCE_TABLES.values():
        problems.append(f"leads to no row: {source} is unknown")
    return problems


def _check_line(node: Node) -> list[str]:
    return [
        f"its earning is {-entry['amount_minor']}"
        for entry in node.leads_to("ledger_entry")
        if -entry["amount_minor"] != node.row["amount_minor"]
    ]


def _check_correction(node: Node) -> list[str]:
    row = node.row
    problems = [
        f"{row['seconds']} s at the claim's rate make {pay}"
        for claim in node.leads_to("claim")
        if (pay := pay_minor(row["seconds"], claim["rate_minor_per_hour"])) != row["pay_minor"]
    ]
    if row["claim_id"] and abs(row["pay_minor"] - row["booked_minor"]) != row["amount_minor"]:
        problems.append(f"{row['booked_minor']} were booked, it makes {row['pay_minor']} of them")
    return problems


ARITHMETIC: dict[str, Callable[[Node], list[str]]] = {
    "payout": _check_payout,
    "payout_line": _check_line,
    "deposit": _check_deposit,
    "pay_decision": _check_pay_decision,
    "claim": _check_claim,
    "correction": _check_correction,
    "ledger_transaction": _check_ledger_transaction,
}
