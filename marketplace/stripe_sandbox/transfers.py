"""Transfers: from the platform's available balance to a connected account's."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, book, require_available
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.charges import transferred_payment
from marketplace.stripe_sandbox.errors import (
    StripeError,
    resource_missing,
    transfers_capability_missing,
)
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import AMOUNT, Currency, Fields, Metadata, Text
from marketplace.stripe_sandbox.payouts import plan_by_schedule
from marketplace.stripe_sandbox.views import answer, page


def create_transfer(call: Call) -> dict[str, Any]:
    amount_minor, currency = call.parameters["amount"], call.parameters["currency"]
    _require_payable(call, currency)
    require_available(call, amount_minor=amount_minor, currency=currency)
    transfer = _new_transfer(call)
    line = book(
        call,
        Movement(
            type_="transfer",
            reporting_category="transfer",
            source=transfer["id"],
            amount_minor=-amount_minor,
            currency=currency,
            description=transfer["description"],
        ),
    )
    payment = transferred_payment(call, transfer)
    transfer |= {"balance_transaction": line["id"], "destination_payment": payment["id"]}
    state.insert(call.db, transfer, account=state.PLATFORM)
    emit(call, "transfer.created", transfer)
    plan_by_schedule(call, transfer["destination"])
    return answer(call, transfer)


def retrieve_transfer(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "transfer"))


def list_transfers(call: Call) -> dict[str, Any]:
    names = ("transfer_group", "destination")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "transfer", url="/v1/transfers", filters=filters)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/transfers",
        takes=Fields(
            {
                "amount": AMOUNT,
                "currency": Currency(),
                "description": Text(),
                "destination": Text(),
                "expand": EXPAND,
                "metadata": Metadata(),
                "transfer_group": Text(),
            },
            required=("amount", "currency", "destination"),
        ),
        run=create_transfer,
    ),
    Operation(
        method="GET",
        path="/v1/transfers",
        takes=listing_of(destination=Text(), transfer_group=Text()),
        run=list_transfers,
    ),
    Operation(method="GET", path="/v1/transfers/{id}", takes=RETRIEVE, run=retrieve_transfer),
)


def _require_payable(call: Call, currency: str) -> None:
    destination = call.parameters["destination"]
    account = state.find(call.db, "account", destination)
    if account is None:
        raise resource_missing("destination", destination, param="destination", status=400)
    if account["capabilities"].get("transfers") != "active":
        raise transfers_capability_missing()
    if account["default_currency"] != currency:
        raise StripeError(
            f"The Stripe sandbox lacks currency conversion: {destination} is paid in "
            f"{account['default_currency']}, not {currency}.",
            param="currency",
        )


def _new_transfer(call: Call) -> dict[str, Any]:
    id_ = state.new_id("tr")
    return {
        "id": id_,
        "object": "transfer",
        "amount": call.parameters["amount"],
        "amount_reversed": 0,
        "balance_transaction": None,
        "created": call.now,
        "currency": call.parameters["currency"],
        "description": call.parameters.get("description"),
        "destination": call.parameters["destination"],
        "destination_payment": None,
        "livemode": False,
        "metadata": call.parameters.get("metadata", {}),
        "reversals": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/transfers/{id_}/reversals",
        },
        "reversed": False,
        "source_transaction": None,
        "source_type": "card",
        "transfer_group": call.parameters.get("transfer_group"),
    }
