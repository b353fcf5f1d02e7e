"""What `verify` and `explain` say of withdrawals: all of it, and what was planted past all guards."""

from typing import Any

import pytest

from marketplace.reports import explain
from tests.bank.test_withdrawals import payouts, read
from tests.reports.conftest import lift_all_guards, violations
from tests.world import DAY, HOUR, Json, Person, World


@pytest.fixture
def arrived(world: World, approved: Json, finn: Person) -> Json:
    world.sweep("withdrawals")
    world.advance(2 * DAY)
    world.sweep("withdrawals", "poll_events", "inbox")
    found = read(finn, approved)
    assert found["state"] == "arrived"
    return found


# Invariant → what is done to the rows → what it says.
PLANTED = [
    ("I5", "UPDATE withdrawal SET amount_minor = 199999", "its row says -199999 in 1"),
    ("I5", "DELETE FROM withdrawal", "(withdrawal_sent) has no source withdrawal"),
    (
        "I5",
        "UPDATE withdrawal SET sent_transaction_id = NULL",
        "has no source withdrawal",
    ),
    (
        "I9",
        "DELETE FROM booked_balance_transaction WHERE net_minor = -200000",
        "is arrived, but Stripe's lines of it are booked 0 times",
    ),
    ("I9", "UPDATE withdrawal SET state = 'returned'", "are booked 1 times"),
    ("I11", "UPDATE withdrawal SET state = 'in_transit'", "last recorded move was to arrived"),
    (
        "I14",
        (
            "DELETE FROM ledger_entry WHERE transaction_id ="
            " (SELECT conclusion_transaction_id FROM withdrawal)"
        ),
        "bank_in_transit -200000 of withdrawal",
    ),
    ("I15", "UPDATE withdrawal SET amount_minor = 199999", "moved 200000 USD; withdrawal"),
    ("I15", "UPDATE withdrawal SET state = 'refused'", "is refused, but Stripe has po_"),
    ("I15", "UPDATE withdrawal SET stripe_payout_id = 'po_x'", "names po_x, which Stripe does not"),
    ("I15", "DELETE FROM withdrawal", "that is none of ours"),
]


@pytest.mark.parametrize(("invariant", "planted", "said"), PLANTED, ids=str)
def test_planted_violations_are_caught(
    world: World, arrived: Json, invariant: str, planted: str, said: str
) -> None:
    assert violations(world) == {}
    lift_all_guards(world)
    world.owner_sql(planted)
    assert any(said in line for line in violations(world)[invariant]), violations(world)


def again(world: World, withdrawal: Json, **changed: Any) -> None:
    asked: Json = {
        "amount_minor": 200_000,
        "currency": "USD",
        "description": "Withdrawal",
        "metadata": {"withdrawal_id": withdrawal["id"]},
        "idempotency_key": "a new key after an unknown outcome",
    }
    world.loopback.run(world.gateway.pay_out_to_bank(**(asked | changed)))


def test_a_second_payout_of_the_same_withdrawal(world: World, arrived: Json) -> None:
    """The ledger balances: only Stripe knows."""
    again(world, arrived)
    found = violations(world)
    assert set(found) == {"I15"}
    assert "has 2 payouts at Stripe" in found["I15"][0]


def test_what_the_platforms_schedule_takes_is_named(
    world: World, arrived: Json, finn: Person
) -> None:
    """The platform's payouts are manual; somebody has changed that."""
    world.stripe.control("POST", "payouts", amount=300_000, currency="usd")
    assert violations(world) == {}
    world.advance(25 * HOUR)
    world.sweep("stripe_lines")
    (line,) = violations(world)["I4"]
    assert "(payout, -300000 USD) is not booked" in line
    (unmatched,) = finn.get("/v1/reports/reconciliation")["unmatched"]
    assert (unmatched["type"], unmatched["stripe_net_minor"]) == ("payout", -300_000)


def test_what_is_in_flight_counts_as_cash_until_it_is_booked(
    world: World, approved: Json, finn: Person
) -> None:
    client = world.client("Acme Voice Lab", deposit_minor=100_000)
    assert client.wallet_minor == 100_000
    world.stripe.fault("apply_then_drop", path="/v1/payouts")
    world.sweep("withdrawals")
    assert read(finn, approved)["state"] == "unknown"
    assert violations(world) == {}


@pytest.mark.parametrize(
    "asked",
    [
        "SELECT id FROM withdrawal",
        "SELECT stripe_payout_id FROM withdrawal",
        "SELECT id FROM booked_balance_transaction WHERE net_minor = -200000",
        "SELECT conclusion_transaction_id FROM withdrawal",
    ],
)
def test_it_is_explained_from_every_end(world: World, arrived: Json, asked: str) -> None:
    async def look() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, str(world.value(asked)))

    found = world.loopback.run(look())
    assert found is not None
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    for said in ("withdrawal ", "kind=withdrawal_confirmed", "booked_balance_transaction"):
        assert said in text, text


def test_its_line_at_stripe_matches(world: World, arrived: Json, finn: Person) -> None:
    world.sweep("stripe_lines")
    told = finn.get("/v1/reports/reconciliation")
    assert (told["unmatched"], told["reconciled"]) == ([], True)
    assert len(payouts(world)) == 1
