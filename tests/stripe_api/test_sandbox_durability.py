"""What the sandbox has answered, it remembers: after a kill, too."""

import contextlib
import signal
import threading

import httpx
import pytest

from marketplace.stripe_api.gateway import StripeGateway

from .conftest import Sandbox, eventually, fund, payable_account


@pytest.mark.anyio
async def test_transfer_survives_a_kill_right_after_its_answer(
    sandbox: Sandbox, gateway: StripeGateway
) -> None:
    account_id = await payable_account(sandbox, gateway)
    await fund(gateway, 5000)
    sent = await gateway.send_transfer(
        amount_minor=1200,
        currency="USD",
        destination=account_id,
        transfer_group="payout-1",
        metadata={"payout_id": "1"},
        idempotency_key="payout-1-attempt-1",
    )
    sandbox.end(signal.SIGKILL)
    sandbox.start()
    (found,) = await gateway.find_transfers(transfer_group="payout-1")
    assert found.id == sent.id
    assert await gateway.available_balance("USD") == 3800
    repeated = await gateway.send_transfer(
        amount_minor=1200,
        currency="USD",
        destination=account_id,
        transfer_group="payout-1",
        metadata={"payout_id": "1"},
        idempotency_key="payout-1-attempt-1",
    )
    assert repeated.id == sent.id
    assert await gateway.available_balance("USD") == 3800


def test_nothing_acknowledged_is_lost_in_a_kill_under_load(sandbox: Sandbox) -> None:
    acknowledged: list[str] = []

    def keep_asking(worker: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            for number in range(10_000):
                key = f"{worker}-{number}"
                answer = sandbox.ask("POST", "/v1/topups", "amount=1&currency=usd", key=key)
                acknowledged.append(answer.json()["id"])

    workers = [threading.Thread(target=keep_asking, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    eventually(lambda: len(acknowledged) >= 50)
    sandbox.end(signal.SIGKILL)
    for worker in workers:
        worker.join()
    sandbox.start()
    for id_ in acknowledged:
        assert sandbox.ask("GET", f"/v1/topups/{id_}").status_code == 200
    summary = sandbox.control("GET", "state")
    kept = summary["objects"]["topup"]
    assert len(acknowledged) <= kept <= len(acknowledged) + len(workers)
    assert summary["balances"]["platform"]["usd"]["available_minor"] == kept
    assert summary["objects"]["event"] == 2 * kept


def test_clock_and_waiting_faults_survive_a_restart(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "clock", offset_seconds=12_345)
    sandbox.fault("409")
    sandbox.end(signal.SIGTERM)
    sandbox.start()
    assert sandbox.control("GET", "clock")["offset_seconds"] == 12_345
    (waiting,) = sandbox.control("GET", "faults")
    assert waiting["fired_at"] is None
    sandbox.control("DELETE", "faults")
    assert sandbox.control("GET", "faults") == []
