"""A real process is killed at each step of a refund; another one goes on. Refunded once."""

import signal

import pytest

from tests.forked import Forked, forked
from tests.funding.test_refunds import PATH, asked, refunded_once, states
from tests.world import HOUR, Client, World

LEASE_SECONDS = 61


@pytest.fixture
def acme(settled: Client) -> Client:
    return settled


def refunder(world: World, *where: str) -> Forked:
    return forked(world, "tests.funding.killed_refunder", *where)


@pytest.mark.parametrize("step", ["lease", "refund", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_is_refunded_once(
    world: World, acme: Client, when: str, step: str
) -> None:
    asked(acme)
    assert refunder(world, when, step).wait() == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait() == 0
    refunded_once(world, acme)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_looks_for_it(world: World, acme: Client, when: str) -> None:
    asked(acme)
    assert refunder(world, "after", "refund").wait() == -signal.SIGKILL
    world.advance(25 * HOUR)
    assert refunder(world, when, "look_up").wait() == -signal.SIGKILL
    assert states(acme) == ["sending"]
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait() == 0
    refunded_once(world, acme)


def test_killed_while_stripe_thinks(world: World, acme: Client) -> None:
    world.stripe.fault("hang", path=PATH)
    asked(acme)
    process = refunder(world)
    while not world.stripe.faults_fired():
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert states(acme) == ["sending"]
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait() == 0
    refunded_once(world, acme)


def test_three_processes_send_it_once(world: World, acme: Client) -> None:
    asked(acme)
    processes = [refunder(world) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    refunded_once(world, acme)
