"""One Stripe request: admitted, looked up by its key, checked, run, remembered, answered."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from marketplace.stripe_sandbox import (
    accounts,
    balances,
    charges,
    checkout,
    disputes,
    events,
    idempotency,
    payouts,
    refunds,
    reversals,
    state,
    topups,
    transfers,
)
from marketplace.stripe_sandbox.admission import admit, encoded_parameters
from marketplace.stripe_sandbox.calls import Call, Operation
from marketplace.stripe_sandbox.deliveries import wait_for_early_webhooks
from marketplace.stripe_sandbox.errors import (
    StripeError,
    balance_insufficient,
    operation_lacking,
)
from marketplace.stripe_sandbox.faults import Fault, FaultKind, take_fault
from marketplace.stripe_sandbox.forms import read_parameters
from marketplace.stripe_sandbox.idempotency import Claim, Saved
from marketplace.stripe_sandbox.later import happen

OPERATIONS: tuple[Operation, ...] = (
    *accounts.OPERATIONS,
    *balances.OPERATIONS,
    *charges.OPERATIONS,
    *checkout.OPERATIONS,
    *disputes.OPERATIONS,
    *events.OPERATIONS,
    *payouts.OPERATIONS,
    *refunds.OPERATIONS,
    *reversals.OPERATIONS,
    *topups.OPERATIONS,
    *transfers.OPERATIONS,
)

SERVER_ERROR = {"error": {"message": "An unknown error occurred", "type": "api_error"}}


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """What the running process holds beside its file: keys in use, and two ways to be heard."""

    db: sqlite3.Connection
    abort: Callable[[Any], None]
    events_written: asyncio.Event = field(default_factory=asyncio.Event)
    keys_in_use: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    encoded: str
    account: str
    key: str | None
    base_url: str
    request_id: str


class Silence(Response):
    """No answer at all: the connection is cut, or else left open until the client gives up."""

    def __init__(self, cut: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.cut = cut

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:  # ASGI's signature
        if self.cut is not None:
            self.cut()
        while (await receive())["type"] != "http.disconnect":
            pass


async def serve(request: Request) -> Response:
    sandbox: Sandbox = request.app.state.sandbox
    asked = Asked(
        method=request.method,
        path=request.url.path,
        encoded=await encoded_parameters(request),
        account=request.headers.get("stripe-account", state.PLATFORM),
        key=request.headers.get("idempotency-key") if request.method == "POST" else None,
        base_url=str(request.base_url).rstrip("/"),
        request_id=state.new_id("req"),
    )
    fault = take_fault(
        sandbox.db, method=asked.method, path=asked.path, request_id=asked.request_id
    )
    kind = fault.kind if fault else None

    def cut() -> None:
        sandbox.abort(request.client)

    if kind == FaultKind.DROP_BEFORE:
        return Silence(cut)
    try:
        admit(request.headers)
        answered = await _in_turn(sandbox, asked, fault)
    except StripeError as error:
        retry = {"Retry-After": f"{fault.seconds:g}"} if fault and error.status == 429 else {}
        return _reply(asked, error.status, error.body(), retry)
    if kind == FaultKind.APPLY_THEN_DROP:
        return Silence(cut)
    if kind == FaultKind.HANG:
        return Silence()
    return answered


async def _in_turn(sandbox: Sandbox, asked: Asked, fault: Fault | None) -> Response:
    """Holds the key while the request runs, so that a second one with the same key gets 409."""
    if asked.key is None:
        return await _after_latency(sandbox, asked, fault)
    idempotency.check_length(asked.key)
    in_use = (asked.account, asked.key)
    if in_use in sandbox.keys_in_use:
        raise idempotency.key_in_use(asked.key)
    sandbox.keys_in_use.add(in_use)
    try:
        return await _after_latency(sandbox, asked, fault)
    finally:
        sandbox.keys_in_use.discard(in_use)


async def _after_latency(sandbox: Sandbox, asked: Asked, fault: Fault | None) -> Response:
    if fault and fault.kind == FaultKind.TOO_MANY_REQUESTS:
        raise StripeError("Too many requests", status=429, code="rate_limit")
    if fault and fault.kind == FaultKind.CONFLICT:
        raise idempotency.key_in_use(asked.key or "none")
    latency_seconds = state.setting(sandbox.db, "latency_ms") / 1000
    if fault and fault.kind == FaultKind.SLOW:
        latency_seconds += fault.seconds
    if latency_seconds:
        await asyncio.sleep(latency_seconds)
    happen(sandbox.db)
    with state.transaction(sandbox.db):
        saved, replayed = _recall_or_run(sandbox.db, asked, fault)
    sandbox.events_written.set()
    await wait_for_early_webhooks(sandbox.db, asked.request_id)
    headers = {"Original-Request": saved.request_id, "Idempotent-Replayed": "true"}
    return _reply(asked, saved.status, saved.body, headers if replayed else {})


def _recall_or_run(db: sqlite3.Connection, asked: Asked, fault: Fault | None) -> tuple[Saved, bool]:
    now = state.virtual_now(db)
    if asked.key is None:
        return _run(db, asked, fault, now), False
    claim = Claim(
        account=asked.account,
        key=asked.key,
        fingerprint=idempotency.fingerprint(asked.path, asked.encoded),
    )
    saved = idempotency.recall(db, claim, now=now)
    if saved is not None:
        return saved, True
    saved = _run(db, asked, fault, now)
    idempotency.remember(db, claim, saved, now=now)
    return saved, False


def _run(db: sqlite3.Connection, asked: Asked, fault: Fault | None, now: int) -> Saved:
    """Validation errors leave by exception; a refusal of the operation itself is an answer."""
    operation, path_id, path_part = _operation(asked)
    call = Call(
        db=db,
        now=now,
        base_url=asked.base_url,
        account=_connected(db, asked, operation),
        path_id=path_id,
        path_part=path_part,
        parameters=read_parameters(asked.encoded, operation.takes),
        request_id=asked.request_id,
        idempotency_key=asked.key,
    )
    status, body = 200, {}
    if fault and fault.kind == FaultKind.ACCOUNT_RESTRICTED:
        accounts.restrict_if_known(call, call.parameters.get("destination", ""))
    try:
        with state.savepoint(db):
            if fault and fault.kind == FaultKind.BALANCE_INSUFFICIENT:
                raise balance_insufficient()
            body = operation.run(call)
    except StripeError as error:
        status, body = error.status, error.body()
    if fault and fault.kind == FaultKind.ERROR_500_AFTER_APPLY:
        status, body = 500, SERVER_ERROR
    return Saved(status=status, body=body, request_id=asked.request_id)


def _operation(asked: Asked) -> tuple[Operation, str, str]:
    for operation in OPERATIONS:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.path)
        matched = re.fullmatch(pattern, asked.path)
        if matched and operation.method == asked.method:
            named = matched.groupdict()
            return operation, named.get("id", ""), named.get("part", "")
    raise operation_lacking(asked.method, asked.path)


def _connected(db: sqlite3.Connection, asked: Asked, operation: Operation) -> str:
    if asked.account == state.PLATFORM:
        return asked.account
    if state.find(db, "account", asked.account) is None:
        raise accounts.account_invalid(asked.account)
    if not operation.connect:
        raise StripeError(
            f"The Stripe sandbox lacks {asked.method} {asked.path} on behalf of a connected "
            "account.",
            status=404,
        )
    return asked.account


def _reply(asked: Asked, status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    echoed = {"Idempotency-Key": asked.key} if asked.key else {}
    return JSONResponse(
        body,
        status_code=status,
        headers={
            "Request-Id": asked.request_id,
            "Stripe-Version": events.API_VERSION,
            **echoed,
            **headers,
        },
    )
