"""What a performer reads of their pay: where it stands, and why it is not paid yet."""

import pytest

from tests.reports.conftest import Paid
from tests.world import Client, Json, Person, World

NEXT = "It is in the next payout run."


def line(performer: Person) -> Json:
    """The newest earning."""
    found: Json = performer.get("/v1/earnings/lines")["items"][0]
    return found


def excluded(performer: Person) -> dict[str, str | None]:
    return {
        total["currency"]: total["exclusion"] and total["exclusion"]["reason"]
        for total in performer.get("/v1/earnings")["items"]
    }


@pytest.fixture
def bea(world: World, paid: Paid) -> Person:
    """Owed 1.23, without a payout account."""
    bea = world.performer("Bea")
    world.accepted_claim(bea, world.published_job(paid.acme, title="Bea's"), paid.ravi)
    return bea


def test_before_any_run_it_is_in_the_next_one(bea: Person) -> None:
    assert excluded(bea) == {"USD": None}
    assert (line(bea)["status"], line(bea)["status_reason"]) == ("waiting", NEXT)


def test_left_out_it_says_what_to_do_until_that_is_done(
    world: World, bea: Person, finn: Person
) -> None:
    finn.post("/v1/payout-runs", {"currency": "USD"})
    assert excluded(bea) == {"USD": "no_account"}
    assert line(bea)["status_reason"].startswith("Open your payout account")
    world.onboard(bea)
    assert excluded(bea) == {"USD": None}
    assert line(bea)["status_reason"] == NEXT


def test_below_the_minimum_an_account_changes_nothing(
    world: World, paid: Paid, finn: Person
) -> None:
    cleo = world.performer("Cleo", onboarded=True)
    world.accepted_claim(cleo, world.published_job(paid.acme), paid.ravi, seconds=30)
    finn.post("/v1/payout-runs", {"currency": "USD"})
    assert excluded(cleo) == {"USD": "below_minimum"}
    assert line(cleo)["status_reason"].startswith("Nothing to do")


def test_a_discarded_run_has_left_nobody_out(bea: Person, finn: Person) -> None:
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    finn.post(f"/v1/payout-runs/{run['id']}/discard", {"reason": "wrong day"})
    assert excluded(bea) == {"USD": None}
    assert line(bea)["status_reason"] == NEXT


def test_each_currency_has_its_own_runs(
    world: World, paid: Paid, bea: Person, finn: Person
) -> None:
    studio: Client = world.client("Stimmlabor", currency="EUR", deposit_minor=100_000)
    world.accepted_claim(bea, world.published_job(studio), paid.ravi)
    finn.post("/v1/payout-runs", {"currency": "USD"})
    assert excluded(bea) == {"EUR": None, "USD": "no_account"}
    reasons = {
        each["currency"]: each["status_reason"] for each in bea.get("/v1/earnings/lines")["items"]
    }
    assert reasons["EUR"] == NEXT
    assert reasons["USD"].startswith("Open your payout account")


def test_in_a_run_it_says_which_and_what_it_waits_for(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    world.accepted_claim(paid.ana, paid.job, paid.ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    which = f"In the payout run of {run['cut_off_at'][:19]}Z; "
    drafted = line(paid.ana)
    assert (drafted["status"], drafted["status_reason"]) == (
        "scheduled",
        which + "waits for its approval.",
    )
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    assert line(paid.ana)["status_reason"] == which + "approved, to be sent."
    world.stripe.fault("drop_before", path="/v1/balance", method="GET")
    world.sweep("payouts")
    assert line(paid.ana)["status_reason"].startswith("Stripe could not be asked")
    world.advance(10)
    world.sweep("payouts")
    done = line(paid.ana)
    assert (done["status"], done["status_reason"]) == ("paid", None)
