"""What `verify`, the explanations and the reconciliation say of refunds."""

import pytest

from marketplace.reports import explain
from tests.funding.test_refunds import asked, at_stripe
from tests.reports.conftest import lift_all_guards, violations
from tests.world import HOUR, Client, Person, World

# What is done to the rows, past all guards → which invariant says what. One after the other.
PLANTED = [
    ("I5", "UPDATE refund SET fee_minor = 7", "on stripe_fees in 0 entries, its row says 7"),
    (
        "I5",
        "UPDATE refund SET amount_minor = 24999, fee_minor = 0",
        "in 1 entries, its row says 24999",
    ),
    ("I1", "", "gives back 25000 USD"),
    ("I5", "UPDATE refund SET amount_minor = 100001", "of 100000 is refunded by 100001"),
    ("I5", "UPDATE refund SET amount_minor = 25000, client_id = uuidv7()", "on client_wallet"),
    (
        "I5",
        "UPDATE refund SET confirmed_transaction_id = NULL",
        "(refund_confirmed) has no source refund",
    ),
    ("I1", "UPDATE refund SET state = 'refused'", "is refused, but Stripe has re_"),
    ("I9", "", "but its lines are booked 1 times"),
    ("I11", "", "is refused, but its last recorded move was to succeeded"),
    (
        "I1",
        "UPDATE refund SET state = 'succeeded', stripe_refund_id = 're_other'",
        "names re_other, Stripe has re_",
    ),
    ("I1", "UPDATE refund SET id = uuidv7()", "belong to no refund of ours"),
    ("I1", "", "is succeeded, but Stripe has none that stands"),
    ("I5", "DELETE FROM refund", "(refund_sent) has no source refund"),
]


@pytest.fixture
def acme(world: World, settled: Client) -> Client:
    asked(settled)
    world.sweep("refunds", "poll_events", "inbox")
    return settled


def test_planted_violations_are_caught(world: World, acme: Client) -> None:
    assert violations(world) == {}
    lift_all_guards(world)
    for invariant, statement, text in PLANTED:
        if statement:
            world.owner_sql(statement)
        found = violations(world).get(invariant, [])
        assert any(text in line for line in found), (statement, found)


def test_what_waits_for_funds_for_a_day_is_an_open_source(world: World, settled: Client) -> None:
    asked(settled, 100_000)
    world.stripe.fee(10_000)
    world.sweep("refunds", "poll_events", "inbox")
    assert "I14" not in violations(world)
    world.advance(25 * HOUR)
    world.sweep("refunds")
    (line,) = violations(world)["I14"]
    assert line.startswith("refunds_in_flight -100000 of refund")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM refund",
        "SELECT stripe_refund_id FROM refund",
        "SELECT confirmed_transaction_id FROM refund",
        "SELECT id FROM booked_balance_transaction WHERE net_minor = -25000",
        (
            "SELECT ledger_entry.id FROM ledger_entry JOIN refund"
            " ON transaction_id = sent_transaction_id WHERE ledger_entry.amount_minor > 0"
        ),
    ],
)
def test_a_refund_leads_to_its_deposit_and_to_stripes_line(
    world: World, acme: Client, query: str
) -> None:
    found = look(world, str(world.value(query)))
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    assert "refund " in text
    assert "deposit " in text


def test_a_deposit_leads_to_what_went_back(world: World, acme: Client) -> None:
    found = look(world, world.value("SELECT payment_intent_id FROM deposit"))
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    assert "250.00 USD state=succeeded stripe_refund_id=re_" in text
    lift_all_guards(world)
    world.owner_sql("UPDATE refund SET amount_minor = 100001")
    assert "100001 of it are refunded or charged" in "\n".join(
        explain.lines(look(world, world.value("SELECT payment_intent_id FROM deposit")))
    )


def look(world: World, id_: str) -> explain.Node:
    async def ask() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, id_)

    found = world.loopback.run(ask())
    assert found is not None
    return found


def test_the_books_agree_with_stripes_lines(world: World, acme: Client, finn: Person) -> None:
    (there,) = at_stripe(world)
    world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
    world.sweep("stripe_lines")
    world.advance(1)
    report = finn.get("/v1/reports/reconciliation")
    (line,) = report["unmatched"]
    assert (line["type"], line["reason"]) == ("refund_failure", "on_its_way")
    world.sweep("poll_events", "inbox")
    world.advance(1)
    report = finn.get("/v1/reports/reconciliation")
    assert report["reconciled"], report
