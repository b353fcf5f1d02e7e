"""Too many events, in every order, none for a day; and Stripe itself away for longer than it remembers."""

import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from marketplace.stripe_sandbox.deliveries import signature
from tests.faults.campaign import Ground
from tests.faults.flow import EVERYTHING, at_stripe
from tests.faults.flows import FLOWS
from tests.faults.test_campaign import TIMES as TIMES_OF_ALL
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World

TIMES, AT_ONCE = 1_000, 32
# All 120, or a sample of them.
ORDERS = list(itertools.permutations(range(5)))[:: 1 if TIMES_OF_ALL else 10]
NOBODY_LISTENS = "http://127.0.0.1:9"


def deliver(world: World, event: Json) -> int:
    payload = json.dumps(event)
    signed = signature(payload, secret="whsec_platform", timestamp=int(world.now.timestamp()))
    answer = world.http.post(
        f"{world.url}/v1/stripe/webhooks/platform",
        content=payload,
        headers={"Stripe-Signature": signed},
    )
    return answer.status_code


def events_of_a_deposit(world: World, client: Client, amount_minor: int) -> list[Json]:
    before = at_stripe(world, "events")[:1]
    world.paid_at_stripe(client, amount_minor)
    world.advance(1)
    known = {event["id"] for event in before}
    return list(
        itertools.takewhile(lambda each: each["id"] not in known, at_stripe(world, "events"))
    )


@pytest.fixture
def solvent(world: World, finn: Person) -> None:
    world.capital(finn, 500_000)


def test_an_event_delivered_a_thousand_times_has_one_effect(world: World, solvent: None) -> None:
    acme = world.client()
    (paid,) = (
        event
        for event in events_of_a_deposit(world, acme, 5_000)
        if event["type"] == "checkout.session.completed"
    )
    payload = json.dumps(paid)
    signed = signature(payload, secret="whsec_platform", timestamp=int(world.now.timestamp()))

    def several(times: int) -> list[int]:
        with httpx.Client(trust_env=False, timeout=60) as http:
            return [
                http.post(
                    f"{world.url}/v1/stripe/webhooks/platform",
                    content=payload,
                    headers={"Stripe-Signature": signed},
                ).status_code
                for _ in range(times)
            ]

    shares = [TIMES // AT_ONCE + (number < TIMES % AT_ONCE) for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE + 2) as elsewhere:
        delivering = elsewhere.map(several, shares)
        sweeping = [elsewhere.submit(world.sweep, *["inbox"] * 20) for _ in range(2)]
        answers = list(itertools.chain.from_iterable(delivering))
        assert sum(each.result() >= 0 for each in sweeping) == 2
    assert answers == [204] * TIMES
    world.sweep("inbox")
    assert world.value("SELECT count(*) FROM stripe_event WHERE id = %s", paid["id"]) == 1
    assert acme.wallet_minor == 5_000
    credited = "SELECT count(*) FROM ledger_transaction WHERE kind = 'deposit_credited'"
    assert world.value(credited) == 1
    world.sweep("poll_events", "inbox")
    assert violations(world) == {}


def test_five_events_in_all_orders_end_alike(world: World, solvent: None) -> None:
    # The fifth tells of the fee.
    world.stripe.control("PUT", "settings", fee_after_seconds=1)
    acme = world.client()
    ends = set()
    for order, events in every_order(world, acme):
        before = acme.wallet_minor
        for event in events:
            assert deliver(world, event) == 204
            world.sweep("inbox")
        (deposit,) = world.sql("SELECT * FROM deposit ORDER BY id DESC LIMIT 1")
        ends.add((deposit["state"], deposit["fee_minor"], acme.wallet_minor - before))
        assert ends == {("credited", 175, 5_000)}, order
    count = world.value("SELECT count(*) FROM deposit")
    assert count == len(ORDERS)
    world.sweep("poll_events", "inbox", "poll_deposits")
    assert acme.wallet_minor == count * 5_000
    assert violations(world) == {}


def every_order(world: World, client: Client) -> Iterable[tuple[list[str], list[Json]]]:
    for order in ORDERS:
        # Whatever more there is comes first.
        *more, one, two, three, four, five = events_of_a_deposit(world, client, 5_000)
        events = [*more, *((one, two, three, four, five)[place] for place in order)]
        yield [event["type"] for event in events], events


def test_when_every_event_is_lost_for_a_day_the_pollers_find_it_all(
    world: World, solvent: None, finn: Person, fay: Person, ravi: Person
) -> None:
    world.stripe.listen(NOBODY_LISTENS)
    acme = world.client()
    world.paid_at_stripe(acme, 100_000)
    finn.post("/v1/topups", {"amount_minor": 1_000, "currency": "USD"})
    ana = world.performer("Ana")
    opened = ana.post("/v1/payout-account", {"return_url": "https://app.example/paid"})
    world.stripe.complete(opened["onboarding_url"], "complete")
    for _ in range(24):
        world.advance(HOUR)
        world.sweep("poll_events", "inbox", "poll_deposits", "poll_topups", "poll_accounts")
    assert all(not each["delivered"] for each in world.stripe.control("GET", "deliveries"))
    assert acme.wallet_minor == 100_000
    assert world.value("SELECT state FROM topup ORDER BY id DESC LIMIT 1") == "succeeded"
    world.accepted_claim(ana, world.published_job(acme), ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    assert (run["payouts"], run["excluded"]) == (1, 0)
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    world.advance(2 * DAY)
    world.sweep(*EVERYTHING)
    assert len(world.stripe.transfers()) == 1
    assert world.ledger("stripe_available") == world.stripe.platform_minor
    assert violations(world) == {}


@pytest.mark.parametrize("name", ["payout", "reversal", "refund", "withdrawal"])
def test_stripe_is_away_for_25_hours_after_a_lost_reply(ground: Ground, name: str) -> None:
    """By then it has forgotten the key: asking once more would do it twice."""
    flow, scene = FLOWS[name], ground.scene(name, 1)
    with ground.zone(scene) as world:
        cast = scene.cast_in(world)
        world.stripe.fault("apply_then_drop", path=ASKED[name])
        flow.play(world, cast)
        for _ in range(25):
            world.stripe.fault("drop_before", path="/v1/", method="*")
            world.advance(HOUR)
            world.sweep(*flow.sweeps[flow.sweeps.index("payouts") :])
        world.stripe.control("DELETE", "faults")
        for _ in range(3):
            world.advance(HOUR)
            world.sweep(*EVERYTHING)
        flow.ended(world, cast)
        assert len(at_stripe(world, "transfers")) <= 1
        assert violations(world) == {}


ASKED = {
    "payout": "/v1/transfers$",
    "reversal": "/v1/transfers/[^/]+/reversals$",
    "refund": "/v1/refunds$",
    "withdrawal": "/v1/payouts$",
}
