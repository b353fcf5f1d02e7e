"""Bank payouts in the sandbox: the money leaves at once, and the bank may send it back."""

import pytest

from .conftest import DAY_SECONDS, Sandbox

TOPUP = "amount=1000&currency=usd"


@pytest.fixture
def payout(sandbox: Sandbox) -> str:
    sandbox.ask("POST", "/v1/topups", TOPUP)
    made = sandbox.ask("POST", "/v1/payouts", "amount=400&currency=usd").json()
    assert (made["status"], made["automatic"]) == ("pending", False)
    identity: str = made["id"]
    return identity


def lines(sandbox: Sandbox) -> list[tuple[str, int]]:
    listed = sandbox.ask("GET", "/v1/balance_transactions").json()["data"]
    return [(line["type"], line["net"]) for line in listed]


def events(sandbox: Sandbox) -> list[str]:
    listed = sandbox.ask("GET", "/v1/events").json()["data"]
    return [event["type"] for event in listed if event["type"].startswith("payout.")]


def test_it_leaves_at_once_and_arrives_later(sandbox: Sandbox, payout: str) -> None:
    assert lines(sandbox) == [("payout", -400), ("topup", 1000)]
    refused = sandbox.ask("POST", "/v1/payouts", "amount=601&currency=usd").json()["error"]
    assert refused["code"] == "balance_insufficient"
    for days, status in ((1, "in_transit"), (2, "paid"), (9, "paid")):
        sandbox.control("PUT", "clock", offset_seconds=days * DAY_SECONDS + 5)
        assert sandbox.ask("GET", f"/v1/payouts/{payout}").json()["status"] == status
    assert events(sandbox) == ["payout.paid", "payout.updated", "payout.created"]
    assert sandbox.ask("GET", "/v1/payouts", "status=paid").json()["data"][0]["id"] == payout
    assert sandbox.ask("GET", "/v1/payouts", "status=failed").json()["data"] == []


def test_it_fails_after_it_was_paid_and_only_once(sandbox: Sandbox, payout: str) -> None:
    sandbox.control("PUT", f"payouts/{payout}", status="paid")
    sandbox.control("PUT", f"payouts/{payout}", status="failed", failure_code="no_account")
    failed = sandbox.ask("GET", f"/v1/payouts/{payout}").json()
    assert (failed["status"], failed["failure_code"]) == ("failed", "no_account")
    assert lines(sandbox) == [("payout_failure", 400), ("payout", -400), ("topup", 1000)]
    line = sandbox.ask(
        "GET", f"/v1/balance_transactions/{failed['failure_balance_transaction']}"
    ).json()
    assert (line["source"], line["net"]) == (payout, 400)
    again = sandbox.http.put(f"{sandbox.url}/_sandbox/payouts/{payout}", json={"status": "failed"})
    assert again.status_code == 400
    assert len(lines(sandbox)) == 3


def test_only_a_pending_one_is_canceled(sandbox: Sandbox, payout: str) -> None:
    canceled = sandbox.ask("POST", f"/v1/payouts/{payout}/cancel").json()
    assert canceled["status"] == "canceled"
    assert lines(sandbox)[0] == ("payout_cancel", 400)
    assert sandbox.ask("POST", f"/v1/payouts/{payout}/cancel").status_code == 400
    sandbox.control("PUT", "clock", offset_seconds=9 * DAY_SECONDS)
    assert sandbox.ask("GET", f"/v1/payouts/{payout}").json()["status"] == "canceled"


def test_another_account_does_not_see_it(sandbox: Sandbox, payout: str) -> None:
    account = sandbox.ask("POST", "/v1/accounts", "country=US").json()["id"]
    theirs = {"Stripe-Account": account}
    assert sandbox.ask("GET", f"/v1/payouts/{payout}", **theirs).status_code == 404
    assert sandbox.ask("GET", "/v1/payouts", **theirs).json()["data"] == []
    refused = sandbox.ask("POST", "/v1/payouts", "amount=1&currency=usd", **theirs).json()
    assert refused["error"]["code"] == "balance_insufficient"
