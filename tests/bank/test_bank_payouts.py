"""Between a performer's Stripe balance and their bank: watched, told, and never an entry of ours."""

import asyncio
import time
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa

from marketplace.bank import bank_payouts
from marketplace.scheduler import SWEEPS
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Caller, Client, Json, Person, World

OWN = "/v1/payout-account/bank-payouts"
ALL = "/v1/bank-payouts"


@pytest.fixture
def ana(world: World, acme: Client, ravi: Person, finn: Person, fay: Person) -> Person:
    """Paid 1.23, which Stripe pays out to her bank by itself a day later."""
    world.stripe.control("PUT", "settings", automatic_payout_after_seconds=DAY)
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    world.accepted_claim(ana, world.published_job(acme), ravi)
    pay(world, finn, fay)
    return ana


def pay(world: World, finn: Person, fay: Person) -> None:
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")


def own(performer: Person) -> Json:
    (payout,) = performer.get(OWN)["items"]
    found: Json = payout
    return found


def bank_says(world: World, payout: Json, status: str, **more: str) -> None:
    world.stripe.control("PUT", f"payouts/{payout['stripe_payout_id']}", status=status, **more)


def test_losing_every_event_only_delays(world: World, ana: Person, finn: Person) -> None:
    booked = world.value("SELECT count(*) FROM ledger_transaction")
    world.advance(DAY)
    world.sweep("poll_bank_payouts")
    pending = own(ana)
    assert (pending["state"], pending["amount_minor"], pending["remedy"]) == ("pending", 123, None)
    world.advance(3 * DAY)
    world.sweep("poll_bank_payouts")
    assert own(ana)["state"] == "paid"
    bank_says(world, pending, "failed", failure_code="account_closed")
    world.advance(DAY)
    for _ in range(2):
        world.sweep("poll_bank_payouts")
        failed = own(ana)
        assert (failed["state"], failed["failure_code"]) == ("failed", "account_closed")
        assert failed["state_reason"] == "The bank account has been closed."
        assert "POST /v1/payout-account" in failed["remedy"]
        world.advance(HOUR)
    (seen,) = finn.get(ALL, state="failed")["items"]
    assert (seen["performer_id"], seen["automatic"]) == (ana.id, True)
    assert finn.get(ALL, state="paid")["items"] == []
    assert world.value("SELECT count(*) FROM ledger_transaction") == booked
    world.sweep("funds")
    assert violations(world) == {}


def test_events_of_the_account_tell_it_at_once(world: World, ana: Person) -> None:
    world.stripe.listen(world.url)
    world.advance(DAY)
    told(world, ana, "pending")
    payout = own(ana)
    for status in ("in_transit", "paid", "failed"):
        bank_says(world, payout, status)
        told(world, ana, status)
    moves = world.sql(
        "SELECT to_state FROM audit_event WHERE subject_type = 'bank_payout' ORDER BY id"
    )
    assert [each["to_state"] for each in moves] == ["pending", "in_transit", "paid", "failed"]
    # Stripe asks for another bank account.
    assert ana.get("/v1/payout-account")["requirement"] == "external_account"


def told(world: World, ana: Person, state: str) -> None:
    deadline = time.monotonic() + 20
    while [each["state"] for each in ana.get(OWN)["items"]] != [state]:
        assert time.monotonic() < deadline, world.sql("SELECT type, last_error FROM stripe_event")
        time.sleep(0.05)
        world.sweep("inbox")


def test_a_late_look_does_not_undo_a_later_one(world: World, ana: Person) -> None:

    world.advance(DAY)
    world.sweep("poll_bank_payouts")
    payout = own(ana)
    account = world.value("SELECT stripe_account_id FROM bank_payout")

    def look() -> bank_payouts.Seen:
        parts = world.parts
        return world.loopback.run(
            bank_payouts.look_at(parts.sessions, parts.gateway, account, payout["stripe_payout_id"])
        )

    early = look()
    bank_says(world, payout, "paid")
    late = look()
    for seen in (late, early, late, replace(late, account_id="acct_of_nobody")):
        world.transact(partial(bank_payouts.note, seen=seen))
    assert own(ana)["state"] == "paid"


