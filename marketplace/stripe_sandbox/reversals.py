"""Reversals: of a transfer, from the connected account's balance back into the platform's."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, book, require_available
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.errors import StripeError, resource_missing
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import AMOUNT, Fields, Metadata, Text
from marketplace.stripe_sandbox.views import answer, page

SHOWN_IN_TRANSFER = 10
# Not by time, unlike other lists.
PAGED = Fields({name: each for name, each in listing_of().fields.items() if name != "created"})


def create_reversal(call: Call) -> dict[str, Any]:
    transfer = in_path(call, "transfer")
    reversal = reverse(call, transfer, amount_minor=call.parameters.get("amount"))
    return answer(call, reversal)


def reverse(call: Call, transfer: dict[str, Any], *, amount_minor: int | None) -> dict[str, Any]:
    """`None` is all that is left of the transfer."""
    left = transfer["amount"] - transfer["amount_reversed"]
    amount_minor = left if amount_minor is None else amount_minor
    _require_left(transfer, amount_minor, left)
    currency, account = transfer["currency"], transfer["destination"]
    require_available(call, amount_minor=amount_minor, currency=currency, account=account)
    reversal = _new_reversal(call, transfer, amount_minor)
    line = book(
        call,
        Movement(
            type_="transfer_refund",
            reporting_category="transfer_reversal",
            source=reversal["id"],
            amount_minor=amount_minor,
            currency=currency,
            description=call.parameters.get("description"),
        ),
    )
    reversal["balance_transaction"] = line["id"]
    _take_from_account(call, transfer, reversal)
    state.insert(call.db, reversal, account=state.PLATFORM)
    _tell_transfer(call, transfer, reversal)
    return reversal


def retrieve_reversal(call: Call) -> dict[str, Any]:
    transfer = in_path(call, "transfer")
    reversal = state.find(call.db, "transfer_reversal", call.path_part, account=call.account)
    if reversal is None or reversal["transfer"] != transfer["id"]:
        raise resource_missing("transfer_reversal", call.path_part, param="id")
    return answer(call, reversal)


def list_reversals(call: Call) -> dict[str, Any]:
    transfer = in_path(call, "transfer")
    url = f"/v1/transfers/{transfer['id']}/reversals"
    return page(call, "transfer_reversal", url=url, filters={"transfer": transfer["id"]})


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/transfers/{id}/reversals",
        takes=Fields(
            {
                "amount": AMOUNT,
                "description": Text(),
                "expand": EXPAND,
                "metadata": Metadata(),
            },
        ),
        run=create_reversal,
    ),
    Operation(method="GET", path="/v1/transfers/{id}/reversals", takes=PAGED, run=list_reversals),
    Operation(
        method="GET",
        path="/v1/transfers/{id}/reversals/{part}",
        takes=RETRIEVE,
        run=retrieve_reversal,
    ),
)


def _require_left(transfer: dict[str, Any], amount_minor: int, left: int) -> None:
    if left == 0:
        raise StripeError(f"Transfer {transfer['id']} has already been fully reversed.")
    if amount_minor > left:
        raise StripeError(
            f"Reversal amount ({amount_minor}) is greater than unreversed amount on transfer "
            f"({left})",
            param="amount",
        )


def _new_reversal(call: Call, transfer: dict[str, Any], amount_minor: int) -> dict[str, Any]:
    return {
        "id": state.new_id("trr"),
        "object": "transfer_reversal",
        "amount": amount_minor,
        "balance_transaction": None,
        "created": call.now,
        "currency": transfer["currency"],
        "destination_payment_refund": state.new_id("pyr"),
        "metadata": call.parameters.get("metadata", {}),
        "source_refund": None,
        "transfer": transfer["id"],
    }


def _take_from_account(call: Call, transfer: dict[str, Any], reversal: dict[str, Any]) -> None:
    """The connected account's side: its payment is refunded."""
    book(
        call,
        Movement(
            type_="payment_refund",
            reporting_category="refund",
            source=reversal["destination_payment_refund"],
            amount_minor=-reversal["amount"],
            currency=reversal["currency"],
            account=transfer["destination"],
        ),
    )
    payment = state.find(call.db, "charge", transfer["destination_payment"])
    assert payment is not None
    refunded = payment["amount_refunded"] + reversal["amount"]
    payment |= {"amount_refunded": refunded, "refunded": refunded == payment["amount"]}
    state.update(call.db, payment)


def _tell_transfer(call: Call, transfer: dict[str, Any], reversal: dict[str, Any]) -> None:
    reversed_minor = transfer["amount_reversed"] + reversal["amount"]
    listed = transfer["reversals"]
    shown = [reversal, *listed["data"]]
    more = listed["has_more"] or len(shown) > SHOWN_IN_TRANSFER
    transfer |= {
        "amount_reversed": reversed_minor,
        "reversals": listed | {"data": shown[:SHOWN_IN_TRANSFER], "has_more": more},
        "reversed": reversed_minor == transfer["amount"],
    }
    state.update(call.db, transfer)
    emit(call, "transfer.reversed", transfer)
