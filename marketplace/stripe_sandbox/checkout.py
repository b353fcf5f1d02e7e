"""Checkout Sessions: one payment on a hosted page."""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import EXPAND, RETRIEVE, Call, Operation, in_path
from marketplace.stripe_sandbox.charges import (
    begin_bank_debit,
    bounce_bank_debit,
    decline_card,
    end_bank_debit,
    new_payment_intent,
    pay_by_card,
)
from marketplace.stripe_sandbox.errors import StripeError
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import (
    AMOUNT,
    AMOUNT_MINOR_MAX,
    Currency,
    Fields,
    Integer,
    Many,
    Metadata,
    Text,
    Url,
)
from marketplace.stripe_sandbox.views import answer

SESSION_LIFE_SECONDS = 24 * 3600
AMOUNT_MINOR_MIN = {"usd": 50, "eur": 50, "gbp": 30}
CUSTOM_TEXTS = ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")


def create_session(call: Call) -> dict[str, Any]:
    amount_minor, currency = _total(call.parameters["line_items"])
    id_ = state.new_id("cs_test")
    session = {
        "id": id_,
        "object": "checkout.session",
        "amount_subtotal": amount_minor,
        "amount_total": amount_minor,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": call.parameters.get("cancel_url"),
        "client_reference_id": call.parameters.get("client_reference_id"),
        "created": call.now,
        "currency": currency,
        "custom_fields": [],
        "custom_text": dict.fromkeys(CUSTOM_TEXTS),
        "customer_email": call.parameters.get("customer_email"),
        "expires_at": call.now + SESSION_LIFE_SECONDS,
        "livemode": False,
        "metadata": call.parameters.get("metadata", {}),
        "mode": "payment",
        "payment_intent": None,
        "payment_method_types": ["card", "us_bank_account"],
        "payment_status": "unpaid",
        "shipping_options": [],
        "status": "open",
        "success_url": call.parameters["success_url"],
        "url": f"{call.base_url}/hosted/checkout/{id_}",
    }
    state.insert(call.db, session, account=state.PLATFORM)
    state.plan(call.db, "page_expires", id_, due_at=session["expires_at"])
    _keep_intent_data(call, id_)
    return answer(call, session)


def retrieve_session(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "checkout.session"))


def complete_by_card(call: Call, session: dict[str, Any]) -> dict[str, Any]:
    intent = pay_by_card(call, _intent(call, session))
    session |= {
        "payment_intent": intent["id"],
        "payment_status": "paid",
        "status": "complete",
        "url": None,
    }
    state.update(call.db, session)
    emit(call, "checkout.session.completed", session)
    return session


def try_declined_card(call: Call, session: dict[str, Any]) -> dict[str, Any]:
    """The session stays open: the customer may try another card."""
    intent = decline_card(call, _intent(call, session))
    session["payment_intent"] = intent["id"]
    state.update(call.db, session)
    return session


def complete_by_bank_debit(call: Call, session: dict[str, Any]) -> dict[str, Any]:
    """Complete but unpaid, until the bank has answered."""
    return _complete_unpaid(call, session, "debit_succeeds")


def complete_by_bouncing_debit(call: Call, session: dict[str, Any]) -> dict[str, Any]:
    return _complete_unpaid(call, session, "debit_bounces")


# What the customer may do on the hosted page.
PAY_BY = {
    "card": complete_by_card,
    "card_declined": try_declined_card,
    "bank_debit": complete_by_bank_debit,
    "bank_debit_bounced": complete_by_bouncing_debit,
}


def _complete_unpaid(call: Call, session: dict[str, Any], becomes: str) -> dict[str, Any]:
    intent = begin_bank_debit(call, _intent(call, session))
    session |= {"payment_intent": intent["id"], "status": "complete", "url": None}
    state.update(call.db, session)
    emit(call, "checkout.session.completed", session)
    after_seconds = state.setting(call.db, "bank_debit_after_seconds")
    state.plan(call.db, becomes, session["id"], due_at=call.now + after_seconds)
    return session


def succeed_later(call: Call, session: dict[str, Any]) -> None:
    end_bank_debit(call, _intent(call, session))
    session["payment_status"] = "paid"
    state.update(call.db, session)
    emit(call, "checkout.session.async_payment_succeeded", session)


def bounce_later(call: Call, session: dict[str, Any]) -> None:
    bounce_bank_debit(call, _intent(call, session))
    emit(call, "checkout.session.async_payment_failed", session)


def expire(call: Call, session: dict[str, Any]) -> None:
    if session["status"] == "open":
        session |= {"status": "expired", "url": None}
        state.update(call.db, session)
        emit(call, "checkout.session.expired", session)


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/checkout/sessions",
        takes=Fields(
            {
                "cancel_url": Url(),
                "client_reference_id": Text(length_max=200),
                "customer_email": Text(length_max=800),
                "expand": EXPAND,
                "line_items": Many(
                    Fields(
                        {
                            "price_data": Fields(
                                {
                                    "currency": Currency(),
                                    "product_data": Fields(
                                        {"name": Text(), "description": Text()},
                                        required=("name",),
                                    ),
                                    "unit_amount": AMOUNT,
                                },
                                required=("currency", "product_data", "unit_amount"),
                            ),
                            "quantity": Integer(at_least=1, at_most=999_999),
                        },
                        required=("price_data", "quantity"),
                    )
                ),
                "metadata": Metadata(),
                "mode": Text(choices=("payment",)),
                "payment_intent_data": Fields(
                    {
                        "description": Text(length_max=1000),
                        "metadata": Metadata(),
                        "transfer_group": Text(),
                    }
                ),
                "success_url": Url(),
            },
            required=("line_items", "mode", "success_url"),
        ),
        run=create_session,
    ),
    Operation(
        method="GET", path="/v1/checkout/sessions/{id}", takes=RETRIEVE, run=retrieve_session
    ),
)


def _total(line_items: list[dict[str, Any]]) -> tuple[int, str]:
    currencies = {item["price_data"]["currency"] for item in line_items}
    if len(currencies) != 1:
        raise StripeError("All line items must have the same currency.", param="line_items")
    (currency,) = currencies
    amount_minor = sum(item["price_data"]["unit_amount"] * item["quantity"] for item in line_items)
    if amount_minor < AMOUNT_MINOR_MIN.get(currency, 1):
        raise StripeError(
            "The Checkout Session's total amount is below the minimum for its currency.",
            code="amount_too_small",
        )
    if amount_minor > AMOUNT_MINOR_MAX:
        raise StripeError(
            f"The Checkout Session's total amount must be no more than {AMOUNT_MINOR_MAX}.",
            code="amount_too_large",
        )
    return amount_minor, currency


def _keep_intent_data(call: Call, session_id: str) -> None:
    """Kept beside the session: it belongs to the payment intent, which does not exist yet."""
    data = {
        "id": f"{session_id}.payment_intent_data",
        "object": "sandbox.payment_intent_data",
        "created": call.now,
        **call.parameters.get("payment_intent_data", {}),
    }
    state.insert(call.db, data, account=state.PLATFORM)


def _intent(call: Call, session: dict[str, Any]) -> dict[str, Any]:
    if session["payment_intent"] is not None:
        known = state.find(call.db, "payment_intent", session["payment_intent"])
        assert known is not None
        return known
    data = state.find(
        call.db, "sandbox.payment_intent_data", f"{session['id']}.payment_intent_data"
    )
    return new_payment_intent(
        call,
        amount_minor=session["amount_total"],
        currency=session["currency"],
        data=data or {},
    )
