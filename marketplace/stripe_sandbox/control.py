"""How the product and its tests steer the sandbox: clock, settings, webhooks, faults, a look in.

Stripe has nothing like it. Requests and answers are JSON; unknown fields are refused.
"""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from marketplace.stripe_sandbox import faults, payouts, state
from marketplace.stripe_sandbox.accounts import set_transfers_capability
from marketplace.stripe_sandbox.api import Sandbox
from marketplace.stripe_sandbox.balances import Movement, balance_of, book
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.endpoints import (
    list_deliveries,
    list_endpoints,
    register_endpoint,
    remove_endpoint,
)
from marketplace.stripe_sandbox.errors import StripeError, resource_missing
from marketplace.stripe_sandbox.faults import WEBHOOK, FaultKind, PlannedFault, WebhookFaultKind
from marketplace.stripe_sandbox.later import happen
from marketplace.stripe_sandbox.reversals import reverse

router = APIRouter(prefix="/_sandbox")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Clock(Strict):
    offset_seconds: int


class Settings(Strict):
    """Times are virtual but for the latency; 1 lets the bank refuse top-ups or refunds.

    `automatic_payout_after_seconds` is 0 while connected accounts are not paid out by themselves.
    `refund_fee` is what a refund costs in minor units, or gives back of the payment's fee (negative).
    `euros_percent` is 0 while charges settle in their own currency, else what 100 are in euros.
    """

    automatic_payout_after_seconds: int | None = Field(default=None, ge=0)
    available_after_seconds: int | None = Field(default=None, ge=0)
    bank_debit_after_seconds: int | None = Field(default=None, ge=0)
    fee_after_seconds: int | None = Field(default=None, ge=0)
    euros_percent: int | None = Field(default=None, ge=0, le=1_000)
    latency_ms: int | None = Field(default=None, ge=0, le=60_000)
    payout_after_seconds: int | None = Field(default=None, ge=0)
    refund_after_seconds: int | None = Field(default=None, ge=0)
    refund_fee: int | None = None
    refunds_fail: int | None = Field(default=None, ge=0, le=1)
    topup_after_seconds: int | None = Field(default=None, ge=0)
    topups_fail: int | None = Field(default=None, ge=0, le=1)


class NewEndpoint(Strict):
    url: str = Field(pattern="^https?://")
    secret: str = Field(min_length=1)
    connect: bool = False


class Capability(Strict):
    transfers: Literal["active", "inactive"]


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(str(error)) from error
    return text


class NewFault(Strict):
    method: Literal["GET", "POST", "DELETE", "*"] = "*"
    path: Annotated[str, AfterValidator(_regular_expression)]
    nth: int = Field(default=1, ge=1)
    kind: FaultKind = Field(strict=False)
    seconds: float = Field(default=1.0, ge=0, strict=False)


class NewWebhookFault(Strict):
    event: Annotated[str, AfterValidator(_regular_expression)]
    nth: int = Field(default=1, ge=1)
    kind: WebhookFaultKind = Field(strict=False)
    seconds: float = Field(default=1.0, ge=0, strict=False)


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/clock")
async def get_clock(request: Request) -> dict[str, int]:
    db = _sandbox(request).db
    return {
        "offset_seconds": state.setting(db, "offset_seconds"),
        "now": state.virtual_now(db),
    }


@router.put("/clock")
async def set_clock(request: Request, clock: Clock) -> dict[str, int]:
    """What was due by then has happened when this answers."""
    sandbox = _sandbox(request)
    with state.transaction(sandbox.db):
        state.set_setting(sandbox.db, "offset_seconds", clock.offset_seconds)
    if happen(sandbox.db):
        sandbox.events_written.set()
    return await get_clock(request)


@router.get("/settings")
async def get_settings(request: Request) -> dict[str, int]:
    db = _sandbox(request).db
    return {name: state.setting(db, name) for name in Settings.model_fields}


@router.put("/settings")
async def set_settings(request: Request, settings: Settings) -> dict[str, int]:
    """Changes what is named and leaves the rest; applies to what happens from now on."""
    db = _sandbox(request).db
    with state.transaction(db):
        for name, value in settings.model_dump(exclude_none=True).items():
            state.set_setting(db, name, value)
    return await get_settings(request)


