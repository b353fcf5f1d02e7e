import pytest

from tests.world import Json, Person, World


@pytest.fixture
def own_money(world: World, finn: Person) -> None:
    """The platform has 5,000.00 of its own at Stripe."""
    world.capital(finn, 500_000)


@pytest.fixture
def approved(world: World, own_money: None, finn: Person, fay: Person) -> Json:
    """2,000.00 that Finn asked for and Fay approved; nothing is sent yet."""
    wanted = {"amount_minor": 200_000, "currency": "USD", "reason": "Fees earned in October."}
    asked = finn.post("/v1/withdrawals", wanted)
    found: Json = fay.post(f"/v1/withdrawals/{asked['id']}/approve")
    assert found["state"] == "approved"
    return found
