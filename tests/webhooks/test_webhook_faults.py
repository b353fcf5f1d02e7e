"""What can go wrong between Stripe and us: planned at the sandbox, and it ends well here."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.world import DAY, Client, Json, Person, World

DEPOSITS, TOPUPS = "/v1/wallet/deposits", "/v1/topups"
PAID = "checkout.session.completed"
LONGEST_SECONDS = 20


@pytest.fixture(autouse=True)
def listening(world: World) -> None:
    world.stripe.listen(world.url)


@pytest.fixture
def empty(world: World) -> Client:
    """Acme, with nothing in its wallet."""
    return world.client()


def pay(world: World, client: Client) -> None:
    page = client.post(DEPOSITS, {"amount_minor": 5_000, "success_url": "https://acme.example/"})
    world.stripe.complete(page["checkout_url"], "card")


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def delivery(world: World, type_: str) -> Json:
    (found,) = (each for each in world.stripe.control("GET", "deliveries") if each["type"] == type_)
    return dict(found)


def is_delivered(world: World, type_: str) -> bool:
    return bool(delivery(world, type_)["delivered"])


def all_others_are_delivered(world: World, type_: str) -> bool:
    deliveries = world.stripe.control("GET", "deliveries")
    return all(each["delivered"] for each in deliveries if each["type"] != type_)


def stored(world: World, type_: str) -> int:
    found: int = world.value("SELECT count(*) FROM stripe_event WHERE type = %s", type_)
    return found


def credited_once(world: World, client: Client) -> None:
    assert stored(world, PAID) == 1
    assert client.wallet_minor == 5_000
    assert world.value("SELECT count(*) FROM ledger_transaction") == 1
    assert world.stripe.faults_fired() == 1


def test_sent_twice_it_counts_once(world: World, empty: Client) -> None:
    world.stripe.webhook_fault("duplicated", PAID)
    pay(world, empty)
    eventually(lambda: delivery(world, PAID)["answers"] == ["204", "204"])
    world.sweep("inbox", "inbox")
    credited_once(world, empty)


def test_sent_late_it_only_delays(world: World, empty: Client) -> None:
    world.stripe.webhook_fault("delayed", PAID, seconds=3)
    pay(world, empty)
    eventually(lambda: all_others_are_delivered(world, PAID))
    world.sweep("inbox")
    assert (stored(world, PAID), empty.wallet_minor) == (0, 0)
    eventually(lambda: is_delivered(world, PAID))
    world.sweep("inbox")
    credited_once(world, empty)


def test_lost_it_is_found_by_the_poller(world: World, empty: Client) -> None:
    world.stripe.webhook_fault("lost", PAID)
    pay(world, empty)
    eventually(lambda: delivery(world, PAID)["answers"] == ["lost"])
    eventually(lambda: all_others_are_delivered(world, PAID))
    world.sweep("inbox")
    assert (stored(world, PAID), empty.wallet_minor) == (0, 0)
    world.sweep("poll_events", "inbox")
    credited_once(world, empty)


@pytest.mark.parametrize("kind", ["badly_signed", "stale"])
def test_what_is_not_provably_stripes_is_refused_until_it_is(
    world: World, empty: Client, kind: str
) -> None:
    world.stripe.webhook_fault(kind, PAID)
    pay(world, empty)
    eventually(lambda: is_delivered(world, PAID))
    assert delivery(world, PAID)["answers"] == ["400", "204"]
    world.sweep("inbox")
    credited_once(world, empty)


def test_out_of_order_the_end_is_the_same(world: World, finn: Person) -> None:
    world.stripe.control("PUT", "settings", topup_after_seconds=DAY)
    world.stripe.webhook_fault("reordered", "topup\\.created")
    topup = finn.post(TOPUPS, {"amount_minor": 5_000, "currency": "USD"})
    world.advance(DAY)
    eventually(lambda: is_delivered(world, "topup.created"))
    told = world.sql("SELECT type FROM stripe_event ORDER BY received_at")
    assert [event["type"] for event in told] == ["topup.succeeded", "topup.created"]
    world.sweep("inbox")
    assert finn.get(f"{TOPUPS}/{topup['id']}")["state"] == "succeeded"
    assert world.ledger("stripe_available") == world.stripe.platform_minor == 5_000


def test_told_before_the_answer_it_is_booked_once(world: World, finn: Person) -> None:
    """The event is even applied while we still wait for the answer to what caused it."""
    world.stripe.webhook_fault("early", "topup\\.(created|succeeded)")
    # It is told of last, and the answer waits for that.
    world.stripe.webhook_fault("delayed", "topup\\.created", seconds=4)
    with ThreadPoolExecutor() as elsewhere:
        asked = {"amount_minor": 5_000, "currency": "USD"}
        answer = elsewhere.submit(finn.post, TOPUPS, asked)
        eventually(lambda: stored(world, "topup.succeeded") == 1)
        world.sweep("inbox")
        assert world.value("SELECT state FROM topup") == "succeeded"
        assert not answer.done()
        topup = answer.result(LONGEST_SECONDS)
    assert topup["state"] == "succeeded"
    assert stored(world, "topup.created") == 1
    world.sweep("inbox")
    assert world.value("SELECT count(*) FROM ledger_transaction") == 1
    assert world.ledger("stripe_available") == world.stripe.platform_minor == 5_000
    assert world.stripe.faults_fired() == 2


def test_the_nth_delivery_is_meant(world: World, empty: Client) -> None:
    world.stripe.webhook_fault("lost", "checkout\\..*", nth=2)
    for _ in range(3):
        pay(world, empty)
    eventually(lambda: world.stripe.control("GET", "state")["webhooks_owed"] == 0)
    assert stored(world, PAID) == 2
    world.sweep("inbox")
    assert empty.wallet_minor == 10_000


def test_a_kind_that_is_not_known_is_refused(world: World) -> None:
    for wrong in ({"kind": "slow"}, {"kind": "lost", "path": "x"}, {"kind": "lost", "event": "("}):
        url = f"{world.stripe.url}/_sandbox/webhook_faults"
        assert world.http.post(url, json={"event": "x", **wrong}).status_code == 422
