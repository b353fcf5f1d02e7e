"""Refunds of charges: out of the available balance, at once, later or in vain."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, balance_of, book
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.charges import in_settlement_currency
from marketplace.stripe_sandbox.errors import StripeError, resource_missing
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import AMOUNT, Fields, Metadata, Text
from marketplace.stripe_sandbox.views import answer, page

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
TRIES_AGAIN_SECONDS = 3600


def create_refund(call: Call) -> dict[str, Any]:
    """Succeeds at once, unless the settings say when; without funds it waits for them
    (https://docs.stripe.com/changelog/basil/2025-04-30/refund-pending-reason).
    """
    charge = _refundable(call)
    refund = _new_refund(call, charge)
    state.insert(call.db, refund, account=state.PLATFORM)
    _count(call, charge, refund["amount"])
    _take_money(call, refund)
    after_seconds = state.setting(call.db, "refund_after_seconds")
    if refund["balance_transaction"] and not after_seconds:
        _end(refund, "succeeded")
    elif refund["balance_transaction"]:
        state.plan(call.db, "refund_ends", refund["id"], due_at=call.now + after_seconds)
    state.update(call.db, refund)
    emit(call, "refund.created", refund)
    emit(call, "charge.refunded", charge)
    return answer(call, refund)


def try_again(call: Call, refund: dict[str, Any]) -> None:
    """One that waits for funds."""
    if refund["status"] != "pending" or refund["balance_transaction"]:
        return
    _take_money(call, refund)
    if refund["balance_transaction"]:
        _end(refund, "succeeded")
        state.update(call.db, refund)
        emit(call, "refund.updated", refund)


def end_later(call: Call, refund: dict[str, Any]) -> None:
    if refund["status"] != "pending":
        return
    if state.setting(call.db, "refunds_fail"):
        fail(call, refund)
    else:
        succeed(call, refund)


def succeed(call: Call, refund: dict[str, Any]) -> None:
    if refund["status"] != "pending" or not refund["balance_transaction"]:
        raise StripeError(f"{refund['id']} is not on its way.")
    _end(refund, "succeeded")
    state.update(call.db, refund)
    emit(call, "refund.updated", refund)


def fail(call: Call, refund: dict[str, Any]) -> None:
    """The bank sends it back, which may happen after it was called a success; what was taken
    comes back (https://docs.stripe.com/refunds#failed-refunds).
    """
    if refund["status"] not in {"pending", "succeeded"}:
        raise StripeError(f"{refund['id']} has ended already.")
    _end(refund, "failed")
    refund["failure_reason"] = "lost_or_stolen_card"
    if refund["balance_transaction"]:
        refund["failure_balance_transaction"] = _book(call, refund, "refund_failure", 1)
    state.update(call.db, refund)
    charge = state.find(call.db, "charge", refund["charge"])
    assert charge is not None
    _count(call, charge, -refund["amount"])
    emit(call, "refund.updated", refund)
    emit(call, "refund.failed", refund)


def retrieve_refund(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "refund"))


def list_refunds(call: Call) -> dict[str, Any]:
    names = ("charge", "payment_intent")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "refund", url="/v1/refunds", filters=filters)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/refunds",
        takes=Fields(
            {
                "amount": AMOUNT,
                "charge": Text(),
                "expand": EXPAND,
                "metadata": Metadata(),
                "payment_intent": Text(),
                "reason": Text(choices=REASONS),
            }
        ),
        run=create_refund,
    ),
    Operation(
        method="GET",
        path="/v1/refunds",
        takes=listing_of(charge=Text(), payment_intent=Text()),
        run=list_refunds,
    ),
    Operation(method="GET", path="/v1/refunds/{id}", takes=RETRIEVE, run=retrieve_refund),
)


def _refundable(call: Call) -> dict[str, Any]:
    """The charge that is meant, as far as it may be refunded now."""
    charge = _named_charge(call)
    left = charge["amount"] - charge["amount_refunded"]
    if charge["status"] != "succeeded":
        raise StripeError(f"Charge {charge['id']} has not succeeded.", param="charge")
    if charge["disputed"]:
        raise StripeError(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
        )
    if left == 0:
        raise StripeError(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    if call.parameters.get("amount", left) > left:
        raise StripeError(
            f"Refund amount ({call.parameters['amount']}) is greater than unrefunded amount on "
            f"charge ({left})",
            param="amount",
        )
    return charge


def _named_charge(call: Call) -> dict[str, Any]:
    charge_id, intent_id = (call.parameters.get(name) for name in ("charge", "payment_intent"))
    if (charge_id is None) == (intent_id is None):
        raise StripeError(
            "One of the following params should be provided for this request: payment_intent or "
            "charge."
        )
    if charge_id is not None:
        return _named(call, "charge", charge_id)
    intent = _named(call, "payment_intent", intent_id or "")
    if intent["latest_charge"] is None:
        raise StripeError(f"{intent_id} does not have a successful charge to refund.")
    return _named(call, "charge", intent["latest_charge"])


def _named(call: Call, kind: str, id_: str) -> dict[str, Any]:
    found = state.find(call.db, kind, id_, account=call.account)
    if found is None:
        raise resource_missing(kind, id_, param=kind, status=400)
    return found


def _count(call: Call, charge: dict[str, Any], amount_minor: int) -> None:
    charge["amount_refunded"] += amount_minor
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    state.update(call.db, charge)


def _take_money(call: Call, refund: dict[str, Any]) -> None:
    needed, currency, _ = in_settlement_currency(call, refund["charge"], refund["amount"])
    available, _ = balance_of(call, state.PLATFORM).get(currency, (0, 0))
    if available >= needed:
        refund["balance_transaction"] = _book(call, refund, "refund", -1)
        refund["pending_reason"] = "processing"
        return
    refund["pending_reason"] = "insufficient_funds"
    due_at = call.now + TRIES_AGAIN_SECONDS
    state.plan(call.db, "refund_tries_again", refund["id"], due_at=due_at)


def _book(call: Call, refund: dict[str, Any], type_: str, sign: int) -> str:
    moved_minor, currency, rate = in_settlement_currency(
        call, refund["charge"], sign * refund["amount"]
    )
    line = book(
        call,
        Movement(
            type_=type_,
            reporting_category=type_,
            source=refund["id"],
            amount_minor=moved_minor,
            currency=currency,
            exchange_rate=rate,
            fee_minor=state.setting(call.db, "refund_fee") if type_ == "refund" else 0,
        ),
    )
    id_: str = line["id"]
    return id_


def _end(refund: dict[str, Any], status: str) -> None:
    refund["status"] = status
    refund.pop("pending_reason", None)


def _new_refund(call: Call, charge: dict[str, Any]) -> dict[str, Any]:
    left = charge["amount"] - charge["amount_refunded"]
    return {
        "id": state.new_id("re"),
        "object": "refund",
        "amount": call.parameters.get("amount", left),
        "balance_transaction": None,
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "metadata": call.parameters.get("metadata", {}),
        "payment_intent": charge["payment_intent"],
        "reason": call.parameters.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "pending",
        "transfer_reversal": None,
    }
