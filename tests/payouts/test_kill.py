"""A real process is killed or stopped at each step of sending; a new one goes on. Paid once."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.forked import Forked, forked
from tests.payouts.conftest import late_transfer
from tests.payouts.killed_sender import SHORT_LEASE
from tests.processes import END_SECONDS
from tests.reports.conftest import violations
from tests.world import HOUR, Client, Json, Person, World

LEASE_SECONDS = 61


def sender(world: World, *where: str) -> Forked:
    return forked(world, "tests.payouts.killed_sender", *where)


@contextmanager
def stopped_sender(world: World, *where: str) -> Iterator[None]:
    """Stands still at a step while the block lasts, by its own clock for longer than its lease."""
    process = sender(world, *where, "stop")
    try:
        process.wait_until_stopped()
        time.sleep(SHORT_LEASE.total_seconds() + 0.1)
        yield
        process.go_on()
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()


def wait_for_the_fault(world: World) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not world.stripe.faults_fired():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def paid_once(world: World, finn: Person, owed: Person, payout: Json) -> None:
    (transfer,) = world.stripe.transfers()
    now = finn.get(f"/v1/payouts/{payout['id']}")
    assert (now["state"], now["transfer_id"]) == ("paid", transfer["id"])
    assert (transfer["amount"], transfer["destination"]) == (123, payout["destination"])
    (attempt,) = now["attempts"]
    assert (attempt["number"], attempt["outcome"]) == (1, "succeeded")
    assert attempt["idempotency_key"] == f"payout-{payout['id']}-attempt-1"
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
    # Nothing is left over anywhere, at Stripe neither.
    world.sweep("poll_events", "inbox", "funds")
    assert violations(world) == {}


@pytest.mark.parametrize("step", ["lease", "renewal", "intent", "transfer", "outcome"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_it_is_paid_once(
    world: World, finn: Person, owed: Person, approved: Json, when: str, step: str
) -> None:
    assert sender(world, when, step).wait() == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    assert sender(world).wait() == 0
    paid_once(world, finn, owed, approved)


def test_killed_while_stripe_thinks(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    world.stripe.fault("hang")
    process = sender(world)
    wait_for_the_fault(world)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "sending"
    world.advance(LEASE_SECONDS)
    assert sender(world).wait() == 0
    paid_once(world, finn, owed, approved)


@pytest.mark.parametrize("fault", ["apply_then_drop", "409"])
def test_without_a_proof_the_next_process_asks_with_the_same_key(
    world: World, finn: Person, owed: Person, approved: Json, fault: str
) -> None:
    world.stripe.fault(fault)
    assert sender(world).wait() == 0
    assert world.stripe.faults_fired() == 1
    assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "unknown"
    world.advance(10)
    assert sender(world).wait() == 0
    paid_once(world, finn, owed, approved)


def test_a_repeat_while_the_first_is_in_hand(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    """Stripe still works on what a dead process asked for: the key is in use."""
    world.stripe.fault("slow", seconds=4)
    process = sender(world)
    wait_for_the_fault(world)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    world.advance(LEASE_SECONDS)
    world.sweep("payouts")
    assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "unknown"
    time.sleep(4)
    world.advance(10)
    world.sweep("payouts")
    paid_once(world, finn, owed, approved)


@pytest.mark.parametrize("fault", ["apply_then_drop", "error_500_after_apply"])
def test_down_for_25_hours_after_a_lost_reply(
    world: World, finn: Person, owed: Person, approved: Json, fault: str
) -> None:
    """By then Stripe has forgotten the key: asking once more would pay twice."""
    world.stripe.fault(fault)
    world.sweep("payouts")
    for _ in range(25):
        world.stripe.fault("drop_before", method="*")
        world.advance(HOUR)
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "unknown"
    assert world.stripe.faults_fired() == 26
    world.advance(HOUR)
    world.sweep("payouts")
    paid_once(world, finn, owed, approved)


def test_killed_and_not_missed_for_25_hours(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    assert sender(world, "after", "transfer").wait() == -signal.SIGKILL
    world.advance(25 * HOUR)
    assert sender(world).wait() == 0
    paid_once(world, finn, owed, approved)


@pytest.mark.parametrize("step", ["lease", "reading"])
def test_one_that_wakes_up_with_a_forgotten_key_does_not_use_it(
    world: World, finn: Person, owed: Person, approved: Json, step: str
) -> None:
    """Stopped when the key was young; since then another one has looked the transfer up."""
    world.stripe.fault("apply_then_drop")
    world.sweep("payouts")
    world.advance(22 * HOUR)
    with stopped_sender(world, "after", step):
        world.advance(2 * HOUR + 60)
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"
    paid_once(world, finn, owed, approved)


@pytest.mark.parametrize("step", ["intent", "reading"])
def test_one_that_wakes_up_after_another_attempt_was_paid_asks_for_nothing(
    world: World, finn: Person, fay: Person, approved: Json, step: str
) -> None:
    path = f"/v1/payouts/{approved['id']}"
    with stopped_sender(world, "after", step):
        world.advance(25 * HOUR)
        world.sweep("payouts")
        fay.post(f"{path}/absent", {"reason": "The sender stood still; nothing is there."})
        fay.post(f"{path}/approve", {"reason": "Once more."})
        world.sweep("payouts")
    assert len(world.stripe.transfers()) == 1
    assert finn.get(path)["state"] == "paid"
    assert violations(world) == {}


def test_nobody_calls_absent_what_somebody_looks_for(
    world: World, finn: Person, fay: Person, owed: Person, approved: Json
) -> None:
    """The look-up has found a transfer that came late, and has not written it down yet."""
    path = f"/v1/payouts/{approved['id']}"
    late_transfer(world, finn, approved)
    with stopped_sender(world, "after", "look_up"):
        gone = {"reason": "It was not there an hour ago."}
        assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"
    paid_once(world, finn, owed, approved)


def test_what_a_stale_look_up_did_not_find_proves_nothing(
    world: World, finn: Person, fay: Person, approved: Json
) -> None:
    """Another one has begun to look since, and has no answer yet."""
    path = f"/v1/payouts/{approved['id']}"
    world.stripe.fault("drop_before")
    world.sweep("payouts")
    world.advance(23 * HOUR)
    with stopped_sender(world, "after", "look_up"):
        world.advance(LEASE_SECONDS)
        world.stripe.fault("drop_before", method="GET")
        world.sweep("payouts")
    (attempt,) = finn.get(path)["attempts"]
    assert attempt["not_found_at"] is None
    gone = {"reason": "Somebody did not find it."}
    assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"


def test_what_was_found_but_called_absent_is_held_and_then_booked(
    world: World, finn: Person, fay: Person, approved: Json
) -> None:
    """Stripe did not list to the second sender what it had listed to the first."""
    path = f"/v1/payouts/{approved['id']}"
    late = late_transfer(world, finn, approved)
    with stopped_sender(world, "after", "look_up"):
        world.change_at_stripe("transfer", late, transfer_group="not listed yet")
        world.advance(LEASE_SECONDS)
        world.sweep("payouts")
        fay.post(f"{path}/absent", {"reason": "The look-up found nothing."})
    held = finn.get(path)
    assert (held["state"], held["transfer_id"]) == ("held", None)
    assert f"Stripe has {late}" in held["state_reason"]
    world.sweep("stripe_lines")
    (line,) = finn.get("/v1/exceptions")["items"]
    assert (line["waits_for"], line["may_be_booked_as"]) == (f"payout {approved['id']}", [])
    world.change_at_stripe("transfer", late, transfer_group=f"payout-{approved['id']}")
    fay.post(f"{path}/approve", {"reason": "Stripe's own list has it."})
    world.sweep("payouts")
    done = finn.get(path)
    assert (done["state"], done["transfer_id"]) == ("paid", late)
    assert len(world.stripe.transfers()) == 1
    assert violations(world) == {}


def test_three_processes_send_it_once(
    world: World, finn: Person, owed: Person, approved: Json
) -> None:
    processes = [sender(world) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    paid_once(world, finn, owed, approved)


def test_two_processes_share_many_payouts(
    world: World, acme: Client, ravi: Person, finn: Person, fay: Person
) -> None:
    world.capital(finn, 500_000)
    job = world.published_job(acme, tasks=6)
    for number in range(6):
        performer = world.performer(f"Performer {number}", onboarded=True)
        world.accepted_claim(performer, job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.stripe.control("PUT", "settings", latency_ms=50)
    processes = [sender(world) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    sent = Counter(transfer["metadata"]["payout_id"] for transfer in world.stripe.transfers())
    assert sorted(sent.values()) == [1] * 6
    assert finn.get(f"/v1/payout-runs/{run['id']}")["paid_minor"] == 6 * 123
    assert violations(world) == {}
