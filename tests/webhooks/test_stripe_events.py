"""What Stripe tells us: stored once, applied once, and losing all of it only delays."""

import asyncio
import hashlib
import hmac
import json
import time

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.scheduler import SWEEPS
from marketplace.shared.database import Sessions
from marketplace.stripe_api import inbox
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.models import StripeEvent
from tests.reports.conftest import violations
from tests.world import POLLS, STRIPE_KEY, Client, Json, Person, World


def sign(world: World, body: bytes, *, to: str = "platform", age_seconds: int = 0) -> str:
    stamp = int(world.now.timestamp()) - age_seconds
    digest = hmac.new(
        f"whsec_{to}".encode(), f"{stamp}.".encode() + body, hashlib.sha256
    ).hexdigest()
    return f"t={stamp},v1={digest}"


def event(world: World, **changed: object) -> bytes:
    told = {
        "id": "evt_1",
        "object": "event",
        "type": "checkout.session.completed",
        "created": int(world.now.timestamp()),
        "data": {"object": {"id": "cs_unknown", "object": "checkout.session"}},
    }
    return json.dumps(told | changed).encode()


def deliver(world: World, body: bytes, signature: str, endpoint: str = "platform") -> int:
    answer = world.anybody.ask(
        "POST",
        f"/v1/stripe/webhooks/{endpoint}",
        content=body,
        headers={"Stripe-Signature": signature, "Content-Type": "application/json"},
        key="",
    )
    return answer.status_code


def test_real_webhooks_credit_a_deposit(world: World) -> None:
    acme = world.client()
    world.stripe.listen(world.url)
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit = acme.post("/v1/wallet/deposits", asked)
    world.stripe.complete(deposit["checkout_url"], "card")
    deadline = time.monotonic() + 20
    while acme.wallet_minor != 5_000:
        assert time.monotonic() < deadline, world.sql("SELECT type, last_error FROM stripe_event")
        time.sleep(0.05)
        world.sweep("inbox")
    assert acme.get(f"/v1/wallet/deposits/{deposit['id']}")["state"] == "credited"
    world.advance(600)
    world.sweep("inbox", *POLLS, "inbox")
    assert acme.wallet_minor == 5_000


def test_an_event_is_stored_once(world: World) -> None:
    body = event(world)
    for _ in range(3):
        assert deliver(world, body, sign(world, body)) == 204
    assert world.value("SELECT count(*) FROM stripe_event") == 1


def test_what_is_not_provably_stripes_is_400(world: World) -> None:
    body = event(world)
    for signature in (
        "",
        "t=1,v1=00",
        sign(world, body, to="somebody else"),
        sign(world, body, to="connect"),
        sign(world, body, age_seconds=301),
        sign(world, body, age_seconds=-120),
        sign(world, body + b" "),
    ):
        assert deliver(world, body, signature) == 400, signature
    assert world.value("SELECT count(*) FROM stripe_event") == 0


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "made\0up"},
        {"data": {"object": {"id": "cs_1", "note": "\0"}}},
        {"data": {"object": {"id": "cs_1", "note": "\ud800"}}},
        {"data": {"object": {"id": "cs_1", "amount": float("nan")}}},
        {"created": 10**18},
        {"created": 10**30},
        {"created": -1},
        {"created": True},
        {"created": "1780000000"},
        {"created": None},
        {"data": {"object": None}},
        {"data": {"object": {"id": 7}}},
        {"data": {}},
        {"data": None},
        {"id": ""},
        {"id": None},
        {"type": 7},
        {"account": {}},
    ],
    ids=str,
)
def test_a_signed_event_of_an_odd_shape_is_400_and_not_stored(world: World, odd: Json) -> None:
    body = event(world, **odd)
    assert deliver(world, body, sign(world, body)) == 400
    assert world.value("SELECT count(*) FROM stripe_event") == 0


