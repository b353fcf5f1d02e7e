"""Money that comes in, whoever tells of it."""

import random
from dataclasses import dataclass

from tests.faults.zone import until_told
from tests.world import DAY, Client, Person, World

PAGE = {"success_url": "https://acme.example/wallet"}

# A deposit: asked for, paid on Stripe's page, found by the poller, let out of pending.


@dataclass(frozen=True)
class Depositor:
    acme: Client
    amount_minor: int


def empty_wallet(world: World, chance: random.Random) -> Depositor:
    # More than the fee, so that the platform is solvent.
    world.capital(world.finance(), 100_000)
    return Depositor(world.client(), chance.randrange(1_000, 1_000_000))


def deposit(world: World, cast: Depositor) -> None:
    world.paid_at_stripe(cast.acme, cast.amount_minor)
    world.advance(60)
    world.sweep("poll_deposits")
    world.advance(3 * DAY)
    world.sweep("funds")


def deposited(world: World, cast: Depositor) -> None:
    credited(world, cast)
    assert world.ledger("stripe_pending") == 0
    assert_all_is_handled(world)


def assert_all_is_handled(world: World) -> None:
    assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0


def credited(world: World, cast: Depositor) -> None:
    """Once, even if it was asked for once more because the first page never opened."""
    assert world.value("SELECT count(*) FROM deposit WHERE fee_minor IS NOT NULL") == 1
    assert cast.acme.wallet_minor == cast.amount_minor
    ours = world.ledger("stripe_pending") + world.ledger("stripe_available")
    assert ours == world.stripe.platform_minor


# The same, told by Stripe's events alone: no poller looks at the deposit.


def waiting_page(world: World, chance: random.Random) -> tuple[Depositor, str]:
    cast = empty_wallet(world, chance)
    world.sweep("poll_events", "inbox")
    asked = {"amount_minor": cast.amount_minor, **PAGE}
    return cast, cast.acme.post("/v1/wallet/deposits", asked)["checkout_url"]


def be_told(world: World, cast: tuple[Depositor, str]) -> None:
    world.stripe.complete(cast[1], "card")
    until_told(world)
    world.sweep("inbox")


def was_told(world: World, cast: tuple[Depositor, str]) -> None:
    credited(world, cast[0])
    assert_all_is_handled(world)
    paid = "SELECT count(*) FROM stripe_event WHERE type = 'checkout.session.completed'"
    assert world.value(paid) == 1


# The platform's own money.


def finance_alone(world: World, chance: random.Random) -> tuple[Person, int]:
    return world.finance("Finn"), chance.randrange(100, 1_000_000)


def top_up(world: World, cast: tuple[Person, int]) -> None:
    finn, amount_minor = cast
    finn.post("/v1/topups", {"amount_minor": amount_minor, "currency": "USD"})
    world.advance(60)
    world.sweep("poll_topups")


def topped_up(world: World, cast: tuple[Person, int]) -> None:
    assert world.value("SELECT string_agg(state, ' ') FROM topup") == "succeeded"
    assert world.ledger("stripe_available") == world.stripe.platform_minor == cast[1]
