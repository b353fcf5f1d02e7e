"""The platform's own money is asked for once, whatever becomes of the answers."""

from tests.world import DAY, HOUR, Json, Person, World

PATH = "/v1/topups"
WANTED = {"amount_minor": 500_000, "currency": "USD"}
KEY = "one intent"


def lost(world: World, finn: Person, fault: str) -> None:
    world.stripe.fault(fault, path=PATH)
    assert finn.ask("POST", PATH, WANTED, key=KEY).status_code == 503


def booked_once(world: World, finn: Person) -> Json:
    topup: Json = finn.post(PATH, WANTED, key=KEY)
    assert topup["state"] == "succeeded"
    assert world.stripe.platform_minor == 500_000
    assert world.ledger("platform_capital") == -500_000
    assert world.ledger("stripe_available") == 500_000
    return topup


def test_a_lost_reply_is_asked_for_again_with_the_same_key(world: World, finn: Person) -> None:
    lost(world, finn, "apply_then_drop")
    for _ in range(2):
        world.advance(60)
        world.sweep("poll_topups")
    booked_once(world, finn)


def test_a_request_that_never_came_in_is_asked_again(world: World, finn: Person) -> None:
    lost(world, finn, "drop_before")
    for _ in range(2):
        world.advance(60)
        world.sweep("poll_topups")
    booked_once(world, finn)


def test_the_event_of_a_lost_reply_names_our_row(world: World, finn: Person) -> None:
    lost(world, finn, "apply_then_drop")
    world.sweep("poll_events", "inbox")
    booked_once(world, finn)
    world.advance(HOUR)
    world.sweep("poll_topups", "poll_events", "inbox")
    booked_once(world, finn)


def test_one_that_stripe_refuses_has_failed(world: World, finn: Person) -> None:
    for _ in range(2):
        world.stripe.fault("balance_insufficient", path=PATH)
    assert finn.refused("POST", PATH, WANTED, key=KEY) == "409 refused_by_stripe"
    world.advance(60)
    world.sweep("poll_topups")
    assert finn.post(PATH, WANTED, key=KEY)["state"] == "failed"
    assert world.ledger("platform_capital") == 0


def unanswered_for_a_day(world: World, finn: Person, fault: str) -> None:
    """Stripe may have forgotten the key by then: asking once more could bring the money twice."""
    lost(world, finn, fault)
    world.advance(24 * HOUR)
    assert finn.refused("POST", PATH, WANTED, key=KEY) == "409 topup_unanswered"


def test_after_23_hours_without_an_answer_it_is_looked_for(world: World, finn: Person) -> None:
    unanswered_for_a_day(world, finn, "apply_then_drop")
    for _ in range(2):
        world.sweep("poll_topups")
        world.advance(HOUR)
    booked_once(world, finn)
    world.sweep("poll_events", "inbox")
    booked_once(world, finn)


def test_money_that_is_on_its_way_is_booked_when_it_comes(world: World, finn: Person) -> None:
    world.stripe.control("PUT", "settings", topup_after_seconds=2 * DAY)
    topup = finn.post(PATH, WANTED, key=KEY)
    assert topup["state"] == "pending"
    world.advance(DAY)
    world.sweep("poll_topups", "poll_events", "inbox")
    assert finn.get(f"{PATH}/{topup['id']}")["state"] == "pending"
    assert world.ledger("stripe_available") == 0
    world.advance(DAY)
    world.sweep("poll_events", "inbox")
    booked_once(world, finn)


def test_money_that_the_bank_refuses_is_not_booked(world: World, finn: Person) -> None:
    world.stripe.control("PUT", "settings", topup_after_seconds=2 * DAY, topups_fail=1)
    topup = finn.post(PATH, WANTED, key=KEY)
    assert topup["state"] == "pending"
    world.advance(2 * DAY)
    world.sweep("poll_events", "inbox")
    failed = finn.get(f"{PATH}/{topup['id']}")
    assert (failed["state"], failed["state_reason"]) == (
        "failed",
        "The bank account has insufficient funds.",
    )
    assert world.ledger("stripe_available") == 0
    assert world.stripe.control("GET", "state")["balances"] == {}


def test_what_stripe_has_never_had_by_then_has_failed(world: World, finn: Person) -> None:
    unanswered_for_a_day(world, finn, "drop_before")
    world.stripe.fault("drop_before", path=PATH, method="GET")
    world.sweep("poll_topups")
    assert finn.refused("POST", PATH, WANTED, key=KEY) == "409 topup_unanswered"
    world.advance(HOUR)
    world.sweep("poll_topups")
    failed = finn.post(PATH, WANTED, key=KEY)
    assert (failed["state"], failed["state_reason"]) == (
        "failed",
        "Stripe has never had it; ask for another.",
    )
    assert world.ledger("platform_capital") == 0
    finn.post(PATH, WANTED)
    assert world.stripe.platform_minor == 500_000
