"""Disputes at the sandbox: what they take, what comes back, and what they say of themselves."""

from typing import Any

import httpx
import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import StripeRefused

from .conftest import Sandbox, fund
from .test_sandbox_refunds import payment, refund

pytestmark = pytest.mark.anyio


def disputed(sandbox: Sandbox, paid: str, **how: Any) -> str:
    made: dict[str, Any] = sandbox.control("POST", "disputes", payment_intent=paid, **how)
    id_: str = made["id"]
    return id_


def becomes(sandbox: Sandbox, dispute: str, to: str) -> httpx.Response:
    return sandbox.http.put(f"{sandbox.url}/_sandbox/disputes/{dispute}", json={"to": to})


async def types(gateway: StripeGateway) -> list[str]:
    found = [event["type"] async for event in gateway.list_events()]
    return [type_ for type_ in found if "dispute" in type_]


async def test_a_dispute_takes_the_payment_and_a_fee(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    paid = await payment(sandbox, gateway)
    before = await gateway.available_balance("USD")
    seen = await gateway.retrieve_dispute(disputed(sandbox, paid))
    assert (seen.status, seen.amount_minor, seen.currency) == ("needs_response", 10_000, "USD")
    assert (seen.payment_intent_id, seen.payment_metadata) == (paid, {"deposit_id": "one"})
    assert seen.withdrawn is not None
    assert (seen.withdrawn.amount_minor, seen.withdrawn.fee_minor) == (-10_000, 1_500)
    assert seen.reinstated is None
    assert await gateway.available_balance("USD") == before - 11_500
    assert await types(gateway) == [
        "charge.dispute.funds_withdrawn",
        "charge.dispute.created",
    ]


async def test_a_won_one_gives_it_back_without_the_fee(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    paid = await payment(sandbox, gateway)
    before = await gateway.available_balance("USD")
    dispute = disputed(sandbox, paid)
    for change in ("under_review", "won"):
        assert becomes(sandbox, dispute, change).is_success
    seen = await gateway.retrieve_dispute(dispute)
    assert seen.status == "won"
    assert seen.reinstated is not None
    assert (seen.reinstated.amount_minor, seen.reinstated.fee_minor) == (10_000, 0)
    assert await gateway.available_balance("USD") == before - 1_500
    assert (await types(gateway))[:3] == [
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
        "charge.dispute.updated",
    ]
    assert becomes(sandbox, dispute, "lost").status_code == 400


async def test_a_lost_one_keeps_it(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    dispute = disputed(sandbox, paid, amount=4_000)
    before = await gateway.available_balance("USD")
    assert becomes(sandbox, dispute, "lost").is_success
    assert (await gateway.retrieve_dispute(dispute)).status == "lost"
    assert await gateway.available_balance("USD") == before


async def test_a_disputed_charge_is_not_refunded(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    await fund(gateway, 100_000)
    dispute = disputed(sandbox, paid)
    with pytest.raises(StripeRefused) as refusal:
        await refund(gateway, paid, 1)
    assert refusal.value.code == "charge_disputed"
    assert becomes(sandbox, dispute, "won").is_success
    assert (await refund(gateway, paid, 1, "later")).status == "succeeded"


async def test_an_inquiry_moves_nothing_until_it_is_a_dispute(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    paid = await payment(sandbox, gateway)
    before = await gateway.available_balance("USD")
    dispute = disputed(sandbox, paid, inquiry=True)
    assert becomes(sandbox, dispute, "withdrawn").status_code == 400
    assert becomes(sandbox, dispute, "won").status_code == 400
    assert await gateway.available_balance("USD") == before
    assert becomes(sandbox, dispute, "escalated").is_success
    seen = await gateway.retrieve_dispute(dispute)
    assert seen.status == "needs_response"
    assert seen.withdrawn is not None
    assert becomes(sandbox, dispute, "warning_closed").status_code == 400


async def test_they_are_listed_newest_first(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    first = disputed(sandbox, paid, amount=1_000, withdraws=False)
    assert becomes(sandbox, first, "won").is_success
    second = disputed(sandbox, paid, amount=2_000)
    assert [seen.id async for seen in gateway.list_disputes()] == [second, first]
    newest = sandbox.ask("GET", "/v1/disputes", f"payment_intent={paid}&limit=1").json()
    assert ([each["id"] for each in newest["data"]], newest["has_more"]) == ([second], True)
    nothing = sandbox.ask("GET", "/v1/disputes", "charge=ch_other").json()
    assert nothing["data"] == []


def test_what_is_not_there_cannot_be_disputed(untouched_sandbox: Sandbox) -> None:
    url = f"{untouched_sandbox.url}/_sandbox/disputes"
    asked = {"payment_intent": "pi_nothing"}
    assert untouched_sandbox.http.post(url, json=asked).status_code == 404
    assert becomes(untouched_sandbox, "du_nothing", "won").status_code == 404