@router.get("/webhook_endpoints")
async def get_endpoints(request: Request) -> list[dict[str, Any]]:
    return list_endpoints(_sandbox(request).db)


@router.post("/webhook_endpoints", status_code=201)
async def add_endpoint(request: Request, new: NewEndpoint) -> dict[str, str]:
    db = _sandbox(request).db
    with state.transaction(db):
        id_ = register_endpoint(db, url=new.url, secret=new.secret, connect=new.connect)
    return {"id": id_}


@router.delete("/webhook_endpoints/{endpoint_id}", status_code=204)
async def delete_endpoint(request: Request, endpoint_id: str) -> None:
    """What was still owed to it is dropped with it."""
    db = _sandbox(request).db
    with state.transaction(db):
        known = remove_endpoint(db, endpoint_id)
    if not known:
        raise HTTPException(status_code=404, detail="no such webhook endpoint")


@router.get("/deliveries")
async def get_deliveries(request: Request) -> list[dict[str, Any]]:
    """Every event for every endpoint, oldest first, with all that the endpoint answered."""
    return list_deliveries(_sandbox(request).db)


@router.get("/faults")
async def get_faults(request: Request) -> list[dict[str, Any]]:
    return faults.list_faults(_sandbox(request).db)


@router.post("/faults", status_code=201)
async def add_fault(request: Request, new: NewFault) -> dict[str, int]:
    db = _sandbox(request).db
    with state.transaction(db):
        return {"id": faults.add_fault(db, PlannedFault(**new.model_dump()))}


@router.post("/webhook_faults", status_code=201)
async def add_webhook_fault(request: Request, new: NewWebhookFault) -> dict[str, int]:
    """On the nth try to deliver an event of the type; it stands among the other faults."""
    db = _sandbox(request).db
    planned = PlannedFault(
        method=WEBHOOK, path=new.event, nth=new.nth, kind=new.kind, seconds=new.seconds
    )
    with state.transaction(db):
        return {"id": faults.add_fault(db, planned)}


@router.delete("/faults", status_code=204)
async def delete_faults(request: Request) -> None:
    db = _sandbox(request).db
    with state.transaction(db):
        faults.clear_faults(db)


@router.put("/accounts/{account_id}/capabilities")
async def set_capability(request: Request, account_id: str, wanted: Capability) -> dict[str, str]:
    """Restricts a connected account, or lifts the restriction, as Stripe might at any time."""
    sandbox = _sandbox(request)
    call = Call(db=sandbox.db, now=state.virtual_now(sandbox.db), base_url="")
    try:
        with state.transaction(sandbox.db):
            set_transfers_capability(call, account_id, active=wanted.transfers == "active")
    except StripeError as error:
        raise HTTPException(status_code=error.status, detail=str(error)) from error
    sandbox.events_written.set()
    return {"transfers": wanted.transfers}


class BankSays(Strict):
    """What becomes of a payout: `failed` and `canceled` bring the money back."""

    status: Literal["in_transit", "paid", "failed", "canceled"]
    failure_code: str = "account_closed"


@router.put("/payouts/{payout_id}")
async def set_payout(request: Request, payout_id: str, said: BankSays) -> dict[str, str]:
    """Lets a bank payout go on, arrive or come back; it may fail after it was paid."""
    sandbox = _sandbox(request)
    call = Call(db=sandbox.db, now=state.virtual_now(sandbox.db), base_url="")
    payout = state.find(sandbox.db, "payout", payout_id)
    if payout is None or said.failure_code not in payouts.FAILURES:
        raise HTTPException(status_code=404, detail="no such payout, or no such failure")
    try:
        with state.transaction(sandbox.db):
            _go_on(call, payout, said)
    except StripeError as error:
        raise HTTPException(status_code=error.status, detail=str(error)) from error
    sandbox.events_written.set()
    return {"status": said.status}


def _go_on(call: Call, payout: dict[str, Any], said: BankSays) -> None:
    match said.status:
        case "in_transit":
            payouts.leave(call, payout)
        case "paid":
            payouts.arrive(call, payout)
        case "failed":
            payouts.fail(call, payout, said.failure_code)
        case "canceled":
            payouts.cancel(call, payout)


