"""Every webhook is lost, for every kind of object: the pollers bring all of it, only later."""

from collections.abc import Callable

import pytest

from tests.reports.conftest import violations
from tests.world import DAY, Client, Person, World

SOMEWHERE = "https://acme.example/wallet"


def deposit(world: World) -> None:
    world.capital(world.finance("Finn"), 1_000)
    acme = world.client()
    world.paid_at_stripe(acme, 5_000)


def expired_page(world: World) -> None:
    asked = {"amount_minor": 5_000, "success_url": SOMEWHERE}
    world.client().post("/v1/wallet/deposits", asked)


def topup(world: World) -> None:
    world.stripe.control("PUT", "settings", topup_after_seconds=DAY)
    asked = {"amount_minor": 5_000, "currency": "USD"}
    world.finance("Finn").post("/v1/topups", asked)


def account(world: World) -> None:
    opened = world.performer("Ana").post("/v1/payout-account", {"return_url": SOMEWHERE})
    world.stripe.complete(opened["onboarding_url"], "complete")


def withdrawal(world: World) -> None:
    finn, fay = world.finance("Finn"), world.finance("Fay")
    world.capital(finn, 500_000)
    wanted = {"amount_minor": 5_000, "currency": "USD", "reason": "Fees earned in October."}
    asked = finn.post("/v1/withdrawals", wanted)
    fay.post(f"/v1/withdrawals/{asked['id']}/approve")
    world.sweep("withdrawals")


def returned_withdrawal(world: World) -> None:
    withdrawal(world)
    world.advance(DAY)
    payout = world.value("SELECT stripe_payout_id FROM withdrawal")
    world.stripe.control("PUT", f"payouts/{payout}", status="failed")


def bank_payout(world: World) -> None:
    world.stripe.control("PUT", "settings", automatic_payout_after_seconds=DAY)
    finn, fay = world.finance("Finn"), world.finance("Fay")
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    acme: Client = world.client(deposit_minor=100_000)
    ravi: Person = world.reviewer()
    world.accepted_claim(ana, world.published_job(acme), ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")


def refund(world: World) -> None:
    acme = world.client(deposit_minor=100_000)
    world.capital(world.finance("Finn"), 500_000)
    world.stripe.control("PUT", "settings", refund_after_seconds=DAY)
    acme.post("/v1/refunds", {"amount_minor": 5_000, "currency": "USD"})
    world.sweep("refunds")


def returned_refund(world: World) -> None:
    refund(world)
    world.advance(DAY)
    world.sweep("refunds")
    there = world.value("SELECT stripe_refund_id FROM refund WHERE state = 'succeeded'")
    world.stripe.control("PUT", f"refunds/{there}", status="failed")


def dispute(world: World) -> None:
    world.client(deposit_minor=100_000)
    world.capital(world.finance("Finn"), 500_000)
    payment = world.value("SELECT payment_intent_id FROM deposit")
    opened = world.stripe.control("POST", "disputes", payment_intent=payment)
    world.sweep("disputes")
    world.stripe.control("PUT", f"disputes/{opened['id']}", to="lost")


# What happens at Stripe → what it is here in the end.
KINDS: dict[str, tuple[Callable[[World], None], str, str]] = {
    "deposit": (deposit, "SELECT state FROM deposit", "available"),
    "page": (expired_page, "SELECT state FROM deposit", "expired"),
    "top-up": (topup, "SELECT state FROM topup", "succeeded"),
    "account": (account, "SELECT transfers FROM payout_account", "active"),
    "transfer": (bank_payout, "SELECT state FROM payout", "paid"),
    "withdrawal": (withdrawal, "SELECT state FROM withdrawal", "arrived"),
    "returned withdrawal": (returned_withdrawal, "SELECT state FROM withdrawal", "returned"),
    "refund": (refund, "SELECT state FROM refund", "succeeded"),
    "returned refund": (returned_refund, "SELECT state FROM refund", "returned"),
    "dispute": (dispute, "SELECT state FROM dispute", "lost"),
    "bank payout": (bank_payout, "SELECT state FROM bank_payout", "paid"),
}
SWEEPS = (
    *("poll_deposits", "poll_topups", "poll_accounts", "poll_bank_payouts", "withdrawals", "funds"),
    *("refunds", "disputes", "stripe_lines", "late_lines"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_losing_every_webhook_only_delays(world: World, kind: str) -> None:
    happen, look, end = KINDS[kind]
    world.stripe.listen(world.url)
    for _ in range(20):
        world.stripe.webhook_fault("lost", ".*")
    happen(world)
    for _ in range(5):
        world.advance(DAY)
        world.sweep(*SWEEPS)
    assert world.value(look) == end
    assert world.value("SELECT count(*) FROM stripe_event") == 0
    assert violations(world) == {}
