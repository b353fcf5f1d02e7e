"""A real process is killed at each step of a reversal; a new one goes on. It comes back once."""

import signal

import pytest

from tests.forked import Forked, forked
from tests.payouts.conftest import ask_for
from tests.reports.conftest import violations
from tests.world import HOUR, Json, Person, World

LEASE_SECONDS = 61


@pytest.fixture
def due(finn: Person, fay: Person, paid: Json) -> Json:
    """Asked for by Finn, approved by Fay; nothing is sent yet."""
    asked = ask_for(finn, paid)
    found: Json = fay.post(f"/v1/reversals/{asked['id']}/approve")
    return found


def reverser(world: World, *where: str) -> Forked:
    return forked(world, "tests.payouts.killed_reverser", *where)


def came_back_once(world: World, finn: Person, owed: Person, due: Json) -> None:
    done = finn.get(f"/v1/reversals/{due['id']}")
    assert done["state"] == "reversed"
    assert done["idempotency_key"] == f"reversal-{due['id']}"
    assert world.stripe.control("GET", "state")["objects"]["transfer_reversal"] == 1
    (transfer,) = world.stripe.transfers()
    assert (transfer["amount_reversed"], transfer["reversed"]) == (123, True)
    assert finn.get(f"/v1/payouts/{due['payout_id']}")["state"] == "reversed"
    assert world.ledger("performer_payable", owed.id) == -123
    booked = "SELECT count(*) FROM ledger_transaction WHERE kind = 'transfer_reversed'"
    assert world.value(booked) == 1
    world.sweep("poll_events", "inbox", "funds")
    assert len(finn.get("/v1/reversals")["items"]) == 1
    assert violations(world) == {}


@pytest.mark.parametrize("step", ["lease", "intent", "reversal", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_comes_back_once(
    world: World, finn: Person, owed: Person, due: Json, when: str, step: str
) -> None:
    assert reverser(world, when, step).wait() == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    assert reverser(world).wait() == 0
    came_back_once(world, finn, owed, due)


def test_killed_and_not_missed_for_25_hours(
    world: World, finn: Person, owed: Person, due: Json
) -> None:
    """By then Stripe has forgotten the key: it is looked up."""
    assert reverser(world, "after", "reversal").wait() == -signal.SIGKILL
    world.advance(25 * HOUR)
    assert reverser(world).wait() == 0
    came_back_once(world, finn, owed, due)


def test_three_processes_reverse_it_once(
    world: World, finn: Person, owed: Person, due: Json
) -> None:
    processes = [reverser(world) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    came_back_once(world, finn, owed, due)
