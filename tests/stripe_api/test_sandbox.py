"""The sandbox's wire format: what it takes, what it refuses and how, what its lists look like."""

import asyncio
from pathlib import Path

import pytest

from marketplace.stripe_sandbox.deliveries import deliver_forever
from marketplace.stripe_sandbox.state import open_state

from .conftest import DAY_SECONDS, Receiver, Sandbox, eventually

TOPUP = "amount=1000&currency=usd"
SESSION = (
    "mode=payment&success_url=http://127.0.0.1:9/ok&line_items[0][quantity]=1"
    "&line_items[0][price_data][currency]=usd&line_items[0][price_data][unit_amount]=5000"
    "&line_items[0][price_data][product_data][name]=Deposit"
)

REFUSED = [
    ("topups", "currency=usd", "parameter_missing", "amount"),
    ("topups", "amount=&currency=usd", "parameter_invalid_empty", "amount"),
    ("topups", "amount=0&currency=usd", "parameter_invalid_integer", "amount"),
    ("topups", "amount=-5&currency=usd", "parameter_invalid_integer", "amount"),
    ("topups", "amount=10.5&currency=usd", "parameter_invalid_integer", "amount"),
    ("topups", "amount=1e3&currency=usd", "parameter_invalid_integer", "amount"),
    ("topups", "amount=100000000&currency=usd", "parameter_invalid_integer", "amount"),
    ("topups", "amount=1000&currency=xyz", None, "currency"),
    ("topups", f"{TOPUP}&amonut=5", "parameter_unknown", "amonut"),
    ("topups", f"{TOPUP}&idempotency_key=k", "parameter_unknown", "idempotency_key"),
    ("topups", f"{TOPUP}&currency[a]=usd", None, "currency[a]"),
    ("topups", f"{TOPUP}&metadata=x", None, "metadata"),
    ("topups", f"{TOPUP}&metadata[{'k' * 41}]=x", None, f"metadata[{'k' * 41}]"),
    ("topups", f"{TOPUP}&metadata[k]={'x' * 501}", None, "metadata[k]"),
    ("topups", TOPUP + "".join(f"&metadata[k{n}]=x" for n in range(51)), None, "metadata"),
    ("payouts", "amount=0&currency=usd", "parameter_invalid_integer", "amount"),
    ("payouts", f"{TOPUP}&method=instant", None, "method"),
    ("payouts", f"{TOPUP}&statement_descriptor={'x' * 23}", None, "statement_descriptor"),
    ("payouts", TOPUP, "balance_insufficient", None),
    ("accounts", "capabilities[transfers][asked]=true", "parameter_unknown", None),
    ("accounts", "capabilities[card_payments][requested]=true", "parameter_unknown", None),
    ("accounts", "capabilities[transfers][requested]=yes", None, None),
    ("accounts", "country=XX", "country_unsupported", None),
    ("account_links", "account=acct_x&type=account_onboarding", "resource_missing", "account"),
    ("checkout/sessions", f"{SESSION}&payment_method_types[0]=card", "parameter_unknown", None),
    ("checkout/sessions", SESSION.replace("5000", "49"), "amount_too_small", None),
    ("checkout/sessions", SESSION.replace("payment", "subscription"), None, "mode"),
    ("checkout/sessions", SESSION.replace("http://", ""), "url_invalid", "success_url"),
    ("checkout/sessions", f"{SESSION}&line_items[0][prize]=1", "parameter_unknown", None),
    ("checkout/sessions", f"{SESSION}&line_items[x][quantity]=1", None, "line_items"),
    ("transfers", f"{TOPUP}&destination=acct_x", "resource_missing", "destination"),
    ("transfers", f"{TOPUP}&destination=acct_x&source_transaction=ch_1", "parameter_unknown", None),
]


@pytest.mark.parametrize(("what", "form", "code", "param"), REFUSED)
def test_nonsense_is_refused_in_the_shape_of_stripe(
    untouched_sandbox: Sandbox, what: str, form: str, code: str | None, param: str | None
) -> None:
    answer = untouched_sandbox.ask("POST", f"/v1/{what}", form)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error.get("code") == code
    if param is not None:
        assert error["param"] == param
    assert answer.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/customers"),
        ("POST", "/v1/invoices"),
        ("DELETE", "/v1/accounts/acct_1"),
        ("POST", "/v1/balance"),
        ("GET", "/v2/core/events"),
    ],
)
def test_operation_it_lacks_is_refused_loudly(
    untouched_sandbox: Sandbox, method: str, path: str
) -> None:
    answer = untouched_sandbox.ask(method, path)
    assert answer.status_code == 404
    assert "The Stripe sandbox lacks this operation" in answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["", "Bearer sk_live_1", "Bearer nonsense", "Basic %%%"])
