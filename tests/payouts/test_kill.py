"""A real process is killed before and after each step of sending; a new one goes on. Paid once."""

import signal
import subprocess
import sys
import time

import pytest

from tests.processes import END_SECONDS, environment
from tests.world import Json, Person, World

LEASE_SECONDS = 61


def sender(world: World, *where: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.payouts.killed_sender", *where],
        env=environment(world),
        cwd=environment(world)["PYTHONPATH"],
    )


def paid_once(world: World, finn: Person, owed: Person, payout: Json) -> None:
    (transfer,) = world.stripe.transfers()
    now = finn.get(f"/v1/payouts/{payout['id']}")
    assert (now["state"], now["transfer_id"]) == ("paid", transfer["id"])
    assert (transfer["amount"], transfer["destination"]) == (123, payout["destination"])
    (attempt,) = now["attempts"]
    assert attempt["outcome"] == "succeeded"
    assert world.ledger("performer_payable", owed.id) == 0
    assert world.ledger("transfers_in_flight") == 0
    assert world.value("SELECT sum(amount_minor)::bigint FROM ledger_entry") == 0
    kinds = world.sql(
        "SELECT kind, count(*) AS times FROM ledger_transaction"
        " WHERE kind LIKE 'transfer%%' GROUP BY kind ORDER BY kind"
    )
    assert kinds == [
        {"kind": "transfer_confirmed", "times": 1},
        {"kind": "transfer_sent", "times": 1},
    ]


@pytest.mark.parametrize("step", ["lease", "intent", "transfer", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_is_paid_once(
    world: World, finn: Person, owed: Person, approved: Json, when: str, step: str
) -> None:
    assert sender(world, when, step).wait(END_SECONDS) == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    assert sender(world).wait(END_SECONDS) == 0
    paid_once(world, finn, owed, approved)


def test_killed_while_stripe_thinks(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    world.stripe.fault("hang")
    process = sender(world)
    deadline = time.monotonic() + END_SECONDS
    while not world.stripe.faults_fired():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait(END_SECONDS) == -signal.SIGKILL
    assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "sending"
    world.advance(LEASE_SECONDS)
    assert sender(world).wait(END_SECONDS) == 0
    paid_once(world, finn, owed, approved)


def test_three_processes_send_it_once(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    processes = [sender(world) for _ in range(3)]
    assert [process.wait(END_SECONDS) for process in processes] == [0, 0, 0]
    paid_once(world, finn, owed, approved)
