"""Charges and payment intents: what a completed Checkout leaves behind, and what a transfer
looks like from the connected account's side.
"""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, book, card_fee_minor
from marketplace.stripe_sandbox.calls import RETRIEVE, Call, Operation, in_path
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.views import answer

CARD_DECLINED = {
    "code": "card_declined",
    "decline_code": "generic_decline",
    "message": "Your card was declined.",
    "type": "card_error",
}
DEBIT_BOUNCED = {
    "code": "payment_intent_payment_attempt_failed",
    "message": "The bank account has insufficient funds.",
    "type": "invalid_request_error",
}


def retrieve_payment_intent(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "payment_intent"))


def retrieve_charge(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "charge"))


OPERATIONS = (
    Operation(
        method="GET", path="/v1/payment_intents/{id}", takes=RETRIEVE, run=retrieve_payment_intent
    ),
    Operation(
        method="GET", path="/v1/charges/{id}", takes=RETRIEVE, run=retrieve_charge, connect=True
    ),
)


def new_payment_intent(
    call: Call, *, amount_minor: int, currency: str, data: dict[str, Any]
) -> dict[str, Any]:
    """Created when the customer first tries to pay, as Checkout does."""
    id_ = state.new_id("pi")
    intent = {
        "id": id_,
        "object": "payment_intent",
        "amount": amount_minor,
        "amount_capturable": 0,
        "amount_received": 0,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": state.new_id(f"{id_}_secret"),
        "confirmation_method": "automatic",
        "created": call.now,
        "currency": currency,
        "customer": None,
        "description": data.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": data.get("metadata", {}),
        "next_action": None,
        "payment_method": None,
        "payment_method_types": ["card", "us_bank_account"],
        "status": "requires_payment_method",
        "transfer_group": data.get("transfer_group"),
    }
    state.insert(call.db, intent, account=state.PLATFORM)
    emit(call, "payment_intent.created", intent)
    return intent


