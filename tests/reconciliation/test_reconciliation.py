"""Stripe's lines beside ours: all match, or each that does not is named with its reason and age."""

import pytest

from marketplace.stripe_api.gateway_errors import StripeOutcomeUnknown
from tests.reports.conftest import Paid, lift_all_guards
from tests.world import DAY, Client, Json, Person, World


def reconciled(world: World, finn: Person) -> Json:
    world.sweep("stripe_lines")
    told: Json = finn.get("/v1/reports/reconciliation")
    return told


def reasons(told: Json) -> list[tuple[str, str]]:
    return [(line["type"], line["reason"]) for line in told["unmatched"]]


def test_after_a_payout_all_three_books_agree(world: World, paid: Paid, finn: Person) -> None:
    told = reconciled(world, finn)
    assert told["unmatched"] == []
    assert told["reconciled"] is True
    (total,) = told["totals"]
    # 1,000.00 less its fee of 29.30, 5,000.00 of our own, 1.23 paid.
    assert total == {
        "currency": "USD",
        "ledger_minor": 97_070 + 500_000 - 123,
        "booked_minor": 596_947,
        "listed_minor": 596_947,
        "agree": True,
    }


def test_lines_are_read_once(world: World, paid: Paid, finn: Person) -> None:
    assert world.sweep("stripe_lines") == 3
    assert world.sweep("stripe_lines") == 3, "what is near the mark is looked at again"
    assert world.value("SELECT count(*) FROM stripe_line") == 3
    world.advance(2 * DAY)
    world.capital(finn, 100)
    assert world.sweep("stripe_lines") == 4
    assert world.sweep("stripe_lines") == 1, "the mark has moved on"
    assert world.value("SELECT count(*) FROM stripe_line") == 4


def test_a_reading_that_broke_off_begins_again(world: World, paid: Paid, finn: Person) -> None:
    world.stripe.fault("error_500_after_apply", method="GET", path="/v1/balance_transactions")
    with pytest.raises(StripeOutcomeUnknown):
        world.sweep("stripe_lines")
    assert world.sweep("stripe_lines") == 3


def test_what_is_not_booked_yet_is_on_its_way_and_then_late(
    world: World, paid: Paid, acme: Client, finn: Person
) -> None:
    world.paid_at_stripe(acme, 5_000)
    told = reconciled(world, finn)
    assert reasons(told) == [("charge", "on_its_way")]
    assert told["unmatched"][0]["stripe_net_minor"] == 4_825
    assert told["unmatched"][0]["age_seconds"] < 60
    assert told["reconciled"] is False
    world.advance(DAY + 3_600)
    assert reasons(reconciled(world, finn)) == [("charge", "not_booked")]
    world.sweep("inbox", "poll_deposits")
    assert reconciled(world, finn)["unmatched"] == []


def test_a_type_that_nobody_knows_goes_to_finance(world: World, paid: Paid, finn: Person) -> None:
    world.stripe.fee(200)
    told = reconciled(world, finn)
    assert reasons(told) == [("stripe_fee", "unknown_type")]


def test_what_stripe_does_not_have_is_named(world: World, paid: Paid, finn: Person) -> None:
    lift_all_guards(world)
    world.owner_sql("UPDATE booked_balance_transaction SET id = 'txn_none' WHERE net_minor = -123")
    assert sorted(reason for _, reason in reasons(reconciled(world, finn))) == [
        "not_at_stripe",
        "on_its_way",
    ]


def test_another_amount_is_named(world: World, paid: Paid, finn: Person) -> None:
    lift_all_guards(world)
    world.owner_sql("UPDATE booked_balance_transaction SET net_minor = -122 WHERE net_minor = -123")
    told = reconciled(world, finn)
    assert reasons(told) == [("transfer", "amount_differs")]
    assert told["totals"][0]["agree"] is False


def test_the_same_moment_gives_the_same_bytes(world: World, paid: Paid, finn: Person) -> None:
    told = reconciled(world, finn)
    world.capital(finn, 100)
    assert reconciled(world, finn) != told
    assert finn.get("/v1/reports/reconciliation", as_of=told["as_of"]) == told
