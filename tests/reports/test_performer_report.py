"""One performer's account: every earning with its hours, its rate and where it stands."""

import csv
import io

import pytest

from marketplace.reports.schemas import PerformerReport
from tests.reports.conftest import Paid, lift_all_guards
from tests.world import DAY, Json, Person, World


def path(performer: Person) -> str:
    return f"/v1/reports/performers/{performer.id}"


@pytest.fixture
def second(world: World, paid: Paid) -> Json:
    """Another minute of Ana's, in no run yet."""
    return world.accepted_claim(paid.ana, paid.job, paid.ravi)


def test_it_works(world: World, paid: Paid, second: Json, finn: Person) -> None:
    told = finn.get(path(paid.ana))
    PerformerReport.model_validate_json(finn.ask("GET", path(paid.ana)).text)
    first, waiting = told["lines"]
    assert (first["kind"], first["source_id"]) == ("claim_paid", paid.claim["id"])
    assert (first["seconds"], first["hours"], first["rate_minor_per_hour"]) == (60, "0.0167", 7_400)
    assert (first["gross_minor"], first["adjustments_minor"], first["net_minor"]) == (123, 0, 123)
    assert (first["status"], first["transfer_id"]) == ("paid", paid.payout["transfer_id"])
    assert (waiting["source_id"], waiting["status"]) == (second["id"], "waiting")
    assert told["totals"] == [
        {
            "currency": "USD",
            "seconds": 120,
            "gross_minor": 246,
            "adjustments_minor": 0,
            "net_minor": 246,
            "paid_minor": 123,
            "came_back_minor": 0,
            "owed_minor": 123,
        }
    ]


def test_why_it_waits_is_said(
    world: World, paid: Paid, second: Json, finn: Person, fay: Person
) -> None:
    world.stripe.restrict(paid.payout["destination"])
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    _, held = finn.get(path(paid.ana))["lines"]
    assert held["status"] == "held"
    assert held["status_reason"]
    assert held["transfer_id"] is None


def test_the_same_moment_gives_the_same_bytes(
    world: World, paid: Paid, second: Json, finn: Person, fay: Person
) -> None:
    told = finn.get(path(paid.ana))
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    now = finn.get(path(paid.ana))
    assert (now["totals"][0]["paid_minor"], now["totals"][0]["owed_minor"]) == (246, 0)
    assert finn.get(path(paid.ana), as_of=told["as_of"]) == told
    before = finn.get(path(paid.ana), as_of="2020-01-01T00:00:00Z")
    assert (before["lines"], before["totals"]) == ([], [])


def test_what_came_back_is_owed_and_paid_once_more(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    wrong = {"cause": "wrong_destination", "amount_minor": 123, "reason": "Another's account."}
    asked = finn.post(f"/v1/payouts/{paid.payout['id']}/reversals", wrong)
    fay.post(f"/v1/reversals/{asked['id']}/approve")
    world.sweep("reversals")
    (total,) = finn.get(path(paid.ana))["totals"]
    assert (total["net_minor"], total["came_back_minor"], total["owed_minor"]) == (246, 123, 123)
    world.replace_account(paid.ana, finn)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    told = finn.get(path(paid.ana))
    assert [line["status"] for line in told["lines"]] == ["reversed", "paid"]
    assert (told["totals"][0]["paid_minor"], told["totals"][0]["owed_minor"]) == (246, 0)


def test_as_csv_nothing_is_a_formula(world: World, paid: Paid, second: Json, finn: Person) -> None:
    lift_all_guards(world)
    world.owner_sql("UPDATE audit_event SET reason = '=1+1' WHERE subject_type = 'payout'")
    answer = finn.ask("GET", path(paid.ana), query={"format": "csv"})
    assert answer.headers["content-disposition"].endswith(f'performer-{paid.ana.id}.csv"')
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["net_minor"] for row in rows] == ["123", "123"]
    assert rows[0]["status_reason"] == "'=1+1"


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ledger_transaction WHERE kind = 'transfer_confirmed'",
        "UPDATE pay_decision SET pay_minor = pay_minor + 1",
    ],
)
def test_one_that_does_not_add_up_is_not_handed_out(
    world: World, paid: Paid, finn: Person, change: str
) -> None:
    lift_all_guards(world)
    world.owner_sql(change)
    assert finn.refused("GET", path(paid.ana)) == "409 report_does_not_add_up"


def test_who_may_read_it(world: World, paid: Paid, finn: Person) -> None:
    assert paid.ana.refused("GET", path(paid.ana)) == "403 forbidden"
    assert finn.refused("GET", path(finn)) == "404 not_found"
    world.advance(DAY)
    newcomer = world.performer("Bea")
    assert finn.get(path(newcomer))["lines"] == []
