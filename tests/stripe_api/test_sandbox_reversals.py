"""Reversals in the sandbox: what comes back, what does not, and what is told of it."""

from typing import Any

import pytest

from .conftest import Sandbox

URLS = "return_url=http://127.0.0.1:9/done&refresh_url=http://127.0.0.1:9/again"


@pytest.fixture
def transfer(sandbox: Sandbox) -> dict[str, Any]:
    """400 of the platform's 1,000, in an account that holds nothing else."""
    account = sandbox.ask("POST", "/v1/accounts", "capabilities[transfers][requested]=true").json()
    form = f"account={account['id']}&type=account_onboarding&{URLS}"
    sandbox.complete(sandbox.ask("POST", "/v1/account_links", form).json()["url"], "complete")
    sandbox.ask("POST", "/v1/topups", "amount=1000&currency=usd")
    form = f"amount=400&currency=usd&destination={account['id']}"
    made: dict[str, Any] = sandbox.ask("POST", "/v1/transfers", form).json()
    return made


def available(sandbox: Sandbox, account: str = "") -> int:
    on = {"Stripe-Account": account} if account else {}
    minor: int = sandbox.ask("GET", "/v1/balance", **on).json()["available"][0]["amount"]
    return minor


def test_money_comes_back_on_both_sides(sandbox: Sandbox, transfer: dict[str, Any]) -> None:
    path, account = f"/v1/transfers/{transfer['id']}/reversals", transfer["destination"]
    reversal = sandbox.ask("POST", path, "amount=150&metadata[reversal_id]=r").json()
    assert (reversal["object"], reversal["amount"]) == ("transfer_reversal", 150)
    assert (reversal["transfer"], reversal["metadata"]) == (transfer["id"], {"reversal_id": "r"})
    assert (available(sandbox), available(sandbox, account)) == (750, 250)
    ours = sandbox.ask("GET", f"/v1/balance_transactions/{reversal['balance_transaction']}").json()
    assert (ours["type"], ours["net"], ours["source"]) == ("transfer_refund", 150, reversal["id"])
    theirs = sandbox.ask("GET", "/v1/balance_transactions", **{"Stripe-Account": account}).json()
    assert [(line["type"], line["net"]) for line in theirs["data"]] == [
        ("payment_refund", -150),
        ("payment", 400),
    ]
    now = sandbox.ask("GET", f"/v1/transfers/{transfer['id']}").json()
    assert (now["amount_reversed"], now["reversed"]) == (150, False)
    assert [each["id"] for each in now["reversals"]["data"]] == [reversal["id"]]
    (event,) = sandbox.ask("GET", "/v1/events", "type=transfer.reversed").json()["data"]
    assert event["data"]["object"]["amount_reversed"] == 150


def test_all_that_is_left(sandbox: Sandbox, transfer: dict[str, Any]) -> None:
    path = f"/v1/transfers/{transfer['id']}/reversals"
    first = sandbox.ask("POST", path, "amount=150").json()
    rest = sandbox.ask("POST", path).json()
    assert rest["amount"] == 250
    assert sandbox.ask("GET", f"/v1/transfers/{transfer['id']}").json()["reversed"] is True
    listed = sandbox.ask("GET", path).json()["data"]
    assert [each["id"] for each in listed] == [rest["id"], first["id"]]
    assert sandbox.ask("GET", f"{path}/{first['id']}").json()["id"] == first["id"]
    assert sandbox.ask("GET", f"{path}/trr_nobody").status_code == 404
    refused = sandbox.ask("POST", path)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("form", ["amount=401", "amount=0", "amount=1.5", "amonut=1"])
def test_what_is_refused(sandbox: Sandbox, transfer: dict[str, Any], form: str) -> None:
    refused = sandbox.ask("POST", f"/v1/transfers/{transfer['id']}/reversals", form)
    assert refused.status_code == 400
    assert available(sandbox) == 600


def test_not_more_than_the_account_holds(sandbox: Sandbox, transfer: dict[str, Any]) -> None:
    """Another transfer's money is the account's, too; what is not there is not taken."""
    path = f"/v1/transfers/{transfer['id']}/reversals"
    form = f"amount=100&currency=usd&destination={transfer['destination']}"
    other = sandbox.ask("POST", "/v1/transfers", form).json()
    assert sandbox.ask("POST", path, "amount=400").is_success
    assert sandbox.ask("POST", f"/v1/transfers/{other['id']}/reversals").is_success
    assert available(sandbox, transfer["destination"]) == 0


def test_an_unknown_transfer(sandbox: Sandbox) -> None:
    for method in ("POST", "GET"):
        assert sandbox.ask(method, "/v1/transfers/tr_nobody/reversals").status_code == 404


def test_by_hand(sandbox: Sandbox, transfer: dict[str, Any]) -> None:
    made = sandbox.control("POST", f"transfers/{transfer['id']}/reversals", amount=100)
    (listed,) = sandbox.ask("GET", f"/v1/transfers/{transfer['id']}/reversals").json()["data"]
    assert (listed["id"], listed["metadata"]) == (made["id"], {})