def pay_by_card(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    charge = _new_charge(call, intent)
    state.insert(call.db, charge, account=state.PLATFORM)
    return _succeed(call, intent, charge)


def decline_card(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    charge = _new_charge(call, intent)
    state.insert(call.db, charge, account=state.PLATFORM)
    return _fail(call, intent, charge, CARD_DECLINED)


def begin_bank_debit(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    charge = _new_charge(call, intent) | {"paid": False, "status": "pending"}
    state.insert(call.db, charge, account=state.PLATFORM)
    intent |= {
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "payment_method": charge["payment_method"],
        "status": "processing",
    }
    state.update(call.db, intent)
    emit(call, "charge.pending", charge)
    emit(call, "payment_intent.processing", intent)
    return intent


def end_bank_debit(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    return _succeed(call, intent, _latest_charge(call, intent))


def bounce_bank_debit(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    return _fail(call, intent, _latest_charge(call, intent), DEBIT_BOUNCED)


def tell_fee(call: Call, charge: dict[str, Any]) -> None:
    """With `capture_method: automatic_async` the balance transaction comes after the charge
    (https://docs.stripe.com/payments/payment-intents/asynchronous-capture).
    """
    charge["balance_transaction"] = _book(call, charge)
    state.update(call.db, charge)
    emit(call, "charge.updated", charge)


def _succeed(call: Call, intent: dict[str, Any], charge: dict[str, Any]) -> dict[str, Any]:
    """Money pending, less the fee, which is the same for cards and debits here."""
    fee_after_seconds = state.setting(call.db, "fee_after_seconds")
    if fee_after_seconds:
        state.plan(call.db, "fee_is_told", charge["id"], due_at=call.now + fee_after_seconds)
    else:
        charge["balance_transaction"] = _book(call, charge)
    charge |= {"paid": True, "status": "succeeded"}
    state.update(call.db, charge)
    intent |= {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "payment_method": charge["payment_method"],
        "status": "succeeded",
    }
    state.update(call.db, intent)
    emit(call, "charge.succeeded", charge)
    emit(call, "payment_intent.succeeded", intent)
    return intent


def _book(call: Call, charge: dict[str, Any]) -> str:
    """In its own currency, or in the one that the platform's account settles in."""
    percent = state.setting(call.db, "euros_percent")
    amount_minor = charge["amount"] * percent // 100 if percent else charge["amount"]
    line = book(
        call,
        Movement(
            type_="charge",
            reporting_category="charge",
            source=charge["id"],
            amount_minor=amount_minor,
            currency="eur" if percent else charge["currency"],
            exchange_rate=percent / 100 if percent else None,
            fee_minor=card_fee_minor(amount_minor),
            available_after_seconds=state.setting(call.db, "available_after_seconds"),
            description=charge["description"],
        ),
    )
    id_: str = line["id"]
    return id_


def in_settlement_currency(
    call: Call, charge_id: str, amount_minor: int
) -> tuple[int, str, float | None]:
    """So much of a charge (negative leaves) in what it was settled in, at today's rate; and the rate
    (https://docs.stripe.com/currencies/conversions).
    """
    charge = state.find(call.db, "charge", charge_id)
    assert charge is not None
    line = state.find(call.db, "balance_transaction", charge["balance_transaction"] or "")
    if line is None or line["currency"] == charge["currency"]:
        return amount_minor, charge["currency"], None
    percent = state.setting(call.db, "euros_percent") or round(line["exchange_rate"] * 100)
    whole = abs(amount_minor) * percent // 100
    return whole if amount_minor > 0 else -whole, line["currency"], percent / 100


def _fail(
    call: Call, intent: dict[str, Any], charge: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    charge |= {
        "amount_captured": 0,
        "captured": False,
        "failure_code": error["code"],
        "failure_message": error["message"],
        "paid": False,
        "status": "failed",
    }
    state.update(call.db, charge)
    intent |= {
        "last_payment_error": {**error, "charge": charge["id"]},
        "latest_charge": charge["id"],
        "status": "requires_payment_method",
    }
    state.update(call.db, intent)
    emit(call, "charge.failed", charge)
    emit(call, "payment_intent.payment_failed", intent)
    return intent


def _latest_charge(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    charge = state.find(call.db, "charge", intent["latest_charge"])
    assert charge is not None
    return charge


def transferred_payment(call: Call, transfer: dict[str, Any]) -> dict[str, Any]:
    """The connected account's side of a transfer: a `py_` object and its `payment` line."""
    id_ = state.new_id("py")
    line = book(
        call,
        Movement(
            type_="payment",
            reporting_category="charge",
            source=id_,
            amount_minor=transfer["amount"],
            currency=transfer["currency"],
            account=transfer["destination"],
        ),
    )
    payment = _charge(
        call, id_=id_, amount_minor=transfer["amount"], currency=transfer["currency"]
    ) | {"balance_transaction": line["id"], "source_transfer": transfer["id"]}
    state.insert(call.db, payment, account=transfer["destination"])
    return payment


def _new_charge(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
    return _charge(
        call,
        id_=state.new_id("ch"),
        amount_minor=intent["amount"],
        currency=intent["currency"],
    ) | {
        "description": intent["description"],
        "metadata": intent["metadata"],
        "payment_intent": intent["id"],
        "payment_method": state.new_id("pm"),
        "transfer_group": intent["transfer_group"],
    }


def _charge(call: Call, *, id_: str, amount_minor: int, currency: str) -> dict[str, Any]:
    return {
        "id": id_,
        "object": "charge",
        "amount": amount_minor,
        "amount_captured": amount_minor,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": {
            "address": None,
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        "captured": True,
        "created": call.now,
        "currency": currency,
        "customer": None,
        "description": None,
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {},
        "paid": True,
        "payment_intent": None,
        "payment_method": None,
        "refunded": False,
        "source_transfer": None,
        "status": "succeeded",
        "transfer_group": None,
    }