class NewAutomaticPayout(Strict):
    amount: int = Field(ge=1)
    currency: str = Field(pattern="^[a-z]{3}$")
    # Null is the platform itself, whose own payouts should be made by hand alone.
    account: str | None = None


@router.post("/payouts", status_code=201)
async def pay_out_by_schedule(request: Request, new: NewAutomaticPayout) -> dict[str, str]:
    """A payout that Stripe's schedule makes, asked for by nobody."""
    sandbox = _sandbox(request)
    now = state.virtual_now(sandbox.db)
    call = Call(db=sandbox.db, now=now, base_url="", account=new.account or state.PLATFORM)
    try:
        with state.transaction(sandbox.db):
            payout = payouts.pay_out(
                call, amount_minor=new.amount, currency=new.currency, automatic=True
            )
    except StripeError as error:
        raise HTTPException(status_code=error.status, detail=str(error)) from error
    sandbox.events_written.set()
    return {"id": payout["id"]}


class NewReversal(Strict):
    amount: int | None = Field(default=None, ge=1)


@router.post("/transfers/{transfer_id}/reversals", status_code=201)
async def reverse_by_hand(
    request: Request, transfer_id: str, wanted: NewReversal
) -> dict[str, str]:
    """As somebody may on Stripe's own pages; without an amount, all that is left."""
    sandbox = _sandbox(request)
    call = Call(db=sandbox.db, now=state.virtual_now(sandbox.db), base_url="")
    try:
        with state.transaction(sandbox.db):
            transfer = state.find(sandbox.db, "transfer", transfer_id, account=state.PLATFORM)
            if transfer is None:
                raise resource_missing("transfer", transfer_id, param="id")
            reversal = reverse(call, transfer, amount_minor=wanted.amount)
    except StripeError as error:
        raise HTTPException(status_code=error.status, detail=str(error)) from error
    sandbox.events_written.set()
    return {"id": reversal["id"]}


class NewFee(Strict):
    amount: int = Field(ge=1)
    currency: str = Field(pattern="^[a-z]{3}$")
    # Stripe has some fifty types and adds new ones.
    type: str = Field(default="stripe_fee", pattern="^[a-z_]+$")


@router.post("/fees", status_code=201)
async def take_fee(request: Request, fee: NewFee) -> dict[str, str]:
    """Takes a fee out of the platform's balance, as Stripe does for what is no single payment."""
    sandbox = _sandbox(request)
    call = Call(db=sandbox.db, now=state.virtual_now(sandbox.db), base_url="")
    movement = Movement(
        type_=fee.type,
        reporting_category="fee",
        source=None,
        amount_minor=-fee.amount,
        currency=fee.currency,
        description="A fee for the use of Stripe",
    )
    with state.transaction(sandbox.db):
        return {"id": book(call, movement)["id"]}


@router.get("/state")
async def get_state(request: Request) -> dict[str, Any]:
    """A summary for a human; nothing in the product may depend on it."""
    db = _sandbox(request).db
    call = Call(db=db, now=state.virtual_now(db), base_url="")
    counts = db.execute("SELECT kind, count(*) FROM object GROUP BY kind ORDER BY kind").fetchall()
    owners = db.execute("SELECT DISTINCT account FROM balance_line ORDER BY account").fetchall()
    (owed,) = db.execute("SELECT count(*) FROM delivery WHERE delivered_at IS NULL").fetchone()
    return {
        "now": call.now,
        "objects": dict(tuple(row) for row in counts),
        "balances": {owner[0] or "platform": _sums(call, owner[0]) for owner in owners},
        "transfers": _transfer_totals(call),
        "webhooks_owed": owed,
    }


def _sandbox(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def _sums(call: Call, account: str) -> dict[str, dict[str, int]]:
    return {
        currency: {"available_minor": available, "pending_minor": pending}
        for currency, (available, pending) in balance_of(call, account).items()
    }


def _transfer_totals(call: Call) -> list[dict[str, Any]]:
    rows = call.db.execute(
        "SELECT json_extract(body, '$.destination') AS destination, "
        "json_extract(body, '$.currency') AS currency, count(*) AS count, "
        "sum(json_extract(body, '$.amount')) AS amount_minor "
        "FROM object WHERE kind = 'transfer' GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [dict(row) for row in rows]
