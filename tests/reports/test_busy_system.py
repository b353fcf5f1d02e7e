"""`verify` on a system that does not stand still: what is booked after Stripe was read is no fault."""

import dataclasses

from marketplace.reports.checks import at_stripe, ledger
from marketplace.reports.checks.at_stripe import StripeView
from marketplace.shared import clock
from marketplace.shared.database import rows
from marketplace.stripe_api.gateway_answers import BalanceAmount
from tests.payouts.conftest import returned
from tests.reports.conftest import Paid
from tests.world import DAY, World

CHECKS = {
    "coverage": at_stripe.coverage,
    "I1": at_stripe.single_transfer,
    "I4": at_stripe.stripe_balance,
    "I15": at_stripe.single_bank_payout,
}


def looked(world: World) -> StripeView:
    """Stripe as it is now, read as `verify` reads it."""

    async def look() -> StripeView:
        async with world.parts.sessions() as session:
            read_from = await clock.settle_writes(session)
        return await at_stripe.look_at_stripe(world.gateway, read_from)

    world.advance(2)
    view = world.loopback.run(look())
    world.advance(2)
    return view


def without_a_cent_to_spare(world: World, view: StripeView) -> StripeView:
    """As if the platform had exactly what it owes."""

    async def owed() -> int:
        async with world.parts.sessions() as session:
            (row,) = await rows(session, ledger.OWED)
            return int(row["minor"])

    just = BalanceAmount(available_minor=world.loopback.run(owed()))
    return dataclasses.replace(view, balances={"USD": just})


def violations(world: World, view: StripeView, *names: str) -> dict[str, list[str]]:
    """What the database says now, beside that view."""

    async def check() -> dict[str, list[str]]:
        async with world.parts.sessions() as session:
            return {
                name: (await CHECKS[name](session, view)).violations for name in names or CHECKS
            }

    return {name: found for name, found in world.loopback.run(check()).items() if found}


def test_a_deposit_that_is_credited_meanwhile(world: World, paid: Paid) -> None:
    view = looked(world)
    world.deposit(paid.acme, 900_000)
    assert violations(world, view) == {}
    world.owner_sql("ALTER TABLE booked_balance_transaction DISABLE TRIGGER USER")
    world.owner_sql("DELETE FROM booked_balance_transaction WHERE net_minor > 800000")
    assert "are owed" in violations(world, view)["coverage"][0], "only what has a line counts"


def test_a_transfer_that_comes_back_meanwhile(world: World, paid: Paid) -> None:
    """It is owed again; of the balance that was read before it is not yet a part."""
    view = without_a_cent_to_spare(world, looked(world))
    assert violations(world, view, "coverage") == {}
    returned(world, paid.finn, paid.fay, paid.payout, "wrong_destination", 100)
    assert violations(world, view, "coverage") == {}


def test_a_refund_that_its_bank_sends_back_meanwhile(world: World, paid: Paid) -> None:
    world.advance(3 * DAY)
    world.sweep("funds")
    paid.acme.post("/v1/refunds", {"amount_minor": 20_000, "currency": "USD"})
    world.sweep("refunds", "poll_events", "inbox")
    view = looked(world)
    (there,) = view.refunds
    world.stripe.control("PUT", f"refunds/{there.id}", status="failed")
    world.sweep("poll_events", "inbox")
    assert world.value("SELECT state FROM refund") == "returned"
    assert violations(world, view) == {}
    later = dataclasses.replace(view, read_from=world.now)
    assert "is returned, but Stripe has" in violations(world, later)["I1"][0]


def test_a_refund_that_names_only_a_part_of_stripes_id(world: World, paid: Paid) -> None:
    world.advance(3 * DAY)
    world.sweep("funds")
    paid.acme.post("/v1/refunds", {"amount_minor": 20_000, "currency": "USD"})
    world.sweep("refunds")
    view = looked(world)
    world.owner_sql("ALTER TABLE refund DISABLE TRIGGER USER")
    world.owner_sql("UPDATE refund SET stripe_refund_id = left(stripe_refund_id, 8)")
    assert any(" names re_" in line for line in violations(world, view)["I1"])
