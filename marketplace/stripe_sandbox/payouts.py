"""Payouts: from a Stripe balance, the platform's or a connected account's, to its bank account.

The money leaves the balance at once. The bank may still send it back, even after `paid`: that is a
line of its own (https://docs.stripe.com/api/payouts/object, https://docs.stripe.com/payouts).
"""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, balance_of, book, require_available
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.errors import StripeError
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import (
    AMOUNT,
    Currency,
    Fields,
    Metadata,
    Text,
)
from marketplace.stripe_sandbox.views import answer, page

STATUSES = ("canceled", "failed", "in_transit", "paid", "pending")
# https://docs.stripe.com/api/payouts/failures
FAILURES = {
    "account_closed": "The bank account has been closed.",
    "no_account": "The bank account details on file are probably incorrect.",
    "could_not_process": "The bank could not process this payout.",
    "debit_not_authorized": "Debit transactions are not approved on your bank account.",
}


def create_payout(call: Call) -> dict[str, Any]:
    payout = pay_out(
        call,
        amount_minor=call.parameters["amount"],
        currency=call.parameters["currency"],
        automatic=False,
    )
    return answer(call, payout)


def pay_out(call: Call, *, amount_minor: int, currency: str, automatic: bool) -> dict[str, Any]:
    """Out of the balance of `call.account`, which must cover it now."""
    require_available(call, amount_minor=amount_minor, currency=currency, account=call.account)
    arrives_at = call.now + state.setting(call.db, "payout_after_seconds")
    payout: dict[str, Any] = {
        "id": state.new_id("po"),
        "object": "payout",
        "amount": amount_minor,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": arrives_at,
        "automatic": automatic,
        "balance_transaction": None,
        "created": call.now,
        "currency": currency,
        "description": call.parameters.get("description"),
        "destination": f"ba_{call.account.removeprefix('acct_') or 'platform'}",
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": call.parameters.get("metadata", {}),
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "in_progress" if automatic else "not_applicable",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": call.parameters.get("statement_descriptor"),
        "status": "pending",
        "trace_id": None,
        "type": "bank_account",
    }
    line = _book(call, payout, "payout", -amount_minor)
    payout["balance_transaction"] = line["id"]
    state.insert(call.db, payout, account=call.account)
    emit(call, "payout.created", payout, account=call.account)
    state.plan(call.db, "payout_leaves", payout["id"], due_at=(call.now + arrives_at) // 2)
    state.plan(call.db, "payout_arrives", payout["id"], due_at=arrives_at)
    return payout


def leave(call: Call, payout: dict[str, Any]) -> None:
    """Handed to the bank: from now on nobody cancels it."""
    if payout["status"] == "pending":
        _tell(call, payout | {"status": "in_transit"}, "payout.updated")


def arrive(call: Call, payout: dict[str, Any]) -> None:
    """What Stripe takes for arrived: no bank has confirmed it."""
    if payout["status"] in {"pending", "in_transit"}:
        _tell(call, payout | {"status": "paid"}, "payout.paid")


def fail(call: Call, payout: dict[str, Any], code: str) -> None:
    """The bank sends it back, also days after `paid`. A connected account is paid out no more
    until it has given Stripe another bank account.
    """
    if payout["status"] not in {"pending", "in_transit", "paid"}:
        raise StripeError(f"Payout {payout['id']} is {payout['status']}.")
    failed = payout | {
        "failure_code": code,
        "failure_message": FAILURES[code],
        "status": "failed",
    }
    _give_back(call, failed, "payout_failure")
    _tell(call, failed, "payout.failed")
    _stop_payouts(call, _owner(call, payout))


def cancel_payout(call: Call) -> dict[str, Any]:
    payout = in_path(call, "payout")
    cancel(call, payout)
    return answer(call, in_path(call, "payout"))


def cancel(call: Call, payout: dict[str, Any]) -> None:
    if payout["status"] != "pending":
        raise StripeError(f"Payouts that are {payout['status']} cannot be canceled.")
    canceled = payout | {"status": "canceled"}
    _give_back(call, canceled, "payout_cancel")
    _tell(call, canceled, "payout.canceled")


def empty_by_schedule(call: Call, account: dict[str, Any]) -> None:
    """Stripe's own schedule: all that is available goes to the bank."""
    if not account["payouts_enabled"]:
        return
    there = Call(db=call.db, now=call.now, base_url=call.base_url, account=account["id"])
    for currency, (available, _) in balance_of(call, account["id"]).items():
        if available > 0:
            pay_out(there, amount_minor=available, currency=currency, automatic=True)


def plan_by_schedule(call: Call, account_id: str) -> None:
    """Once money is there; not at all while the sandbox's setting for it is 0."""
    after_seconds = state.setting(call.db, "automatic_payout_after_seconds")
    if after_seconds:
        due_at = call.now + after_seconds
        state.plan(call.db, "account_is_emptied", account_id, due_at=due_at)


def retrieve_payout(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "payout"))


def list_payouts(call: Call) -> dict[str, Any]:
    names = ("destination", "status")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "payout", url="/v1/payouts", filters=filters)


def _owner(call: Call, payout: dict[str, Any]) -> str:
    return state.account_of(call.db, payout["id"])


def _book(call: Call, payout: dict[str, Any], type_: str, amount_minor: int) -> dict[str, Any]:
    is_new = payout["balance_transaction"] is None
    return book(
        call,
        Movement(
            type_=type_,
            reporting_category="payout" if is_new else "payout_reversal",
            source=payout["id"],
            amount_minor=amount_minor,
            currency=payout["currency"],
            account=call.account if is_new else _owner(call, payout),
            description=payout["description"],
        ),
    )


def _give_back(call: Call, payout: dict[str, Any], type_: str) -> None:
    line = _book(call, payout, type_, payout["amount"])
    payout["failure_balance_transaction"] = line["id"]


def _tell(call: Call, payout: dict[str, Any], event: str) -> None:
    state.update(call.db, payout)
    emit(call, event, payout, account=_owner(call, payout))


def _stop_payouts(call: Call, account_id: str) -> None:
    account = state.find(call.db, "account", account_id)
    if account is None:
        return
    account["payouts_enabled"] = False
    due = {name: ["external_account"] for name in ("currently_due", "eventually_due", "past_due")}
    account["requirements"] |= due
    state.update(call.db, account)
    emit(call, "account.updated", account, account=account_id)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/payouts",
        takes=Fields(
            {
                "amount": AMOUNT,
                "currency": Currency(),
                "description": Text(),
                "expand": EXPAND,
                "metadata": Metadata(),
                "method": Text(choices=("standard",)),
                "statement_descriptor": Text(length_max=22),
            },
            required=("amount", "currency"),
        ),
        run=create_payout,
        connect=True,
    ),
    Operation(
        method="GET",
        path="/v1/payouts",
        takes=listing_of(destination=Text(), status=Text(choices=STATUSES)),
        run=list_payouts,
        connect=True,
    ),
    Operation(
        method="GET", path="/v1/payouts/{id}", takes=RETRIEVE, run=retrieve_payout, connect=True
    ),
    Operation(
        method="POST",
        path="/v1/payouts/{id}/cancel",
        takes=Fields({"expand": EXPAND}),
        run=cancel_payout,
        connect=True,
    ),
)
