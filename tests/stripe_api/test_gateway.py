"""The gateway's whole business, with the real SDK, over real HTTP."""

from datetime import UTC, datetime, timedelta

import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import DepositCheckout
from marketplace.stripe_api.gateway_errors import StripeMisconfigured, StripeRefused

from .conftest import API_KEY, DAY_SECONDS, Sandbox, fund, payable_account

pytestmark = pytest.mark.anyio


async def _checkout(gateway: StripeGateway, amount_minor: int = 100_000) -> DepositCheckout:
    return await gateway.create_deposit_checkout(
        amount_minor=amount_minor,
        currency="USD",
        product_name="Deposit",
        client_reference_id="deposit-1",
        metadata={"deposit_id": "deposit-1"},
        success_url="http://127.0.0.1:9/paid?session={CHECKOUT_SESSION_ID}",
        cancel_url="http://127.0.0.1:9/no",
        idempotency_key="deposit-1",
    )


async def test_performer_is_payable_only_after_onboarding(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account = await gateway.create_connected_account(
        email="ana@example.test", country="US", metadata={"performer": "ana"}, idempotency_key="a"
    )
    assert (account.transfers, account.default_currency) == ("inactive", "USD")
    assert account.request_id is not None
    link = await gateway.create_onboarding_link(
        account_id=account.id,
        return_url="http://127.0.0.1:9/done",
        refresh_url="http://127.0.0.1:9/again",
        idempotency_key="l",
    )
    assert "nothing real" in sandbox.http.get(link.url).text
    back = sandbox.complete(link.url, "complete")
    assert (back.status_code, back.headers["location"]) == (303, "http://127.0.0.1:9/done")
    onboarded = await gateway.retrieve_account(account.id)
    assert (onboarded.transfers, onboarded.payouts_enabled) == ("active", True)
    assert onboarded.metadata == {"performer": "ana"}
    again = sandbox.complete(link.url, "complete")
    assert again.headers["location"] == "http://127.0.0.1:9/again"


async def test_restricted_performer_is_not_payable(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account = await gateway.create_connected_account(
        email="ana@example.test", country="US", metadata={}, idempotency_key="a"
    )
    link = await gateway.create_onboarding_link(
        account_id=account.id,
        return_url="http://127.0.0.1:9/done",
        refresh_url="http://127.0.0.1:9/again",
        idempotency_key="l",
    )
    sandbox.complete(link.url, "restricted")
    restricted = await gateway.retrieve_account(account.id)
    assert (restricted.transfers, restricted.details_submitted) == ("inactive", True)
    assert restricted.disabled_reason is not None


async def test_deposit_costs_its_fee_and_is_available_after_two_days(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    checkout = await _checkout(gateway)
    back = sandbox.complete(checkout.url, "card")
    assert back.headers["location"] == f"http://127.0.0.1:9/paid?session={checkout.id}"

    deposit = await gateway.retrieve_deposit(checkout.id)
    assert (deposit.payment_intent_status, deposit.amount_minor) == ("succeeded", 100_000)
    assert deposit.client_reference_id == "deposit-1"
    booked = deposit.balance_transaction
    assert booked is not None
    assert (booked.amount_minor, booked.fee_minor, booked.net_minor) == (100_000, 2930, 97_070)
    assert booked.available_on == booked.created_at + timedelta(days=2)

    assert (await gateway.balance())["USD"].pending_minor == 97_070
    assert await gateway.available_balance("usd") == 0
    sandbox.pass_time(2 * DAY_SECONDS)
    assert await gateway.available_balance("USD") == 97_070


async def test_declined_card_is_no_deposit_and_another_card_may_follow(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    checkout = await _checkout(gateway)
    assert sandbox.complete(checkout.url, "card_declined").status_code == 402
    declined = await gateway.retrieve_deposit(checkout.id)
    assert (declined.status, declined.payment_status) == ("open", "unpaid")
    assert declined.balance_transaction is None
    sandbox.complete(checkout.url, "card")
    sandbox.complete(checkout.url, "card")
    assert (await gateway.retrieve_deposit(checkout.id)).payment_intent_status == "succeeded"
    assert (await gateway.balance())["USD"].pending_minor == 97_070


async def test_unpaid_checkout_expires_after_a_day(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    checkout = await _checkout(gateway)
    sandbox.pass_time(DAY_SECONDS + 1)
    assert (await gateway.retrieve_deposit(checkout.id)).status == "expired"
    assert sandbox.complete(checkout.url, "card").status_code == 410


async def test_transfer_pays_the_performer_from_what_is_available(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account_id = await payable_account(sandbox, gateway)
    await fund(gateway, 5000)
    sent = await gateway.send_transfer(
        amount_minor=1233,
        currency="USD",
        destination=account_id,
        transfer_group="payout-7",
        metadata={"payout_id": "7"},
        idempotency_key="payout-7-attempt-1",
    )
    assert (sent.amount_minor, sent.currency, sent.destination) == (1233, "USD", account_id)
    assert await gateway.available_balance("USD") == 5000 - 1233
    theirs = await gateway.balance(account_id=account_id)
    assert theirs["USD"].available_minor == 1233

    (found,) = await gateway.find_transfers(transfer_group="payout-7")
    assert (found.id, found.metadata) == (sent.id, {"payout_id": "7"})
    assert await gateway.find_transfers(transfer_group="payout-8") == []


async def test_transfer_beyond_the_balance_is_refused(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account_id = await payable_account(sandbox, gateway)
    await fund(gateway, 100)
    with pytest.raises(StripeRefused) as refused:
        await gateway.send_transfer(
            amount_minor=101,
            currency="USD",
            destination=account_id,
            transfer_group="g",
            metadata={},
            idempotency_key="k",
        )
    assert (refused.value.code, refused.value.http_status) == ("balance_insufficient", 400)
    assert refused.value.request_id is not None
    assert await gateway.find_transfers(transfer_group="g") == []


async def test_transfer_to_an_account_that_lost_its_capability_is_refused(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account_id = await payable_account(sandbox, gateway)
    await fund(gateway, 100)
    sandbox.control("PUT", f"accounts/{account_id}/capabilities", transfers="inactive")
    with pytest.raises(StripeRefused) as refused:
        await gateway.send_transfer(
            amount_minor=100,
            currency="USD",
            destination=account_id,
            transfer_group="g",
            metadata={},
            idempotency_key="k",
        )
    assert refused.value.code == "insufficient_capabilities_for_transfer"
    assert await gateway.available_balance("USD") == 100


async def test_balance_transactions_come_over_as_many_pages_as_there_are(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    for number in range(203):
        sandbox.control("POST", "fees", amount=100 + number, currency="usd", type="stripe_fee")
    amounts = [line.amount_minor async for line in gateway.list_balance_transactions()]
    assert amounts == [-100 - number for number in reversed(range(203))]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    later = gateway.list_balance_transactions(created_from=tomorrow)
    assert [line async for line in later] == []


async def test_events_are_listed_by_type_and_by_account(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account_id = await payable_account(sandbox, gateway)
    await fund(gateway, 100)
    ours = [event["type"] async for event in gateway.list_events()]
    assert sorted(ours) == ["topup.created", "topup.succeeded"]
    (succeeded,) = [event async for event in gateway.list_events(types=["topup.succeeded"])]
    assert succeeded["type"] == "topup.succeeded"
    (theirs,) = [event async for event in gateway.list_events(account_id=account_id)]
    assert (theirs["type"], theirs["account"]) == ("account.updated", account_id)


async def test_an_account_that_is_not_ours_is_a_misconfiguration(gateway: StripeGateway) -> None:
    with pytest.raises(StripeMisconfigured):
        await gateway.retrieve_account("acct_of_somebody_else")


async def test_empty_key_is_refused_before_anything_is_sent(gateway: StripeGateway) -> None:
    with pytest.raises(ValueError, match="idempotency key"):
        await fund(gateway, 100, key="")
    assert [event async for event in gateway.list_events()] == []


@pytest.mark.parametrize("amount", [0, -1, 10.0, True])
async def test_only_positive_integers_are_money(untouched_sandbox: Sandbox, amount: int) -> None:
    async with StripeGateway(api_key=API_KEY, api_base=untouched_sandbox.url) as gateway:
        with pytest.raises(ValueError, match="minor units"):
            await fund(gateway, amount)


async def test_empty_account_is_not_taken_for_the_platform(gateway: StripeGateway) -> None:
    with pytest.raises(ValueError, match="empty id"):
        await gateway.balance(account_id="")


def test_live_key_never_goes_to_another_address() -> None:
    with pytest.raises(ValueError, match="test key"):
        StripeGateway(api_key="sk_live_secret", api_base="http://127.0.0.1:9")


async def test_proxies_of_the_environment_are_ignored(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with StripeGateway(api_key=API_KEY, api_base=sandbox.url) as gateway:
        assert await gateway.available_balance("USD") == 0
