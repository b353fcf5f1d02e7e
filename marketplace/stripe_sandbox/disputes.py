"""Disputes: what a payer's bank takes back, and perhaps gives again. Steered by control alone.

Funds and a fee leave when a dispute opens, whatever the balance is; an inquiry moves nothing
(https://docs.stripe.com/disputes/how-disputes-work).
"""

from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.balances import Movement, book
from marketplace.stripe_sandbox.calls import RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.charges import in_settlement_currency
from marketplace.stripe_sandbox.errors import StripeError
from marketplace.stripe_sandbox.events import emit
from marketplace.stripe_sandbox.forms import Text
from marketplace.stripe_sandbox.views import answer, page

FEE_MINOR = 1500
OPEN = {"needs_response", "under_review"}
INQUIRY = {"warning_needs_response", "warning_under_review"}


def open_dispute(
    call: Call,
    charge: dict[str, Any],
    *,
    amount_minor: int | None,
    reason: str,
    inquiry: bool,
    withdraws: bool,
) -> dict[str, Any]:
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise StripeError(f"Charge {charge['id']} cannot be disputed now.")
    status = "warning_needs_response" if inquiry else "needs_response"
    left = amount_minor or charge["amount"] - charge["amount_refunded"]
    if not 0 < left <= charge["amount"]:
        raise StripeError(f"Charge {charge['id']} has no {left} to dispute.")
    dispute = _new_dispute(call, charge, left, reason, status)
    state.insert(call.db, dispute, account=state.PLATFORM)
    _mark(call, charge["id"], disputed=not inquiry)
    emit(call, "charge.dispute.created", dispute)
    if withdraws and not inquiry:
        withdraw(call, dispute)
    return dispute


def withdraw(call: Call, dispute: dict[str, Any]) -> None:
    if dispute["balance_transactions"] or dispute["status"] in INQUIRY:
        raise StripeError(f"Nothing is withdrawn of {dispute['id']}.")
    _book(call, dispute, -dispute["amount"], FEE_MINOR)
    emit(call, "charge.dispute.funds_withdrawn", dispute)


def update(call: Call, dispute: dict[str, Any]) -> None:
    """Evidence is with the bank."""
    status = "warning_under_review" if dispute["status"] in INQUIRY else "under_review"
    _require(dispute, OPEN | INQUIRY)
    dispute["status"] = status
    state.update(call.db, dispute)
    emit(call, "charge.dispute.updated", dispute)


def escalate(call: Call, dispute: dict[str, Any]) -> None:
    """An inquiry becomes a dispute."""
    _require(dispute, INQUIRY)
    dispute |= {"is_charge_refundable": False, "status": "needs_response"}
    state.update(call.db, dispute)
    _mark(call, dispute["charge"], disputed=True)
    emit(call, "charge.dispute.updated", dispute)
    withdraw(call, dispute)


def close(
    call: Call, dispute: dict[str, Any], status: str, *, given_back: int | None = None
) -> None:
    """`won` and `prevented` give the funds back (all of them, unless told otherwise), but not the
    fee; `lost` and `warning_closed` move nothing.
    """
    _require(dispute, INQUIRY if status == "warning_closed" else OPEN)
    dispute["status"] = status
    state.update(call.db, dispute)
    if status != "lost":
        _mark(call, dispute["charge"], disputed=False)
    emit(call, "charge.dispute.closed", dispute)
    returned = dispute["amount"] if given_back is None else given_back
    if status in {"won", "prevented"} and dispute["balance_transactions"] and returned:
        _book(call, dispute, returned, 0)
        emit(call, "charge.dispute.funds_reinstated", dispute)


def retrieve_dispute(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "dispute"))


def list_disputes(call: Call) -> dict[str, Any]:
    names = ("charge", "payment_intent")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "dispute", url="/v1/disputes", filters=filters)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/disputes",
        takes=listing_of(charge=Text(), payment_intent=Text()),
        run=list_disputes,
    ),
    Operation(method="GET", path="/v1/disputes/{id}", takes=RETRIEVE, run=retrieve_dispute),
)


def _require(dispute: dict[str, Any], statuses: set[str]) -> None:
    if dispute["status"] not in statuses:
        raise StripeError(f"{dispute['id']} is {dispute['status']}.")


def _mark(call: Call, charge_id: str, *, disputed: bool) -> None:
    charge = state.find(call.db, "charge", charge_id)
    assert charge is not None
    charge["disputed"] = disputed
    state.update(call.db, charge)


def _book(call: Call, dispute: dict[str, Any], amount_minor: int, fee_minor: int) -> None:
    """A dispute carries its own lines, whole (https://docs.stripe.com/api/disputes/object)."""
    moved_minor, currency, rate = in_settlement_currency(call, dispute["charge"], amount_minor)
    line = book(
        call,
        Movement(
            type_="adjustment",
            reporting_category="dispute" if amount_minor < 0 else "dispute_reversal",
            source=dispute["id"],
            amount_minor=moved_minor,
            currency=currency,
            exchange_rate=rate,
            fee_minor=fee_minor,
            description="Chargeback" if amount_minor < 0 else "Chargeback reversal",
        ),
    )
    dispute["balance_transactions"].append(line)
    state.update(call.db, dispute)


def _new_dispute(
    call: Call, charge: dict[str, Any], amount_minor: int, reason: str, status: str
) -> dict[str, Any]:
    return {
        "id": state.new_id("du"),
        "object": "dispute",
        "amount": amount_minor,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": call.now + 7 * 24 * 3600,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": status in INQUIRY,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": status,
    }