def test_one_that_may_not_move_hides_no_other(
    world: World, ana: Person, acme: Client, ravi: Person, finn: Person, fay: Person
) -> None:
    world.advance(DAY)
    world.sweep("poll_bank_payouts")
    world.transact(
        lambda session: session.execute(sa.text("UPDATE bank_payout SET state = 'failed'"))
    )
    bank_says(world, own(ana), "paid")
    world.accepted_claim(ana, world.published_job(acme), ravi)
    pay(world, finn, fay)
    world.advance(DAY)
    world.sweep("poll_bank_payouts")
    states = [each["state"] for each in ana.get(OWN)["items"]]
    assert sorted(states) == ["failed", "pending"]


def test_stripe_down_only_delays(world: World, ana: Person) -> None:
    world.advance(DAY)
    world.stripe.fault("drop_before", method="GET", path="/v1/payouts")
    world.sweep("poll_bank_payouts")
    assert ana.get(OWN)["items"] == []
    world.advance(HOUR)
    world.sweep("poll_bank_payouts")
    assert own(ana)["state"] == "pending"


def test_many_pollers_and_events_make_one_row(world: World, ana: Person) -> None:
    world.advance(DAY)

    async def many() -> None:
        await asyncio.gather(*(SWEEPS["poll_bank_payouts"].run(world.parts) for _ in range(5)))

    world.sql("UPDATE payout_account SET bank_due_at = now()")
    world.loopback.run(many())
    assert own(ana)["state"] == "pending"


def test_who_may_read_them(world: World, ana: Person, finn: Person, acme: Client) -> None:
    world.advance(DAY)
    world.sweep("poll_bank_payouts")
    assert world.performer("Bea").get(OWN)["items"] == []
    assert finn.get(ALL, performer_id=ana.id)["items"][0]["amount_minor"] == 123
    assert ana.refused("GET", ALL) == "403 forbidden"
    assert acme.refused("GET", OWN) == "403 forbidden"
    assert Caller(world).refused("GET", OWN) == "401 unauthorized"


def legs(world: World, finn: Person) -> list[tuple[str, str]]:
    told = finn.get("/v1/reports/reconciliation")
    assert finn.get("/v1/reports/reconciliation", as_of=told["as_of"]) == told
    return [(line["type"], line["reason"]) for line in told["unmatched"]]


def test_what_came_back_is_unmatched_until_a_later_one_arrived(
    world: World, ana: Person, finn: Person
) -> None:
    world.advance(DAY)
    world.sweep("poll_bank_payouts", "stripe_lines")
    assert legs(world, finn) == []
    bank_says(world, own(ana), "failed")
    world.advance(DAY)
    world.sweep("poll_bank_payouts", "stripe_lines")
    assert legs(world, finn) == [("bank_payout", "returned_by_bank")]
    # Nothing of ours is missing.
    assert finn.get("/v1/reports/reconciliation")["reconciled"] is True
    account = world.value("SELECT stripe_account_id FROM bank_payout")
    world.stripe.control("POST", "payouts", amount=123, currency="usd", account=account)
    world.advance(3 * DAY)
    world.sweep("poll_bank_payouts")
    assert [each["state"] for each in ana.get(OWN)["items"]] == ["paid", "failed"]
    assert legs(world, finn) == []


def test_what_does_not_arrive_for_a_week_is_unmatched(
    world: World, ana: Person, finn: Person
) -> None:
    world.stripe.control("PUT", "settings", payout_after_seconds=30 * DAY)
    world.advance(DAY)
    world.sweep("poll_bank_payouts", "stripe_lines")
    world.advance(8 * DAY)
    assert legs(world, finn) == [("bank_payout", "late_at_bank")]
