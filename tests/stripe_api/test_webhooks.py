"""Webhooks from the sandbox, believed by the real SDK or refused by us."""

import json
import signal
from datetime import UTC, datetime, timedelta

import pytest
import stripe

from marketplace.stripe_api.gateway import verify_webhook
from marketplace.stripe_api.gateway_errors import WebhookRejected

from .conftest import DAY_SECONDS, Receiver, Sandbox, eventually

SECRET = "whsec_ours"
TOPUP = "amount=1000&currency=usd"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT = b'{"object": "event", "id": "evt_1", "type": "topup.succeeded"}'


def _signed(body: bytes = EVENT, *, at: datetime = NOW, secret: str = SECRET) -> str:
    header: str = stripe.WebhookSignature.generate_signature_header(
        body.decode(), secret, int(at.timestamp())
    )
    return header


def _register(sandbox: Sandbox, receiver: Receiver, *, connect: bool = False) -> str:
    made = sandbox.control(
        "POST", "webhook_endpoints", url=receiver.url, secret=SECRET, connect=connect
    )
    return str(made["id"])


def test_webhook_of_the_sandbox_is_believed_by_the_sdk_and_by_us(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    _register(sandbox, receiver)
    sandbox.ask("POST", "/v1/topups", TOPUP, key="my-key")
    eventually(lambda: len(receiver.received) == 2)
    for body, signature in receiver.received:
        believed = stripe.Webhook.construct_event(body, signature, SECRET)
        event = verify_webhook(body, signature, secret=SECRET, now=datetime.now(UTC))
        assert event["id"] == believed.id
        assert event["request"]["idempotency_key"] == "my-key"
        listed = sandbox.ask("GET", f"/v1/events/{event['id']}").json()
        assert listed["data"] == event["data"]
    assert sorted(receiver.types()) == ["topup.created", "topup.succeeded"]


def test_webhook_is_signed_by_the_virtual_clock(sandbox: Sandbox, receiver: Receiver) -> None:
    sandbox.control("PUT", "clock", offset_seconds=30 * DAY_SECONDS)
    _register(sandbox, receiver)
    sandbox.ask("POST", "/v1/topups", TOPUP)
    eventually(lambda: len(receiver.received) == 2)
    body, signature = receiver.received[0]
    with pytest.raises(WebhookRejected, match="in the future"):
        verify_webhook(body, signature, secret=SECRET, now=datetime.now(UTC))
    verify_webhook(body, signature, secret=SECRET, now=datetime.now(UTC) + timedelta(days=30))


def test_webhook_is_tried_again_until_it_is_taken(sandbox: Sandbox, receiver: Receiver) -> None:
    receiver.statuses += [500, 503, 302]
    _register(sandbox, receiver)
    sandbox.ask("POST", "/v1/topups", TOPUP)
    eventually(lambda: len(receiver.received) == 5)
    eventually(lambda: sandbox.control("GET", "state")["webhooks_owed"] == 0)
    assert len({json.loads(body)["id"] for body, _ in receiver.received}) == 2


def test_webhook_owed_at_a_kill_is_delivered_after_it(sandbox: Sandbox, receiver: Receiver) -> None:
    receiver.statuses += [500] * 2
    _register(sandbox, receiver)
    sandbox.ask("POST", "/v1/topups", TOPUP)
    sandbox.end(signal.SIGKILL)
    sandbox.start()
    eventually(lambda: sandbox.control("GET", "state")["webhooks_owed"] == 0)
    assert set(receiver.types()) == {"topup.created", "topup.succeeded"}


def test_connected_accounts_events_go_to_their_own_endpoint(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    _register(sandbox, receiver, connect=True)
    account = sandbox.ask("POST", "/v1/accounts", "capabilities[transfers][requested]=true").json()
    sandbox.ask("POST", "/v1/topups", TOPUP)
    sandbox.control("PUT", f"accounts/{account['id']}/capabilities", transfers="active")
    eventually(lambda: len(receiver.received) == 1)
    event = json.loads(receiver.received[0][0])
    assert (event["type"], event["account"]) == ("account.updated", account["id"])
    assert event["data"]["object"]["capabilities"] == {"transfers": "active"}


def test_removed_endpoint_hears_nothing(sandbox: Sandbox, receiver: Receiver) -> None:
    first = _register(sandbox, receiver)
    assert _register(sandbox, receiver) == first
    sandbox.control("DELETE", f"webhook_endpoints/{first}")
    sandbox.ask("POST", "/v1/topups", TOPUP)
    assert sandbox.control("GET", "webhook_endpoints") == []
    assert sandbox.control("GET", "state")["webhooks_owed"] == 0


def test_recent_signature_of_ours_is_believed() -> None:
    for at in (NOW, NOW - timedelta(seconds=300), NOW + timedelta(seconds=60)):
        assert verify_webhook(EVENT, _signed(at=at), secret=SECRET, now=NOW)["id"] == "evt_1"


@pytest.mark.parametrize(
    ("body", "signature", "secret"),
    [
        pytest.param(EVENT, _signed(at=NOW - timedelta(seconds=301)), SECRET, id="stale"),
        pytest.param(EVENT, _signed(at=NOW + timedelta(seconds=61)), SECRET, id="future"),
        pytest.param(EVENT, _signed(secret=""), "", id="empty secret"),
        pytest.param(EVENT, _signed(secret="  "), "  ", id="blank secret"),
        pytest.param(EVENT, _signed(secret="whsec_other"), SECRET, id="other secret"),
        pytest.param(EVENT + b" ", _signed(), SECRET, id="changed body"),
        pytest.param(EVENT, None, SECRET, id="no signature"),
        pytest.param(EVENT, "", SECRET, id="empty signature"),
        pytest.param(EVENT, "t=soon,v1=abc", SECRET, id="no time"),
        pytest.param(EVENT, "t=1772366400,v1=\u00e9", SECRET, id="not ascii"),
        pytest.param(EVENT, _signed().replace("v1=", "v0="), SECRET, id="other scheme"),
        pytest.param(b"\xff", "t=1772366400,v1=abc", SECRET, id="not text"),
        pytest.param(b"[]", _signed(b"[]"), SECRET, id="not an object"),
        pytest.param(b"{", _signed(b"{"), SECRET, id="not json"),
        pytest.param(b"{}", _signed(b"{}"), SECRET, id="not an event"),
    ],
)
def test_doubtful_webhook_is_refused(body: bytes, signature: str | None, secret: str) -> None:
    with pytest.raises(WebhookRejected):
        verify_webhook(body, signature, secret=secret, now=NOW)