def test_only_test_keys_are_admitted(untouched_sandbox: Sandbox, key: str) -> None:
    answer = untouched_sandbox.ask("GET", "/v1/balance", Authorization=key)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_another_api_version_is_refused(untouched_sandbox: Sandbox) -> None:
    answer = untouched_sandbox.ask("GET", "/v1/balance", **{"Stripe-Version": "2020-08-27"})
    assert answer.status_code == 400


def test_lists_page_both_ways_and_filter_by_time(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "clock", offset_seconds=0)
    ids = []
    for number in range(5):
        ids.append(sandbox.ask("POST", "/v1/topups", f"amount={number + 1}&currency=usd").json())
        sandbox.pass_time(100)
    newest_first = [topup["id"] for topup in reversed(ids)]

    first = sandbox.ask("GET", "/v1/topups", "limit=2").json()
    assert [topup["id"] for topup in first["data"]] == newest_first[:2]
    assert (first["object"], first["has_more"], first["url"]) == ("list", True, "/v1/topups")
    rest = sandbox.ask("GET", "/v1/topups", f"starting_after={newest_first[1]}").json()
    assert [topup["id"] for topup in rest["data"]] == newest_first[2:]
    assert rest["has_more"] is False
    back = sandbox.ask("GET", "/v1/topups", f"limit=2&ending_before={newest_first[4]}").json()
    assert [topup["id"] for topup in back["data"]] == newest_first[2:4]
    since = sandbox.ask("GET", "/v1/topups", f"created[gte]={ids[3]['created']}").json()
    assert [topup["id"] for topup in since["data"]] == newest_first[:2]

    for refused in ("limit=101", "limit=0", "starting_after=tu_nobody", "created[after]=1"):
        assert sandbox.ask("GET", "/v1/topups", refused).status_code == 400


def test_balance_transactions_filter_by_type_and_source(sandbox: Sandbox) -> None:
    topup = sandbox.ask("POST", "/v1/topups", TOPUP).json()
    listed = sandbox.ask("GET", "/v1/balance_transactions", f"type=topup&source={topup['id']}")
    (line,) = listed.json()["data"]
    assert (line["amount"], line["fee"], line["net"], line["status"]) == (
        1000,
        0,
        1000,
        "available",
    )
    assert sandbox.ask("GET", "/v1/balance_transactions", "type=charge").json()["data"] == []
    shown = sandbox.ask("GET", f"/v1/balance_transactions/{line['id']}", "expand[]=source").json()
    assert shown["source"]["id"] == topup["id"]


def test_checkout_expands_down_to_its_balance_transaction(sandbox: Sandbox) -> None:
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    assert session["payment_intent"] is None
    sandbox.complete(session["url"], "card")
    path = "payment_intent.latest_charge.balance_transaction"
    shown = sandbox.ask("GET", f"/v1/checkout/sessions/{session['id']}", f"expand[0]={path}").json()
    charge = shown["payment_intent"]["latest_charge"]
    assert charge["balance_transaction"]["fee"] == 175
    assert charge["balance_transaction"]["fee_details"][0]["amount"] == 175
    plain = sandbox.ask("GET", f"/v1/charges/{charge['id']}").json()
    assert plain["balance_transaction"] == charge["balance_transaction"]["id"]
    unknown = sandbox.ask("GET", f"/v1/charges/{charge['id']}", "expand[]=customer")
    assert unknown.json()["error"]["param"] == "expand"


def test_fee_is_half_up_in_the_minor_unit(sandbox: Sandbox) -> None:
    for unit_amount, fee in ((50, 31), (500, 45), (50_017, 1480), (100_000, 2930)):
        form = SESSION.replace("=5000", f"={unit_amount}")
        session = sandbox.ask("POST", "/v1/checkout/sessions", form).json()
        sandbox.complete(session["url"], "card")
        (line,) = sandbox.ask("GET", "/v1/balance_transactions", "limit=1").json()["data"]
        assert (line["amount"], line["fee"]) == (unit_amount, fee)


def test_charges_can_be_available_at_once(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "settings", available_after_seconds=0)
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    sandbox.complete(session["url"], "card")
    (available,) = sandbox.ask("GET", "/v1/balance").json()["available"]
    assert available["amount"] == 5000 - 175


