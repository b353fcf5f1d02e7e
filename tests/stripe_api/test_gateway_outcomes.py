"""When Stripe does not simply answer: what is known, what is not, and what a repeat brings."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Transfer
from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)

from .conftest import API_KEY, Sandbox, fund, payable_account, serving

pytestmark = pytest.mark.anyio


async def _send(gateway: StripeGateway, account_id: str, key: str = "payout-1") -> Transfer:
    return await gateway.send_transfer(
        amount_minor=500,
        currency="USD",
        destination=account_id,
        transfer_group="payout-1",
        metadata={"payout_id": "1"},
        idempotency_key=key,
    )


@pytest.fixture
async def account_id(sandbox: Sandbox, gateway: StripeGateway) -> str:
    await fund(gateway, 5000)
    return await payable_account(sandbox, gateway)


@pytest.mark.parametrize("kind", ["drop_before", "apply_then_drop", "409"])
async def test_repeat_with_the_same_key_pays_once(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str, kind: str
) -> None:
    sandbox.fault(kind)
    with pytest.raises(StripeOutcomeUnknown):
        await _send(gateway, account_id)
    sent = await _send(gateway, account_id)
    assert [one.id for one in await gateway.find_transfers(transfer_group="payout-1")] == [sent.id]
    (fired,) = sandbox.control("GET", "faults")
    assert fired["fired_at"] is not None


async def test_no_answer_in_time_is_an_unknown_outcome(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("hang")
    async with StripeGateway(
        api_key=API_KEY, api_base=sandbox.url, timeout_seconds=0.3
    ) as impatient:
        with pytest.raises(StripeOutcomeUnknown):
            await _send(impatient, account_id)
    (found,) = await gateway.find_transfers(transfer_group="payout-1")
    assert (await _send(gateway, account_id)).id == found.id


async def test_server_error_after_the_effect_is_replayed_but_the_look_up_finds_it(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("error_500_after_apply")
    for _ in range(2):
        with pytest.raises(StripeOutcomeUnknown) as unknown:
            await _send(gateway, account_id)
        assert unknown.value.http_status == 500
    (found,) = await gateway.find_transfers(transfer_group="payout-1")
    assert found.metadata == {"payout_id": "1"}


async def test_busy_stripe_says_when_to_come_back(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("429", seconds=2.5)
    with pytest.raises(StripeBusy) as busy:
        await _send(gateway, account_id)
    assert busy.value.retry_after_seconds == pytest.approx(2.5)
    assert await gateway.find_transfers(transfer_group="payout-1") == []
    await _send(gateway, account_id)


async def test_refusal_is_final_for_its_key(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("balance_insufficient")
    for _ in range(2):
        with pytest.raises(StripeRefused) as refused:
            await _send(gateway, account_id)
        assert refused.value.code == "balance_insufficient"
    await _send(gateway, account_id, key="payout-1-attempt-2")


async def test_account_restricted_at_the_moment_of_sending(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("account_restricted")
    with pytest.raises(StripeRefused) as refused:
        await _send(gateway, account_id)
    assert refused.value.code == "insufficient_capabilities_for_transfer"
    assert (await gateway.retrieve_account(account_id)).transfers == "inactive"


async def test_fault_waits_for_its_turn(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    sandbox.fault("drop_before", nth=3)
    await _send(gateway, account_id, key="one")
    await _send(gateway, account_id, key="two")
    with pytest.raises(StripeOutcomeUnknown):
        await _send(gateway, account_id, key="three")


async def test_changed_request_under_a_used_key_proves_nothing(
    gateway: StripeGateway, account_id: str
) -> None:
    await fund(gateway, 1, key="used")
    with pytest.raises(StripeOutcomeUnknown) as unknown:
        await fund(gateway, 2, key="used")
    assert unknown.value.http_status == 400


async def test_cancelled_call_leaves_the_gateway_usable(
    sandbox: Sandbox, gateway: StripeGateway, account_id: str
) -> None:
    for number in range(3):
        sandbox.fault("hang")
        call = asyncio.create_task(_send(gateway, account_id, key=f"cancelled-{number}"))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(await gateway.find_transfers(transfer_group="payout-1")) == 3


async def test_nobody_listens() -> None:
    async with StripeGateway(api_key=API_KEY, api_base="http://127.0.0.1:9") as gateway:
        with pytest.raises(StripeOutcomeUnknown):
            await gateway.balance()


REFUSED = '{"error": {"type": "invalid_request_error", "code": "amount_too_small", "message": "m"}}'
ANSWERS = [
    (400, REFUSED, StripeRefused),
    (402, '{"error": {"type": "card_error", "code": "card_declined"}}', StripeRefused),
    (404, REFUSED, StripeRefused),
    (400, '{"error": {"type": "idempotency_error", "message": "m"}}', StripeOutcomeUnknown),
    (400, '{"error": {"code": "rate_limit", "message": "m"}}', StripeBusy),
    (429, '{"error": {"code": "lock_timeout", "message": "m"}}', StripeBusy),
    (401, REFUSED, StripeMisconfigured),
    (403, REFUSED, StripeMisconfigured),
    (405, REFUSED, StripeOutcomeUnknown),
    (409, REFUSED, StripeOutcomeUnknown),
    (424, REFUSED, StripeOutcomeUnknown),
    (404, "<html>not here</html>", StripeOutcomeUnknown),
    (301, "", StripeOutcomeUnknown),
    (500, REFUSED, StripeOutcomeUnknown),
    (502, "<html>bad gateway</html>", StripeOutcomeUnknown),
    (200, "<html>captive portal</html>", StripeOutcomeUnknown),
    (200, '{"object": "transfer"}', StripeOutcomeUnknown),
    (200, "[]", StripeOutcomeUnknown),
    (200, "", StripeOutcomeUnknown),
]


@pytest.fixture
def scripted() -> Iterator[tuple[str, list[tuple[int, str]], serving]]:
    script: list[tuple[int, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        status, body = script[0]
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    server = serving(answer)
    with server as url:
        yield url, script, server


@pytest.mark.parametrize(("status", "body", "outcome"), ANSWERS)
async def test_only_a_proof_of_no_effect_is_a_refusal(
    scripted: tuple[str, list[tuple[int, str]], serving],
    status: int,
    body: str,
    outcome: type[Exception],
) -> None:
    url, script, _ = scripted
    script.append((status, body))
    async with StripeGateway(api_key=API_KEY, api_base=url) as gateway:
        with pytest.raises(outcome):
            await _send(gateway, "acct_ana")


async def test_one_connection_serves_call_after_call(
    scripted: tuple[str, list[tuple[int, str]], serving],
) -> None:
    url, script, server = scripted
    script.append((200, '{"object": "balance", "available": [], "pending": []}'))
    async with StripeGateway(api_key=API_KEY, api_base=url) as gateway:
        for _ in range(10):
            await gateway.balance()
    assert len(server.connections) == 1


async def test_answer_that_trickles_is_cut_off_in_time() -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)

    with serving(trickle) as url:
        async with StripeGateway(api_key=API_KEY, api_base=url, timeout_seconds=0.5) as gateway:
            began = time.monotonic()
            with pytest.raises(StripeOutcomeUnknown):
                await gateway.balance()
            assert time.monotonic() - began < 1.5
