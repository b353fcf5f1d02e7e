"""Stories of payouts begin when Ana has worked, if she is owed anything in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import Scene
from tests.world import HOUR, Client, Json, Person, World


@dataclass(frozen=True)
class Worked:
    acme: Client
    ravi: Person
    finn: Person
    ana: Person


def play(world: World) -> Worked:
    acme = world.client("Acme Voice Lab", deposit_minor=100_000)
    ravi, finn = world.reviewer("Ravi"), world.finance("Finn")
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    world.accepted_claim(ana, world.published_job(acme, title="Owed"), ravi)
    return Worked(acme, ravi, finn, ana)


@pytest.fixture(scope="session")
def after_work(make_scene: Callable[[Callable[[World], Worked]], Scene]) -> Scene:
    return make_scene(play)


@pytest.fixture
def scene(request: pytest.FixtureRequest, scene: Scene | None) -> Scene | None:
    if "after_work" not in request.fixturenames:
        return scene
    found: Scene = request.getfixturevalue("after_work")
    return found


@pytest.fixture
def worked(request: pytest.FixtureRequest, world: World, scene: Scene | None) -> Worked | None:
    """None in a story in which Ana is owed nothing."""
    return scene.cast_in(world) if scene and "after_work" in request.fixturenames else None


@pytest.fixture
def acme(worked: Worked | None, acme: Client) -> Client:
    return worked.acme if worked else acme


@pytest.fixture
def ravi(world: World, worked: Worked | None) -> Person:
    return worked.ravi if worked else world.reviewer("Ravi")


@pytest.fixture
def finn(world: World, worked: Worked | None) -> Person:
    return worked.finn if worked else world.finance("Finn")


@pytest.fixture
def owed(world: World, after_work: Scene) -> Person:
    """Ana, onboarded at Stripe and owed 1.23; the platform has 5,000.00 of its own there."""
    cast: Worked = after_work.cast_in(world)
    return cast.ana


@pytest.fixture
def approved(world: World, owed: Person, finn: Person, fay: Person) -> Json:
    """Ana's payout in a run that Finn prepared and Fay approved; nothing is sent yet."""
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    (payout,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    assert (payout["state"], payout["amount_minor"]) == ("approved", 123)
    found: Json = payout
    return found


@pytest.fixture
def paid(world: World, finn: Person, approved: Json) -> Json:
    """Ana's payout, paid."""
    world.sweep("payouts", "inbox")
    found: Json = finn.get(f"/v1/payouts/{approved['id']}")
    assert found["state"] == "paid"
    return found


def ask_for(
    asker: Person, payout: Json, amount_minor: int = 123, cause: str = "wrong_destination"
) -> Json:
    wanted = {"amount_minor": amount_minor, "cause": cause, "reason": "It is not hers."}
    asked: Json = asker.post(f"/v1/payouts/{payout['id']}/reversals", wanted)
    return asked


def returned(
    world: World, asker: Person, approver: Person, payout: Json, cause: str, amount_minor: int = 123
) -> Json:
    """Asked for, approved and sent; answers the reversal."""
    asked = ask_for(asker, payout, amount_minor, cause)
    approver.post(f"/v1/reversals/{asked['id']}/approve")
    world.sweep("reversals", "inbox")
    found: Json = asker.get(f"/v1/reversals/{asked['id']}")
    return found


def lost(world: World, finn: Person, payout: Json) -> Json:
    """Sent, never answered, and 23 hours later not found; answers what was asked of Stripe."""
    path = f"/v1/payouts/{payout['id']}"
    world.stripe.fault("drop_before")
    world.sweep("payouts")
    world.advance(23 * HOUR)
    world.sweep("payouts")
    (attempt,) = finn.get(path)["attempts"]
    assert attempt["not_found_at"] is not None
    request: Json = attempt["request"]
    return request


def comes_in(world: World, request: Json) -> str:
    """What was lost reaches Stripe after all."""
    send = world.gateway.send_transfer(**request, idempotency_key="late")
    return world.loopback.run(send).id


def late_transfer(world: World, finn: Person, payout: Json, **changed: Any) -> str:
    """It came in after a look-up, more than 23 hours later, had not found it; another one is due."""
    transfer = comes_in(world, {**lost(world, finn, payout), **changed})
    world.advance(HOUR)
    return transfer