def test_deposit_tells_its_story_in_events(sandbox: Sandbox) -> None:
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    sandbox.complete(session["url"], "card_declined")
    sandbox.complete(session["url"], "card")
    events = sandbox.ask("GET", "/v1/events").json()["data"]
    assert [event["type"] for event in reversed(events)] == [
        "payment_intent.created",
        "charge.failed",
        "payment_intent.payment_failed",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    assert events[0]["data"]["object"]["payment_status"] == "paid"


def test_events_expire_after_thirty_days(sandbox: Sandbox) -> None:
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    sandbox.complete(session["url"], "card")
    kept = sandbox.ask("GET", "/v1/events").json()["data"]
    sandbox.pass_time(30 * DAY_SECONDS - 60)
    assert [each["id"] for each in sandbox.ask("GET", "/v1/events").json()["data"]] == [
        each["id"] for each in kept
    ]
    assert sandbox.ask("GET", f"/v1/events/{kept[0]['id']}").json()["id"] == kept[0]["id"]
    sandbox.pass_time(120)
    assert sandbox.ask("GET", "/v1/events").json()["data"] == []
    gone = sandbox.ask("GET", f"/v1/events/{kept[0]['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "resource_missing")


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (
            "bank_debit",
            [
                "charge.succeeded",
                "payment_intent.succeeded",
                "checkout.session.async_payment_succeeded",
            ],
        ),
        (
            "bank_debit_bounced",
            [
                "charge.failed",
                "payment_intent.payment_failed",
                "checkout.session.async_payment_failed",
            ],
        ),
    ],
)
def test_a_bank_debit_tells_its_story_in_events(
    sandbox: Sandbox, outcome: str, ending: list[str]
) -> None:
    session = sandbox.ask("POST", "/v1/checkout/sessions", SESSION).json()
    assert sandbox.complete(session["url"], outcome).status_code == 303
    sandbox.pass_time(4 * DAY_SECONDS)
    events = sandbox.ask("GET", "/v1/events").json()["data"]
    assert [event["type"] for event in reversed(events)] == [
        "payment_intent.created",
        "charge.pending",
        "payment_intent.processing",
        "checkout.session.completed",
        *ending,
    ]
    assert events[0]["created"] == events[-1]["created"] + 4 * DAY_SECONDS


def test_what_is_due_while_nobody_asks_is_told_by_webhook(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    sandbox.control("POST", "webhook_endpoints", url=receiver.url, secret="whsec_ours")
    sandbox.control("PUT", "settings", topup_after_seconds=1)
    sandbox.ask("POST", "/v1/topups", TOPUP)
    eventually(lambda: receiver.types() == ["topup.created", "topup.succeeded"])


def test_connected_account_sees_its_own_side_only(sandbox: Sandbox) -> None:
    form = "capabilities[transfers][requested]=true"
    account = sandbox.ask("POST", "/v1/accounts", form).json()["id"]
    sandbox.control("PUT", f"accounts/{account}/capabilities", transfers="active")
    sandbox.ask("POST", "/v1/topups", TOPUP)
    transfer = sandbox.ask(
        "POST", "/v1/transfers", f"amount=400&currency=usd&destination={account}"
    ).json()
    theirs = sandbox.ask("GET", "/v1/balance_transactions", **{"Stripe-Account": account}).json()
    (line,) = theirs["data"]
    assert (line["type"], line["net"]) == ("payment", 400)
    assert line["source"] == transfer["destination_payment"]
    ours = sandbox.ask("GET", "/v1/balance_transactions").json()["data"]
    assert [line["net"] for line in ours] == [-400, 1000]
    foreign = sandbox.ask("GET", "/v1/balance", **{"Stripe-Account": "acct_foreign"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "account_invalid")
    lacking = sandbox.ask("GET", "/v1/transfers", **{"Stripe-Account": account})
    assert lacking.status_code == 404


def test_control_shows_a_summary_and_refuses_unknown_fields(sandbox: Sandbox) -> None:
    sandbox.ask("POST", "/v1/topups", TOPUP)
    summary = sandbox.control("GET", "state")
    assert summary["objects"]["topup"] == 1
    assert summary["balances"]["platform"]["usd"] == {"available_minor": 1000, "pending_minor": 0}
    wrong = sandbox.http.put(f"{sandbox.url}/_sandbox/clock", json={"offset": 5})
    assert wrong.status_code == 422
    assert sandbox.control("GET", "health") == {"status": "ok"}


@pytest.mark.parametrize("turns", range(6))
def test_its_deliveries_end_even_when_they_are_just_woken(turns: int) -> None:
    async def story() -> bool:
        db, woken = open_state(Path(":memory:")), asyncio.Event()
        deliveries = asyncio.create_task(deliver_forever(db, woken))
        await asyncio.sleep(0.1)
        woken.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        deliveries.cancel()
        ended, _ = await asyncio.wait([deliveries], timeout=1)
        deliveries.cancel()
        await asyncio.wait([deliveries])
        db.close()
        return deliveries in ended

    assert asyncio.run(story())
