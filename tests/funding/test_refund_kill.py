"""A real process is killed at each step of a refund; another one goes on. Refunded once."""

import signal
import subprocess
import sys

import pytest

from tests.funding.test_refunds import PATH, asked, refunded_once, states
from tests.processes import END_SECONDS, environment
from tests.world import HOUR, Client, World

LEASE_SECONDS = 61


@pytest.fixture
def acme(settled: Client) -> Client:
    return settled


def refunder(world: World, *where: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.funding.killed_refunder", *where],
        env=environment(world),
        cwd=environment(world)["PYTHONPATH"],
    )


@pytest.mark.parametrize("step", ["lease", "refund", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_is_refunded_once(
    world: World, acme: Client, when: str, step: str
) -> None:
    asked(acme)
    assert refunder(world, when, step).wait(END_SECONDS) == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait(END_SECONDS) == 0
    refunded_once(world, acme)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_looks_for_it(world: World, acme: Client, when: str) -> None:
    asked(acme)
    assert refunder(world, "after", "refund").wait(END_SECONDS) == -signal.SIGKILL
    world.advance(25 * HOUR)
    assert refunder(world, when, "look_up").wait(END_SECONDS) == -signal.SIGKILL
    assert states(acme) == ["sending"]
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait(END_SECONDS) == 0
    refunded_once(world, acme)


def test_killed_while_stripe_thinks(world: World, acme: Client) -> None:
    world.stripe.fault("hang", path=PATH)
    asked(acme)
    process = refunder(world)
    while not world.stripe.faults_fired():
        assert process.poll() is None
    process.kill()
    assert process.wait(END_SECONDS) == -signal.SIGKILL
    assert states(acme) == ["sending"]
    world.advance(LEASE_SECONDS)
    assert refunder(world).wait(END_SECONDS) == 0
    refunded_once(world, acme)


def test_three_processes_send_it_once(world: World, acme: Client) -> None:
    asked(acme)
    processes = [refunder(world) for _ in range(3)]
    assert [process.wait(END_SECONDS) for process in processes] == [0, 0, 0]
    refunded_once(world, acme)
