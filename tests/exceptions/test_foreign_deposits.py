"""A deposit that Stripe settled in another currency than its wallet: the client gets what it paid,
the platform keeps what Stripe made of it; two people decide.
"""

import pytest

from marketplace.reports import explain
from tests.exceptions.test_exceptions import QUEUE, REASON, queue
from tests.reports.conftest import Paid, lift_all_guards, violations
from tests.world import Client, Json, Person, World


@pytest.fixture
def foreign(world: World, paid: Paid) -> Client:
    """1,000.00 USD, of which Stripe made 920.00 EUR."""
    world.stripe.control("PUT", "settings", euros_percent=92)
    client = world.client("Another Lab")
    world.paid_at_stripe(client, 100_000)
    world.advance(60)
    world.sweep("poll_deposits", "poll_events", "inbox")
    return client


def propose(finn: Person, line: Json, booked_as: str = "foreign_deposit") -> str:
    wanted = {"booked_as": booked_as, "reason": REASON}
    proposed = finn.post(f"{QUEUE}/{line['line_id']}/bookings", wanted)
    return f"/v1/line-bookings/{proposed['id']}"


def test_it_ends_with_what_was_paid_in_the_wallet(
    world: World, foreign: Client, finn: Person, fay: Person
) -> None:
    (deposit,) = foreign.get("/v1/wallet/deposits")["items"]
    assert deposit["state"] == "awaiting_payment"
    assert "Stripe settled 92000 EUR for 100000 USD" in deposit["state_reason"]
    (line,) = queue(world, finn)
    assert (line["reason"], line["currency"]) == ("other_currency", "EUR")
    assert line["deposit_id"] == deposit["id"]
    assert line["may_be_booked_as"] == ["foreign_deposit", "given_back"]
    wanted = {"booked_as": "capital", "reason": REASON}
    path = f"{QUEUE}/{line['line_id']}/bookings"
    assert finn.refused("POST", path, wanted) == "409 not_bookable_as"
    capital = world.ledger("platform_capital")
    booking = propose(finn, line)
    assert finn.refused("POST", f"{booking}/approve") == "403 proposer_may_not_approve"
    assert fay.post(f"{booking}/approve")["state"] == "booked"
    assert foreign.wallet_minor == 100_000
    assert world.ledger("platform_capital") == capital + 100_000
    (deposit,) = foreign.get("/v1/wallet/deposits")["items"]
    assert deposit["state"] == "credited"
    for _ in range(2):
        assert queue(world, finn) == []
        assert finn.get("/v1/reports/reconciliation")["reconciled"] is True
        world.advance(3_600)
        world.sweep("poll_deposits", "funds", "poll_events", "inbox")
        assert violations(world) == {}
    assert foreign.wallet_minor == 100_000


def test_nobody_who_acts_for_the_client_credits_it(
    world: World, foreign: Client, finn: Person, fay: Person
) -> None:
    world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", foreign.member.id)
    (line,) = queue(world, finn)
    wanted = {"booked_as": "foreign_deposit", "reason": REASON}
    path = f"{QUEUE}/{line['line_id']}/bookings"
    assert foreign.member.refused("POST", path, wanted) == "403 acts_for_the_client"
    booking = propose(finn, line)
    assert foreign.member.refused("POST", f"{booking}/approve") == "403 acts_for_the_client"
    assert fay.post(f"{booking}/approve")["state"] == "booked"


def test_the_platform_must_have_the_money(
    world: World, foreign: Client, finn: Person, fay: Person
) -> None:
    wanted = {"amount_minor": 450_000, "currency": "USD", "reason": REASON}
    taken = finn.post("/v1/withdrawals", wanted)
    fay.post(f"/v1/withdrawals/{taken['id']}/approve")
    world.sweep("withdrawals")
    (line,) = queue(world, finn)
    booking = propose(finn, line)
    assert fay.refused("POST", f"{booking}/approve") == "409 capital_missing"
    assert foreign.wallet_minor == 0
    world.capital(finn, 100_000)
    assert fay.post(f"{booking}/approve")["state"] == "booked"
    assert foreign.wallet_minor == 100_000
    world.sweep("funds", "withdrawals")
    assert violations(world) == {}


@pytest.mark.parametrize(
    ("invariant", "planted", "said"),
    [
        ("I5", "UPDATE deposit SET foreign_line_id = NULL", "its row says 0 in 0"),
        ("I9", "UPDATE line_booking SET deposit_id = NULL", "is booked for it 0 times"),
        ("I9", "UPDATE deposit SET state = 'awaiting_payment'", "is booked for it 1 times"),
    ],
)
def test_planted_violations_are_caught(
    world: World,
    foreign: Client,
    finn: Person,
    fay: Person,
    invariant: str,
    planted: str,
    said: str,
) -> None:
    (line,) = queue(world, finn)
    fay.post(f"{propose(finn, line)}/approve")
    world.sweep("funds")
    assert violations(world) == {}
    lift_all_guards(world)
    world.owner_sql(planted)
    assert any(said in each for each in violations(world)[invariant]), violations(world)


def test_it_is_explained(world: World, foreign: Client, finn: Person, fay: Person) -> None:
    (line,) = queue(world, finn)
    fay.post(f"{propose(finn, line)}/approve")
    for asked in (line["line_id"], line["deposit_id"]):

        async def look(asked: str = asked) -> explain.Node | None:
            async with world.parts.sessions() as session:
                return await explain.explain(session, asked)

        found = world.loopback.run(look())
        assert found is not None
        text = "\n".join(explain.lines(found))
        assert found.complete, text
        for said in ("deposit ", "line_booking ", "kind=capital_booked", "kind=deposit_credited"):
            assert said in text, text
