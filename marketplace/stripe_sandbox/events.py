"""Events: written in the transaction of their effect, together with what must be delivered."""

import time
from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.errors import StripeError, resource_missing
from marketplace.stripe_sandbox.forms import Many, Text
from marketplace.stripe_sandbox.views import answer, as_of_now, page

# https://docs.stripe.com/api/events: what is older can be neither listed nor retrieved.
KEPT_SECONDS = 30 * 86_400
API_VERSION = "2026-10-28.endive"


def emit(call: Call, type_: str, subject: dict[str, Any], *, account: str = state.PLATFORM) -> None:
    """Records what happened to `subject`; `account` is the connected account it happened on."""
    event: dict[str, Any] = {
        "id": state.new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": call.now,
        "data": {"object": as_of_now(call, subject)},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": call.request_id, "idempotency_key": call.idempotency_key},
        "type": type_,
    }
    if account:
        event["account"] = account
    state.insert(call.db, event, account=account)
    call.db.execute(
        "INSERT INTO delivery (event_id, endpoint_id, due_at) "
        "SELECT ?, id, ? FROM endpoint WHERE connect = ?",
        (event["id"], time.time(), int(bool(account))),
    )


def retrieve_event(call: Call) -> dict[str, Any]:
    event = in_path(call, "event")
    if event["created"] < call.now - KEPT_SECONDS:
        raise resource_missing("event", call.path_id, param="id")
    return answer(call, event)


def list_events(call: Call) -> dict[str, Any]:
    type_, types = call.parameters.get("type"), call.parameters.get("types")
    if type_ is not None and types is not None:
        raise StripeError("You may only specify one of these parameters: type, types.")
    if type_ is not None and "*" in type_:
        raise StripeError("The Stripe sandbox lacks wildcards in event types.", param="type")
    wanted = types if types is not None else type_
    return page(
        call,
        "event",
        url="/v1/events",
        filters={} if wanted is None else {"type": wanted},
        since=call.now - KEPT_SECONDS,
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/events",
        takes=listing_of(type=Text(), types=Many(Text(), count_max=20)),
        run=list_events,
        connect=True,
    ),
    Operation(
        method="GET", path="/v1/events/{id}", takes=RETRIEVE, run=retrieve_event, connect=True
    ),
)
