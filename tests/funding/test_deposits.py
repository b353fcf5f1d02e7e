"""A wallet is credited once, and only with money that is there."""

from tests.world import DAY, HOUR, Client, Json, World

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


def test_one_that_stripe_refuses_is_closed_with_its_words(world: World, acme: Client) -> None:
    too_much = {**WANTED, "amount_minor": 99_999_999 + 1}
    assert acme.refused("POST", PATH, too_much, key="one intent") == "409 refused_by_stripe"
    deposit = acme.get(PATH)["items"][0]
    assert (deposit["state"], deposit["checkout_url"]) == ("expired", None)
    assert deposit["state_reason"].startswith("Stripe refused it: ")
    assert acme.refused("POST", PATH, too_much, key="one intent") == "409 deposit_expired"


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


class TestWhatTakesTime:
    """As at Stripe: a fee is told late, a bank debit ends after days, a page lapses."""

    def paid(self, world: World, acme: Client, outcome: str) -> Json:
        deposit: Json = acme.post(PATH, WANTED)
        world.stripe.complete(deposit["checkout_url"], outcome)
        return deposit

    def told(self, world: World, acme: Client, deposit: Json) -> tuple[str, str | None, int]:
        """By events alone."""
        world.sweep("poll_events", "inbox")
        seen = acme.get(f"{PATH}/{deposit['id']}")
        return seen["state"], seen["state_reason"], acme.wallet_minor

    def test_the_wallet_waits_for_the_fee(self, world: World) -> None:
        acme = world.client()
        world.stripe.control("PUT", "settings", fee_after_seconds=HOUR)
        deposit = self.paid(world, acme, "card")
        paid = "Paid; Stripe has not told its fee yet."
        assert self.told(world, acme, deposit) == ("awaiting_payment", paid, 0)
        assert world.stripe.control("GET", "state")["balances"] == {}
        world.advance(HOUR)
        world.sweep("poll_deposits")
        assert self.told(world, acme, deposit) == ("credited", None, 50_000)
        assert world.ledger("stripe_fees") == 1_480
        assert world.ledger("stripe_pending") == world.stripe.platform_minor == 50_000 - 1_480

    def test_a_bank_debit_is_credited_when_the_bank_has_paid(self, world: World) -> None:
        acme = world.client()
        deposit = self.paid(world, acme, "bank_debit")
        assert self.told(world, acme, deposit) == ("awaiting_payment", None, 0)
        world.advance(3 * DAY)
        world.sweep("poll_deposits")
        assert self.told(world, acme, deposit) == ("awaiting_payment", None, 0)
        world.advance(DAY)
        assert self.told(world, acme, deposit) == ("credited", None, 50_000)

    def test_a_bank_debit_that_bounces_credits_nothing(self, world: World) -> None:
        acme = world.client()
        deposit = self.paid(world, acme, "bank_debit_bounced")
        assert self.told(world, acme, deposit) == ("awaiting_payment", None, 0)
        world.advance(4 * DAY)
        assert self.told(world, acme, deposit) == ("expired", "The payment failed.", 0)
        assert world.value("SELECT count(*) FROM ledger_transaction") == 0

    def test_a_page_that_lapses_tells_so(self, world: World) -> None:
        acme = world.client()
        deposit = self.paid(world, acme, "card_declined")
        world.advance(DAY - 60)
        assert self.told(world, acme, deposit)[0] == "awaiting_payment"
        world.advance(60)
        lapsed = ("expired", "The page was not completed.", 0)
        assert self.told(world, acme, deposit) == lapsed
        assert world.http.post(deposit["checkout_url"]).status_code == 410
