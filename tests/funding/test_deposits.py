"""A wallet is credited once, and only with money that is there."""

from tests.world import HOUR, Client, World

PATH = "/v1/wallet/deposits"
WANTED = {"amount_minor": 50_000, "success_url": "https://acme.example/wallet"}


def test_a_page_that_never_opened_expires(world: World) -> None:
    acme = world.client()
    world.stripe.fault("drop_before", path="/v1/checkout/sessions")
    assert acme.ask("POST", PATH, WANTED, key="one intent").status_code == 503
    world.advance(24 * HOUR)
    world.sweep("poll_deposits")
    (deposit,) = acme.get(PATH)["items"]
    assert (deposit["state"], deposit["checkout_url"]) == ("expired", None)
    assert acme.refused("POST", PATH, WANTED, key="one intent") == "409 deposit_expired"
    assert world.client("Globex", deposit_minor=70_000).wallet_minor == 70_000


def test_one_that_cannot_be_looked_at_stands_in_nobodys_way(world: World) -> None:
    first, second = (world.client(name) for name in ("Acme", "Globex"))
    for client in (first, second):
        page = client.post(PATH, WANTED)
        world.stripe.complete(page["checkout_url"], "card")
    world.advance(60)
    world.stripe.fault("drop_before", path="/v1/checkout/sessions/*", method="GET")
    world.sweep("poll_deposits")
    assert sorted([first.wallet_minor, second.wallet_minor]) == [0, 50_000]
    world.advance(5 * 60)
    world.sweep("poll_deposits")
    assert (first.wallet_minor, second.wallet_minor) == (50_000, 50_000)


def test_a_lost_reply_opens_no_second_page(world: World, acme: Client) -> None:
    world.stripe.fault("apply_then_drop", path="/v1/checkout/sessions")
    assert acme.ask("POST", PATH, WANTED, key="one intent").status_code == 503
    page = acme.post(PATH, WANTED, key="one intent")
    assert page["state"] == "awaiting_payment"
    assert acme.post(PATH, WANTED, key="one intent") == page
    world.stripe.complete(page["checkout_url"], "card")
    world.advance(60)
    world.sweep("poll_deposits", "poll_events", "inbox")
    assert acme.wallet_minor == 150_000
