"""A real process is killed at each step of a withdrawal; a new one goes on. It leaves once."""

import signal
import time

import pytest

from tests.bank.test_withdrawals import left, payouts, read
from tests.forked import Forked, forked
from tests.processes import END_SECONDS
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Json, Person, World

LEASE_SECONDS = 61
KILLED = -signal.SIGKILL


def sender(world: World, *where: str) -> Forked:
    return forked(world, "tests.bank.killed_sender", *where)


def left_once(world: World, finn: Person, approved: Json) -> None:
    world.sweep("poll_events", "inbox")
    left(world, finn, approved)
    kinds = world.sql(
        "SELECT kind, count(*) AS times FROM ledger_transaction"
        " WHERE kind LIKE 'withdrawal%%' GROUP BY kind ORDER BY kind"
    )
    assert kinds == [
        {"kind": "withdrawal_confirmed", "times": 1},
        {"kind": "withdrawal_sent", "times": 1},
    ]


@pytest.mark.parametrize("step", ["lease", "intent", "payout", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_leaves_once(
    world: World, finn: Person, approved: Json, when: str, step: str
) -> None:
    assert sender(world, when, step).wait() == KILLED
    world.advance(LEASE_SECONDS)
    assert sender(world).wait() == 0
    left_once(world, finn, approved)


def test_killed_while_stripe_thinks(world: World, finn: Person, approved: Json) -> None:
    world.stripe.fault("hang", path="/v1/payouts")
    process = sender(world)
    deadline = time.monotonic() + END_SECONDS
    while not world.stripe.faults_fired():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait() == KILLED
    assert read(finn, approved)["state"] == "sending"
    world.advance(LEASE_SECONDS)
    assert sender(world).wait() == 0
    left_once(world, finn, approved)


def test_killed_and_not_missed_for_25_hours(world: World, finn: Person, approved: Json) -> None:
    """By then Stripe has forgotten the key: asking once more would take the money twice."""
    assert sender(world, "after", "payout").wait() == KILLED
    world.advance(25 * HOUR)
    assert sender(world).wait() == 0
    left_once(world, finn, approved)


@pytest.mark.parametrize(("when", "step"), [("before", "look"), ("after", "look")])
def test_killed_while_it_looks_at_what_came_back(
    world: World, finn: Person, approved: Json, when: str, step: str
) -> None:
    world.sweep("withdrawals")
    (payout,) = payouts(world)
    world.advance(2 * DAY)
    world.stripe.control("PUT", f"payouts/{payout['id']}", status="failed")
    assert sender(world, when, step).wait() == KILLED
    world.advance(LEASE_SECONDS)
    assert sender(world).wait() == 0
    assert read(finn, approved)["state"] == "returned"
    assert world.ledger("platform_capital") == -500_000
    assert violations(world) == {}


def test_three_processes_send_it_once(world: World, finn: Person, approved: Json) -> None:
    processes = [sender(world) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    left_once(world, finn, approved)
