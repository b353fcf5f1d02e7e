import pytest

from tests.world import DAY, Client, Person, World


@pytest.fixture
def settled(world: World, finn: Person) -> Client:
    """Acme Voice Lab with 1,000.00 in its wallet, all of it available at Stripe.

    50.00 there are the platform's own.
    """
    acme = world.client("Acme Voice Lab", deposit_minor=100_000)
    world.capital(finn, 5_000)
    world.advance(3 * DAY)
    world.sweep("funds")
    return acme
