"""What performers are owed, how old it is and why; how it came to be; and what it costs."""

from datetime import datetime, timedelta

import pytest

from tests.reports.conftest import Paid, lift_all_guards
from tests.world import ACCEPT, DAY, Json, Person, World


def owed(finn: Person, **query: str) -> Json:
    told: Json = finn.get("/v1/reports/liabilities", **query)
    return told


def test_what_is_paid_is_not_owed(paid: Paid, finn: Person) -> None:
    told = owed(finn)
    assert told["lines"] == []
    assert [(each["currency"], each["amount_minor"]) for each in told["totals"]] == [("USD", 0)]


def test_an_old_earning_is_named_with_its_reason_and_rings_on_day_25(
    world: World, paid: Paid, finn: Person, fay: Person, ravi: Person
) -> None:
    bo = world.performer("Bo")
    world.submitted_claim(bo, paid.job, seconds=600)
    world.judge(ravi, ACCEPT)
    (line,) = owed(finn)["lines"]
    assert (line["performer_id"], line["amount_minor"]) == (bo.id, 1_233)
    assert (line["reason"], line["age_days"], line["alarm"]) == ("waits_for_next_run", 0, False)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    assert owed(finn)["lines"][0]["reason"] == "no_account"
    world.advance(25 * DAY)
    told = owed(finn)
    assert (told["lines"][0]["age_days"], told["lines"][0]["alarm"]) == (25, True)
    assert told["totals"][0]["alarm_minor"] == 1_233
    assert [bucket["amount_minor"] for bucket in told["totals"][0]["buckets"]] == [0, 0, 0, 1_233]
    finn.post(f"/v1/payout-runs/{run['id']}/discard", {"reason": "nobody can be paid in it"})
    assert owed(finn)["lines"][0]["reason"] == "waits_for_next_run"


def test_a_payout_that_waits_says_in_which_state(
    world: World, paid: Paid, finn: Person, fay: Person, ravi: Person
) -> None:
    world.accepted_claim(world.performer("Bo", onboarded=True), paid.job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    drafted = owed(finn)
    assert drafted["lines"][0]["reason"] == "payout_draft"
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    assert owed(finn)["lines"][0]["reason"] == "payout_approved"
    world.sweep("payouts")
    assert owed(finn)["lines"] == []
    then = finn.get("/v1/reports/liabilities", as_of=drafted["as_of"])
    assert then == drafted, "the same moment, the same bytes"


def test_a_day_is_a_day_when_it_is_over(
    world: World, paid: Paid, finn: Person, ravi: Person
) -> None:
    world.accepted_claim(world.performer("Bo"), paid.job, ravi)
    earned_at = datetime.fromisoformat(owed(finn)["lines"][0]["earned_at"])
    world.advance_to(earned_at + timedelta(days=24, hours=13))
    told = owed(finn)
    assert [(line["age_days"], line["alarm"]) for line in told["lines"]] == [(24, False)]
    assert [bucket["amount_minor"] for bucket in told["totals"][0]["buckets"]] == [0, 0, 123, 0]


def test_why_a_payout_waits_is_told(
    world: World, paid: Paid, finn: Person, fay: Person, ravi: Person
) -> None:
    """It was said without a move: the payout stays approved."""
    world.accepted_claim(world.performer("Bo", onboarded=True), paid.job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    before = owed(finn)
    world.stripe.fault("drop_before", path="/v1/balance", method="GET")
    world.sweep("payouts")
    (line,) = owed(finn)["lines"]
    assert line["reason"].startswith("payout_approved: Stripe could not be asked")
    assert owed(finn, as_of=before["as_of"]) == before


@pytest.mark.parametrize(
    ("report", "change"),
    [
        ("fees", "pay_decision SET fee_minor = fee_minor + 1"),
        ("fees", "deposit SET fee_minor = fee_minor + 1"),
        ("roll-forward", "pay_decision SET pay_minor = pay_minor + 1"),
        ("roll-forward", "payout SET amount_minor = amount_minor + 1"),
    ],
)
def test_what_the_events_own_rows_deny_is_not_handed_out(
    world: World, paid: Paid, finn: Person, report: str, change: str
) -> None:
    lift_all_guards(world)
    world.owner_sql(f"UPDATE {change}")
    refused = finn.refused("GET", f"/v1/reports/{report}", query={"since": "2020-01-01T00:00:00Z"})
    assert refused == "409 report_does_not_add_up"


def test_the_roll_forward_adds_up(world: World, paid: Paid, finn: Person, ravi: Person) -> None:
    since: datetime = world.value("SELECT marketplace_now()")
    world.advance(60)
    bo = world.performer("Bo")
    world.submitted_claim(bo, paid.job, seconds=600)
    world.judge(ravi, ACCEPT)
    told = finn.get("/v1/reports/roll-forward", since=since.isoformat())
    by_performer = {line["performer_id"]: line for line in told["lines"]}
    assert by_performer[bo.id]["earned_minor"] == by_performer[bo.id]["closing_minor"] == 1_233
    assert by_performer[paid.ana.id]["closing_minor"] == 0
    whole = finn.get("/v1/reports/roll-forward", since="2020-01-01T00:00:00Z")
    (total,) = whole["totals"]
    assert total == {
        "currency": "USD",
        "opening_minor": 0,
        "earned_minor": 123 + 1_233,
        "sent_minor": 123,
        "returned_minor": 0,
        "adjusted_minor": 0,
        "closing_minor": 1_233,
    }


def test_fees_by_client_and_stripes(paid: Paid, finn: Person) -> None:
    told = finn.get("/v1/reports/fees", since="2020-01-01T00:00:00Z")
    assert [(line["side"], line["kind"], line["amount_minor"]) for line in told["lines"]] == [
        ("income", "claim_paid", 18),
        ("cost", "deposit_credited", 2_930),
    ]
    assert {line["client_id"] for line in told["lines"]} == {paid.acme.id}
    assert told["totals"] == [{"currency": "USD", "income_minor": 18, "cost_minor": 2_930}]


def test_a_span_that_ends_before_it_begins_is_422(paid: Paid, finn: Person) -> None:
    query = {"since": "2026-11-02T00:00:00Z", "as_of": "2026-11-01T00:00:00Z"}
    assert finn.refused("GET", "/v1/reports/fees", query=query) == "422 invalid_request"
    assert finn.refused("GET", "/v1/reports/roll-forward") == "422 invalid_request"
