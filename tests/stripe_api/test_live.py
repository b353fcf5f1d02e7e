"""What the gateway does, at the sandbox always, and at Stripe itself if you give it a test key:

    STRIPE_API_KEY=sk_test_... .venv/bin/python -m pytest -m stripe_live

Only what may be repeated: no money moves. An account, its link and an unpaid page stay behind in
your test data.
"""

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import (
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)

from .conftest import API_KEY, Sandbox

pytestmark = pytest.mark.anyio

SOMEWHERE = "https://app.example/done"


def own_test_key(environment: Mapping[str, str]) -> str:
    """Of one's own, and one that cannot move money."""
    key = environment.get("STRIPE_API_KEY", "")
    if not key.startswith("sk_test_"):
        pytest.fail("set STRIPE_API_KEY to a test key of your own: it begins with sk_test_")
    return key


@pytest.fixture(params=["sandbox", pytest.param("stripe", marks=pytest.mark.stripe_live)])
async def stripe(request: pytest.FixtureRequest) -> AsyncIterator[StripeGateway]:
    if request.param == "stripe":
        opened = StripeGateway(api_key=own_test_key(os.environ))
    else:
        sandbox: Sandbox = request.getfixturevalue("sandbox")
        opened = StripeGateway(api_key=API_KEY, api_base=sandbox.url)
    async with opened:
        yield opened


@pytest.fixture
def key() -> str:
    return f"live-suite-{uuid.uuid4()}"


@pytest.mark.parametrize("given", [{}, {"STRIPE_API_KEY": "sk_live_1"}, {"STRIPE_API_KEY": "rk_1"}])
def test_only_a_test_key_is_used(given: dict[str, str]) -> None:
    with pytest.raises(pytest.fail.Exception, match="sk_test_"):
        own_test_key(given)


async def test_the_balance_is_read(stripe: StripeGateway) -> None:
    for currency, amount in (await stripe.balance()).items():
        assert currency.isupper()
        assert isinstance(amount.available_minor, int)
        assert isinstance(amount.pending_minor, int)


async def test_an_account_and_its_onboarding_link_are_made_once(
    stripe: StripeGateway, key: str
) -> None:
    async def create() -> str:
        account = await stripe.create_connected_account(
            email="ana@example.com",
            country="US",
            metadata={"performer_id": "ana"},
            idempotency_key=key,
        )
        assert account.transfers in {"inactive", "pending"}
        assert account.request_id
        return account.id

    account_id = await create()
    assert await create() == account_id
    seen = await stripe.retrieve_account(account_id)
    assert (seen.details_submitted, seen.metadata) == (False, {"performer_id": "ana"})
    link = await stripe.create_onboarding_link(
        account_id=account_id,
        return_url=SOMEWHERE,
        refresh_url=SOMEWHERE,
        idempotency_key=f"{key}-link",
    )
    assert link.url.startswith("http")
    assert link.expires_at > datetime.now(UTC) - timedelta(minutes=1)
    assert (await stripe.balance(account_id=account_id)).keys() <= {"USD"}


async def test_a_page_to_pay_a_deposit_is_made_once(stripe: StripeGateway, key: str) -> None:
    async def create(amount_minor: int) -> str:
        checkout = await stripe.create_deposit_checkout(
            amount_minor=amount_minor,
            currency="USD",
            product_name="Deposit",
            client_reference_id="deposit-1",
            metadata={"deposit_id": "deposit-1"},
            success_url=SOMEWHERE,
            cancel_url=SOMEWHERE,
            idempotency_key=key,
        )
        return checkout.id

    session_id = await create(100_000)
    assert await create(100_000) == session_id
    with pytest.raises(StripeOutcomeUnknown):
        await create(100_001)
    deposit = await stripe.retrieve_deposit(session_id)
    assert (deposit.status, deposit.payment_status) == ("open", "unpaid")
    assert (deposit.amount_minor, deposit.currency) == (100_000, "USD")
    assert deposit.client_reference_id == "deposit-1"
    assert deposit.balance_transaction is None


async def test_events_transfers_and_balance_transactions_are_listed(stripe: StripeGateway) -> None:
    since = datetime.now(UTC) - timedelta(days=1)
    async for event in stripe.list_events(created_from=since):
        assert event["id"].startswith("evt_")
        assert event["data"]["object"]["object"]
    async for line in stripe.list_balance_transactions(created_from=since):
        assert line.amount_minor == line.fee_minor + line.net_minor
    async for transfer in stripe.list_transfers():
        assert transfer.amount_minor >= transfer.amount_reversed_minor
    assert await stripe.find_transfers(transfer_group=f"nobody-{uuid.uuid4()}") == []


async def test_what_is_not_there_is_refused(stripe: StripeGateway) -> None:
    with pytest.raises(StripeRefused) as refused:
        await stripe.retrieve_deposit("cs_test_nobody")
    assert (refused.value.code, refused.value.http_status) == ("resource_missing", 404)
    with pytest.raises(StripeMisconfigured):
        await stripe.retrieve_account("acct_1NobodysAccount00")
