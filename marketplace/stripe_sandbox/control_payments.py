"""Steering what becomes of payments afterwards: refunds that end, disputes that open and close."""

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field

from marketplace.stripe_sandbox import disputes, refunds, state
from marketplace.stripe_sandbox.api import Sandbox
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.control import Strict
from marketplace.stripe_sandbox.errors import StripeError

router = APIRouter(prefix="/_sandbox")

Effect = Callable[[Call, dict[str, Any]], object]


class RefundEnd(Strict):
    status: Literal["succeeded", "failed"]


class NewDispute(Strict):
    """Of a payment; the whole of it, unless an amount is given."""

    payment_intent: str
    amount: int | None = Field(default=None, ge=1)
    reason: str = Field(default="fraudulent", pattern="^[a-z_]+$")
    inquiry: bool = False
    # False: the funds are withdrawn later, by a change to `withdrawn`.
    withdraws: bool = True


class DisputeChange(Strict):
    to: Literal[
        "withdrawn",
        "under_review",
        "escalated",
        "won",
        "lost",
        "prevented",
        "warning_closed",
    ]
    # How much comes back of what was taken; all of it, unless it is said.
    given_back: int | None = Field(default=None, ge=0)


@router.put("/refunds/{refund_id}")
async def end_refund(request: Request, refund_id: str, wanted: RefundEnd) -> dict[str, Any]:
    """Ends a refund that is on its way, or lets the bank send back one that has succeeded."""
    end = refunds.succeed if wanted.status == "succeeded" else refunds.fail
    return _happens_to(request, "refund", refund_id, end)


@router.post("/disputes", status_code=201)
async def open_dispute(request: Request, new: NewDispute) -> dict[str, Any]:
    def dispute_it(call: Call, intent: dict[str, Any]) -> dict[str, Any]:
        charge = state.find(call.db, "charge", intent["latest_charge"] or "")
        if charge is None:
            raise StripeError(f"{intent['id']} has no charge.")
        return disputes.open_dispute(
            call,
            charge,
            amount_minor=new.amount,
            reason=new.reason,
            inquiry=new.inquiry,
            withdraws=new.withdraws,
        )

    return _happens_to(request, "payment_intent", new.payment_intent, dispute_it)


@router.put("/disputes/{dispute_id}")
async def change_dispute(
    request: Request, dispute_id: str, wanted: DisputeChange
) -> dict[str, Any]:
    def change(call: Call, dispute: dict[str, Any]) -> None:
        match wanted.to:
            case "withdrawn":
                disputes.withdraw(call, dispute)
            case "under_review":
                disputes.update(call, dispute)
            case "escalated":
                disputes.escalate(call, dispute)
            case _:
                disputes.close(call, dispute, wanted.to, given_back=wanted.given_back)

    return _happens_to(request, "dispute", dispute_id, change)


def _happens_to(request: Request, kind: str, id_: str, effect: Effect) -> dict[str, Any]:
    """Answers what the effect made, or else the object as it is then."""
    sandbox: Sandbox = request.app.state.sandbox
    call = Call(db=sandbox.db, now=state.virtual_now(sandbox.db), base_url="")
    try:
        with state.transaction(sandbox.db):
            subject = state.find(sandbox.db, kind, id_)
            if subject is None:
                raise HTTPException(status_code=404, detail=f"no such {kind}")
            made = effect(call, subject)
    except StripeError as error:
        raise HTTPException(status_code=error.status, detail=str(error)) from error
    sandbox.events_written.set()
    return made if isinstance(made, dict) else subject
