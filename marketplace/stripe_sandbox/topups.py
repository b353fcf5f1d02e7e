"""Top-ups: the platform's own money into its Stripe balance."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, book
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import AMOUNT, Currency, Fields, Integer, Metadata, Text
from marketplace.stripe_sandbox.views import answer, page


def create_topup(call: Call) -> dict[str, Any]:
    """Succeeds and is available at once, unless the settings say when; Stripe takes days."""
    after_seconds = state.setting(call.db, "topup_after_seconds")
    topup: dict[str, Any] = {
        "id": state.new_id("tu"),
        "object": "topup",
        "amount": call.parameters["amount"],
        "balance_transaction": None,
        "created": call.now,
        "currency": call.parameters["currency"],
        "description": call.parameters.get("description"),
        "expected_availability_date": call.now + after_seconds,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": call.parameters.get("metadata", {}),
        "source": None,
        "statement_descriptor": call.parameters.get("statement_descriptor"),
        "status": "pending",
        "transfer_group": call.parameters.get("transfer_group"),
    }
    state.insert(call.db, topup, account=state.PLATFORM)
    emit(call, "topup.created", topup)
    if after_seconds:
        state.plan(call.db, "topup_arrives", topup["id"], due_at=call.now + after_seconds)
    else:
        topup = arrive(call, topup)
    return answer(call, topup)


def arrive(call: Call, topup: dict[str, Any]) -> dict[str, Any]:
    """The money comes, or the bank refuses it."""
    if state.setting(call.db, "topups_fail"):
        topup |= {
            "failure_code": "insufficient_funds",
            "failure_message": "The bank account has insufficient funds.",
            "status": "failed",
        }
        state.update(call.db, topup)
        emit(call, "topup.failed", topup)
        return topup
    line = book(
        call,
        Movement(
            type_="topup",
            reporting_category="topup",
            source=topup["id"],
            amount_minor=topup["amount"],
            currency=topup["currency"],
        ),
    )
    topup |= {"balance_transaction": line["id"], "status": "succeeded"}
    state.update(call.db, topup)
    emit(call, "topup.succeeded", topup)
    return topup


def retrieve_topup(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "topup"))


def list_topups(call: Call) -> dict[str, Any]:
    names = ("amount", "status")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "topup", url="/v1/topups", filters=filters)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/topups",
        takes=Fields(
            {
                "amount": AMOUNT,
                "currency": Currency(),
                "description": Text(),
                "expand": EXPAND,
                "metadata": Metadata(),
                "statement_descriptor": Text(length_max=15),
                "transfer_group": Text(),
            },
            required=("amount", "currency"),
        ),
        run=create_topup,
    ),
    Operation(
        method="GET",
        path="/v1/topups",
        takes=listing_of(
            amount=Integer(),
            status=Text(choices=("canceled", "failed", "pending", "succeeded")),
        ),
        run=list_topups,
    ),
    Operation(method="GET", path="/v1/topups/{id}", takes=RETRIEVE, run=retrieve_topup),
)
