"""Refunds at the sandbox: what they take, when, and how they come back."""

import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Refund
from marketplace.stripe_api.gateway_errors import StripeRefused

from .conftest import DAY_SECONDS, Sandbox, fund

pytestmark = pytest.mark.anyio


async def payment(sandbox: Sandbox, gateway: StripeGateway, *, minor: int = 10_000) -> str:
    """A payment of 100.00 by card that is available; answers its id."""
    page = await gateway.create_deposit_checkout(
        amount_minor=minor,
        currency="USD",
        product_name="Deposit",
        client_reference_id="one",
        metadata={"deposit_id": "one"},
        success_url="http://127.0.0.1:9/ok",
        cancel_url="http://127.0.0.1:9/no",
        idempotency_key="page",
    )
    sandbox.complete(page.url, "card")
    sandbox.pass_time(3 * DAY_SECONDS)
    paid = await gateway.retrieve_deposit(page.id)
    assert paid.payment_intent_id is not None
    return paid.payment_intent_id


async def refund(gateway: StripeGateway, paid: str, minor: int, key: str = "one") -> Refund:
    return await gateway.create_refund(
        payment_intent_id=paid,
        amount_minor=minor,
        metadata={"refund_id": key},
        idempotency_key=f"refund-{key}",
    )


async def test_a_refund_takes_its_amount_and_no_fee_comes_back(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    paid = await payment(sandbox, gateway)
    before = await gateway.available_balance("USD")
    made = await refund(gateway, paid, 4_000)
    assert (made.status, made.amount_minor, made.currency) == ("succeeded", 4_000, "USD")
    assert made.taken is not None
    assert (made.taken.type, made.taken.net_minor, made.taken.source_id) == (
        "refund",
        -4_000,
        made.id,
    )
    assert await gateway.available_balance("USD") == before - 4_000
    assert (await refund(gateway, paid, 4_000)).id == made.id
    types = [event["type"] async for event in gateway.list_events()]
    assert types[:2] == ["charge.refunded", "refund.created"]


async def test_never_more_than_the_charge(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    await fund(gateway, 100_000)
    await refund(gateway, paid, 9_000)
    with pytest.raises(StripeRefused, match="greater than unrefunded amount"):
        await refund(gateway, paid, 1_001, "two")
    await refund(gateway, paid, 1_000, "three")
    with pytest.raises(StripeRefused) as refusal:
        await refund(gateway, paid, 1, "four")
    assert refusal.value.code == "charge_already_refunded"
    found = [each.metadata["refund_id"] async for each in gateway.list_refunds()]
    assert found == ["three", "one"]


async def test_they_are_found_by_payment(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    made = await refund(gateway, paid, 500)
    for intent, found in ((paid, [made.id]), ("pi_other", [])):
        listed = gateway.list_refunds(payment_intent_id=intent)
        assert [each.id async for each in listed] == found


async def test_one_on_its_way_arrives_or_comes_back(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    paid = await payment(sandbox, gateway)
    sandbox.control("PUT", "settings", refund_after_seconds=DAY_SECONDS)
    made = await refund(gateway, paid, 500)
    assert (made.status, made.pending_reason) == ("pending", "processing")
    assert made.taken is not None
    sandbox.pass_time(DAY_SECONDS)
    assert (await gateway.retrieve_refund(made.id)).status == "succeeded"
    sandbox.control("PUT", f"refunds/{made.id}", status="failed")
    failed = await gateway.retrieve_refund(made.id)
    assert failed.status == "failed"
    assert failed.returned is not None
    assert (failed.returned.type, failed.returned.net_minor) == ("refund_failure", 500)
    # Its amount may be refunded once more.
    await fund(gateway, 100_000)
    await refund(gateway, paid, 10_000, "again")
    types = [event["type"] async for event in gateway.list_events(types=["refund.failed"])]
    assert types == ["refund.failed"]


async def test_without_funds_it_waits(sandbox: Sandbox, gateway: StripeGateway) -> None:
    paid = await payment(sandbox, gateway)
    made = await refund(gateway, paid, 10_000)
    assert (made.status, made.pending_reason, made.taken) == ("pending", "insufficient_funds", None)
    await fund(gateway, 1_000)
    sandbox.pass_time(3_600)
    sent = await gateway.retrieve_refund(made.id)
    assert (sent.status, sent.pending_reason) == ("succeeded", None)
    assert sent.taken is not None


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ("amount=5", None),
        ("amount=5&charge=ch_x", "resource_missing"),
        ("amount=5&payment_intent=pi_x", "resource_missing"),
        ("amount=5&payment_intent=pi_x&charge=ch_x", None),
        ("amount=0&charge=ch_x", "parameter_invalid_integer"),
        ("amount=5&charge=ch_x&reason=whim", None),
        ("amount=5&charge=ch_x&reverse_transfer=true", "parameter_unknown"),
    ],
)
def test_nonsense_is_refused(untouched_sandbox: Sandbox, form: str, code: str | None) -> None:
    answer = untouched_sandbox.ask("POST", "/v1/refunds", form)
    assert answer.status_code == 400
    assert answer.json()["error"].get("code") == code
