"""The sandbox is held to Stripe's published file and to the SDK: it takes no more, and answers alike.

All other stories are judged as they go; here the judges themselves are looked at.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from marketplace.stripe_sandbox.api import OPERATIONS as SANDBOX_OPERATIONS
from marketplace.stripe_sandbox.forms import Fields, Many, TimeFilter
from tests import stripe_judge as judge
from tests.stripe_deviations import PARAMETERS, Deviation
from tests.world import World

from .conftest import API_KEY, Sandbox

URLS = "return_url=http://127.0.0.1:9/done&refresh_url=http://127.0.0.1:9/again"
SESSION = (
    "mode=payment&success_url=http://127.0.0.1:9/ok&line_items[0][quantity]=1"
    "&line_items[0][price_data][currency]=usd&line_items[0][price_data][unit_amount]=5000"
    "&line_items[0][price_data][product_data][name]=Deposit"
)
TOPUP = "amount=1000&currency=usd"
# Stripe's own file of 2026-05-27, as a git blob.
FILE_SHA1 = "46a756853037a268164656fe0f939477e5fa35e7"


def test_whole_story_has_the_shapes_of_stripe(sandbox: Sandbox) -> None:
    account = sandbox.ask("POST", "/v1/accounts", "capabilities[transfers][requested]=true").json()
    form = f"account={account['id']}&type=account_onboarding&{URLS}"
    link = sandbox.ask("POST", "/v1/account_links", form).json()
    sandbox.complete(link["url"], "complete")
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    sandbox.complete(session["url"], "card_declined")
    sandbox.complete(session["url"], "card")
    sandbox.ask("POST", "/v1/topups", TOPUP)
    form = f"amount=400&currency=usd&destination={account['id']}"
    transfer = sandbox.ask("POST", "/v1/transfers", form).json()
    reversals = f"/v1/transfers/{transfer['id']}/reversals"
    reversal = sandbox.ask("POST", reversals, "amount=100&metadata[a]=b").json()
    sandbox.ask("POST", reversals)
    expanded = "expand[]=transfer&expand[]=balance_transaction"
    assert sandbox.ask("GET", f"{reversals}/{reversal['id']}", expanded).is_success
    assert sandbox.ask("GET", reversals).is_success
    paid_out = sandbox.ask("POST", "/v1/payouts", TOPUP.replace("1000", "100")).json()
    sandbox.ask("POST", f"/v1/payouts/{paid_out['id']}/cancel")
    expanded = "expand[]=payment_intent.latest_charge.balance_transaction"
    for asked in (
        f"accounts/{account['id']}",
        f"checkout/sessions/{session['id']}?{expanded}",
        "balance",
        "balance_transactions?expand[]=data.source",
        "events?limit=100",
        "payouts?expand[]=data.failure_balance_transaction",
        f"payouts/{paid_out['id']}?expand[]=balance_transaction",
        "topups",
        "transfers?expand[]=data.destination_payment",
    ):
        path, _, query = f"/v1/{asked}".partition("?")
        assert sandbox.ask("GET", path, query).is_success
        sandbox.ask("GET", path, query, **{"Stripe-Account": account["id"]})


def test_refusals_have_the_shape_of_stripe(sandbox: Sandbox) -> None:
    for path, form in (("topups", "amount=0"), ("transfers", "x=1"), ("refunds", "")):
        assert not sandbox.ask("POST", f"/v1/{path}", form).is_success


class TestParameters:
    def test_every_operation_of_the_sandbox_is_judged(self) -> None:
        known = {
            judge.operation_of(operation.method, operation.path.replace("{id}", "x"))
            for operation in SANDBOX_OPERATIONS
        }
        assert known == judge.OPERATIONS.keys()

    @pytest.mark.parametrize("operation", judge.OPERATIONS, ids=" ".join)
    def test_the_sandbox_takes_nothing_that_a_judge_does_not_know(
        self, operation: judge.Operation
    ) -> None:
        (ours,) = (
            each
            for each in SANDBOX_OPERATIONS
            if judge.operation_of(each.method, each.path.replace("{id}", "x")) == operation
        )
        taken = set(names_of_sandbox(ours.takes))
        assert taken <= set(names_of_file(judge.parameters_of(operation)))
        assert taken <= set(names_of_sdk(judge.OPERATIONS[operation]))

    @pytest.mark.parametrize("deviation", PARAMETERS, ids=lambda each: each.parameter)
    def test_where_the_judges_differ_is_as_listed(
        self, sandbox: Sandbox, deviation: Deviation
    ) -> None:
        told = judge.published()["operations"][deviation.operation]
        form = told["requestBody"]["content"][judge.FORM]["schema"]["properties"]
        assert (deviation.parameter in form) == deviation.only_in_file
        known = judge.type_of(judge.OPERATIONS[deviation.operation])
        assert (deviation.parameter in known) != deviation.only_in_file
        if deviation.only_in_file:
            method, path = deviation.operation
            refused = sandbox.ask(method, path, f"{deviation.parameter}=x").json()["error"]
            assert refused["code"] == "parameter_unknown"


class TestJudges:
    def test_the_file_is_stripes_own(self) -> None:
        whole = judge.whole_file()
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        blob = b"blob %d\0" % len(text) + text
        assert hashlib.sha1(blob, usedforsecurity=False).hexdigest() == FILE_SHA1

    @pytest.mark.parametrize(
        ("path", "encoded", "complaints"),
        [
            ("/v1/topups", TOPUP, 0),
            ("/v1/topups", f"{TOPUP}&metadata[a]=b&expand[]=balance_transaction", 0),
            ("/v1/topups", f"{TOPUP}&idempotency_key=k", 2),
            ("/v1/topups", f"{TOPUP}&amonut=5", 2),
            ("/v1/topups", "currency=usd", 2),
            ("/v1/topups", "amount=10.5&currency=usd", 2),
            ("/v1/topups", f"{TOPUP}&metadata[a][b]=c", 1),
            ("/v1/accounts", "controller[fees][payer]=application", 0),
            ("/v1/accounts", "controller[fees][payor]=application", 2),
            ("/v1/accounts", "controller[fees][payer]=stripe", 1),
            ("/v1/checkout/sessions", SESSION, 0),
            ("/v1/checkout/sessions", SESSION.replace("[name]", "[title]"), 4),
            ("/v1/checkout/sessions", f"{SESSION}&payment_method_types[0]=card", 2),
        ],
    )
    def test_they_hear_what_is_asked_wrongly(
        self, path: str, encoded: str, complaints: int
    ) -> None:
        assert len(judge.judge_request("POST", path, encoded)) == complaints

    def test_they_read_a_query_by_its_types(self) -> None:
        fine = "created[gte]=5&types[0]=topup.created&limit=100"
        assert judge.judge_request("GET", "/v1/events", fine) == []
        assert judge.judge_request("GET", "/v1/events", "created=5&type=topup.created") == []
        for wrong in ("created[after]=5", "limit=all", "types=topup.created"):
            assert len(judge.judge_request("GET", "/v1/events", wrong)) == 2, wrong

    def test_they_hear_a_wrong_answer(self, sandbox: Sandbox) -> None:
        topup = sandbox.ask("POST", "/v1/topups", TOPUP).json()
        for wrong in (
            {"object": "topup"},
            {**topup, "amount": "1000"},
            {**topup, "colour": "red"},
            {**topup, "status": "paid"},
            {**topup, "balance_transaction": {"object": "balance_transaction"}},
        ):
            assert judge.judge_answer("POST", "/v1/topups", 200, wrong)
        assert judge.judge_answer("POST", "/v1/topups", 400, {"error": {"message": 5}})

    def test_they_hear_a_wrong_event(self, sandbox: Sandbox) -> None:
        sandbox.ask("POST", "/v1/topups", TOPUP)
        told = sandbox.ask("GET", "/v1/events", "type=topup.succeeded").json()
        (event,) = told["data"]
        assert judge.judge_event(event) == []
        subject = event["data"]["object"]
        for wrong in (
            {"type": "topup.finished"},
            {"type": "charge.succeeded"},
            {"created": "now"},
            {"data": {"object": {**subject, "status": None}}},
        ):
            assert judge.judge_event({**event, **wrong})
            listed = {**told, "data": [{**event, **wrong}]}
            assert judge.judge_answer("GET", "/v1/events", 200, listed)

    def test_they_sit_in_every_story(self, world: World) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        for path, faults in (("topups?limit=1", 0), ("topups?limit=1&colour=red", 2)):
            world.http.get(f"{world.stripe.url}/v1/{path}", headers=headers)
            assert len(world.judged.faults) == faults
        world.judged.faults.clear()


def names_of_sandbox(shape: Any, under: str = "") -> Iterator[str]:
    match shape:
        case Fields():
            for name, inner in shape.fields.items():
                yield f"{under}[{name}]"
                yield from names_of_sandbox(inner, f"{under}[{name}]")
        case Many():
            yield from names_of_sandbox(shape.item, under)
        case TimeFilter():
            yield from names_of_sandbox(shape.bounds, under)


def names_of_file(shape: judge.Json, under: str = "") -> Iterator[str]:
    for branch in shape.get("anyOf", []):
        yield from names_of_file(branch, under)
    if "items" in shape:
        yield from names_of_file(shape["items"], under)
    for name, inner in shape.get("properties", {}).items():
        yield f"{under}[{name}]"
        yield from names_of_file(inner, f"{under}[{name}]")


def names_of_sdk(hint: Any, under: str = "") -> Iterator[str]:
    for branch in judge.branches_of(hint):
        for name, inner in judge.type_of(branch).items():
            yield f"{under}[{name}]"
            yield from names_of_sdk(inner, f"{under}[{name}]")