def test_an_event_about_something_without_an_id_is_stored(world: World) -> None:
    for number, balance in enumerate(({"object": "balance"}, {"id": None})):
        body = event(world, id=f"evt_{number}", type="made.up", data={"object": balance})
        assert deliver(world, body, sign(world, body)) == 204


def test_each_endpoint_has_its_own_secret(world: World) -> None:
    body = event(world)
    assert deliver(world, body, sign(world, body, to="connect"), "connect") == 204
    assert deliver(world, body, sign(world, body), "nowhere") == 422


def test_an_event_of_an_unknown_kind_is_kept_without_effect(world: World) -> None:
    body = event(world, type="made.up")
    deliver(world, body, sign(world, body))
    world.sweep("inbox")
    (kept,) = world.sql("SELECT handled_at, last_error FROM stripe_event")
    assert kept["handled_at"] is not None
    assert kept["last_error"] is None


def test_a_failing_event_is_tried_again_and_stops_no_other(world: World) -> None:
    acme = world.client()
    body = event(world)
    deliver(world, body, sign(world, body))
    world.stripe.fault("drop_before", path="/v1/checkout/sessions/cs_unknown", method="GET")
    world.sweep("inbox")
    (kept,) = world.sql("SELECT handled_at, tries, last_error FROM stripe_event")
    assert (kept["handled_at"], kept["tries"]) == (None, 1)
    assert "StripeOutcomeUnknown" in kept["last_error"]
    world.deposit(acme, 5_000)
    assert acme.wallet_minor == 5_000


@pytest.mark.parametrize(
    ("kind", "object_id", "error"),
    [
        ("checkout.session.completed", "cs_unknown", "StripeRefused: resource_missing"),
        ("topup.succeeded", "tu_unknown", "StripeRefused: resource_missing"),
        ("account.updated", "acct_unknown", "StripeMisconfigured: "),
    ],
)
def test_an_event_about_nothing_is_kept_with_its_error_and_not_tried_again(
    world: World, kind: str, object_id: str, error: str
) -> None:
    body = event(world, type=kind, data={"object": {"id": object_id}})
    deliver(world, body, sign(world, body))
    for _ in range(2):
        world.sweep("inbox")
        world.advance(25 * 3_600)
    (kept,) = world.sql("SELECT handled_at, tries, last_error FROM stripe_event")
    assert kept["handled_at"] is not None
    assert kept["tries"] == 0
    assert kept["last_error"].startswith(error)
    assert violations(world) == {}


def test_losing_every_webhook_only_delays(world: World, finn: Person) -> None:
    acme = world.client(deposit_minor=5_000)
    world.capital(finn, 700)
    ana = world.performer(onboarded=True)
    assert acme.wallet_minor == 5_000
    assert ana.get("/v1/payout-account")["transfers"] == "active"
    assert world.ledger("platform_capital") == -700


def test_a_declined_card_credits_nothing(world: World) -> None:
    acme = world.client()
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit = acme.post("/v1/wallet/deposits", asked)
    world.stripe.complete(deposit["checkout_url"], "card_declined")
    world.advance(60)
    world.sweep(*POLLS, "inbox")
    assert acme.get(f"/v1/wallet/deposits/{deposit['id']}")["state"] == "awaiting_payment"
    assert acme.wallet_minor == 0


def test_a_page_that_is_never_paid_expires(world: World) -> None:
    acme = world.client()
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit = acme.post("/v1/wallet/deposits", asked)
    world.advance(25 * 3_600)
    world.sweep(*POLLS)
    assert acme.get(f"/v1/wallet/deposits/{deposit['id']}")["state"] == "expired"


def test_funds_become_available_when_stripe_says_so(world: World, acme: Client) -> None:
    net = world.ledger("stripe_pending")
    assert net == 100_000 - 2_930
    world.sweep("funds")
    assert world.ledger("stripe_available") == 0
    world.advance(3 * 86_400)
    world.sweep("funds")
    assert (world.ledger("stripe_available"), world.ledger("stripe_pending")) == (net, 0)
    assert world.stripe.platform_minor == net


def test_another_clients_deposit_is_404(world: World, acme: Client) -> None:
    (deposit,) = acme.get("/v1/wallet/deposits")["items"]
    another = world.client("another client")
    refused = another.refused("GET", f"/v1/wallet/deposits/{deposit['id']}")
    assert refused == "404 not_found"
    assert another.get("/v1/wallet/deposits")["items"] == []


def test_the_same_event_by_many_sweeps_has_one_effect(world: World) -> None:
    acme = world.client()
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit: Json = acme.post("/v1/wallet/deposits", asked)
    world.stripe.complete(deposit["checkout_url"], "card")
    world.advance(60)

    async def many() -> None:
        await asyncio.gather(
            *(SWEEPS[name].run(world.parts) for name in (*POLLS, "inbox") for _ in range(4))
        )

    world.loopback.run(many())
    world.sweep("inbox")
    assert acme.wallet_minor == 5_000
    assert world.value("SELECT count(*) FROM ledger_transaction") == 1


def test_one_process_alone_asks_stripe_about_an_event(world: World) -> None:
    """The others leave it to that one, until its lease is over."""
    for number in range(3):
        body = event(world, id=f"evt_{number}")
        assert deliver(world, body, sign(world, body)) == 204
    asked: list[str] = []

    async def nothing_to_do(session: AsyncSession) -> None:
        pass

    async def look_up(
        _sessions: Sessions, gateway: StripeGateway, told: StripeEvent
    ) -> inbox.Effect:
        asked.append(told.id)
        await asyncio.sleep(0.05)
        if asked.count("evt_0") == 1 and told.id == "evt_0":
            raise asyncio.CancelledError
        return nothing_to_do

    async def at_once() -> None:
        handlers: dict[str, inbox.Handler] = {"checkout.session.completed": look_up}
        applying = (
            inbox.apply_due(world.parts.sessions, world.gateway, handlers) for _ in range(4)
        )
        await asyncio.gather(*applying, return_exceptions=True)

    unhandled = "SELECT array_agg(id) FROM stripe_event WHERE handled_at IS NULL"
    world.loopback.run(at_once())
    assert sorted(asked) == ["evt_0", "evt_1", "evt_2"]
    assert world.value(unhandled) == ["evt_0"], "its process broke off"
    world.loopback.run(at_once())
    assert len(asked) == 3
    world.advance(inbox.LEASE.total_seconds())
    world.loopback.run(at_once())
    assert asked.count("evt_0") == 2
    assert world.value(unhandled) is None


def test_an_event_that_nothing_can_store_stops_no_other(world: World) -> None:
    acme = world.client()
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit = acme.post("/v1/wallet/deposits", asked)
    world.stripe.complete(deposit["checkout_url"], "card")
    by_hand = world.http.post(
        f"{world.stripe.url}/v1/topups",
        data={"amount": "500", "currency": "usd", "description": "PostgreSQL keeps no \0"},
        headers={"Authorization": f"Bearer {STRIPE_KEY}", "Idempotency-Key": "by hand"},
    )
    assert by_hand.status_code == 200, by_hand.text
    for _ in range(2):
        world.sweep("poll_events", "inbox")
        assert acme.wallet_minor == 5_000
        assert world.value("SELECT count(*) FROM poll_mark") == 1
        assert world.value("SELECT count(*) FROM stripe_event WHERE type = 'topup.created'") == 0


def test_a_fresh_webhook_hides_no_event_of_an_outage(world: World) -> None:
    acme = world.client()
    world.sweep("poll_events")
    asked = {"amount_minor": 5_000, "success_url": "https://acme.example/"}
    deposit = acme.post("/v1/wallet/deposits", asked)
    world.stripe.complete(deposit["checkout_url"], "card")
    world.advance(3_600)
    body = event(world)
    assert deliver(world, body, sign(world, body)) == 204
    world.sweep("poll_events", "inbox")
    assert acme.wallet_minor == 5_000
