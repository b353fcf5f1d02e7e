"""The way of a cent over HTTP: all of it for finance, one's own for performers, nobody else's."""

import pytest

from tests.reports.conftest import Paid, lift_all_guards, program
from tests.world import Caller, Json, Person, World

PATH = "/v1/explanations"


def test_finance_sees_both_directions(world: World, paid: Paid, finn: Person) -> None:
    told = finn.get(f"{PATH}/{paid.payout['transfer_id']}")
    assert told["complete"] is True
    asked, *others = told["lines"]
    assert (asked["table"], asked["parent"], asked["direction"]) == ("payout_attempt", None, None)
    assert [line["position"] for line in told["lines"]] == list(range(len(told["lines"])))
    assert all(0 <= line["parent"] < line["position"] for line in others)
    tables = {line["direction"]: set[str]() for line in others}
    for line in others:
        tables[line["direction"]].add(line["table"])
    assert tables["down"] >= {"payout", "claim", "time_entry", "rate", "consent_grant"}
    assert tables["up"] >= {"ledger_transaction", "booked_balance_transaction"}
    (entry,) = [line for line in others if line["table"] == "time_entry"]
    assert entry["facts"]["seconds"] == "60"


@pytest.mark.parametrize(("query", "accept"), [({"format": "text"}, "*/*"), ({}, "text/plain")])
def test_as_text_it_is_what_the_program_prints(
    world: World, paid: Paid, finn: Person, query: Json, accept: str
) -> None:
    path = f"{PATH}/{paid.payout['id']}"
    answer = finn.ask("GET", path, query=query, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/plain")
    code, printed = program(world, "explain", paid.payout["id"])
    assert (code, printed) == (0, answer.text)
    as_json = finn.ask("GET", path, query={"format": "json"}, headers={"Accept": "text/plain"})
    assert as_json.json()["complete"] is True


ENDS = {
    "payout": "SELECT id FROM payout",
    "transfer": "SELECT transfer_id FROM payout",
    "claim": "SELECT id FROM claim",
    "time entry": "SELECT id FROM time_entry",
    "decision": "SELECT id FROM pay_decision",
    "earning": "SELECT ledger_entry_id FROM payout_line",
    "line": "SELECT id FROM payout_line",
    "booking": "SELECT ledger_transaction_id FROM pay_decision",
}


@pytest.mark.parametrize("end", ENDS)
def test_performers_see_their_own_and_nobody_elses(world: World, paid: Paid, end: str) -> None:
    path = f"{PATH}/{world.value(ENDS[end])}"
    assert world.performer("Bea").refused("GET", path) == "404 not_found"
    told = paid.ana.get(path)
    tables = {line["table"] for line in told["lines"]}
    assert tables >= {"payout", "claim", "time_entry", "rate", "payout_attempt"}
    assert tables & {"payout_run", "booked_balance_transaction", "deposit", "reserve_move"} == set()
    accounts = {
        line["facts"]["account"] for line in told["lines"] if line["table"] == "ledger_entry"
    }
    assert accounts == {"performer_payable"}
    assert not any("fee_minor" in line["facts"] for line in told["lines"])


@pytest.mark.parametrize(
    "foreign",
    [
        "SELECT id FROM deposit",
        "SELECT checkout_session_id FROM deposit",
        "SELECT id FROM topup",
        "SELECT id FROM payout_run",
        "SELECT id FROM booked_balance_transaction WHERE net_minor = -123",
        "SELECT id FROM reserve_move LIMIT 1",
        "SELECT id FROM ledger_transaction WHERE kind = 'deposit_credited'",
        "SELECT id FROM ledger_transaction WHERE kind = 'transfer_confirmed'",
        (
            "SELECT entry.id FROM ledger_entry AS entry JOIN account ON account.id = account_id"
            " WHERE kind = 'platform_fees'"
        ),
    ],
)
def test_what_is_not_theirs_is_404(world: World, paid: Paid, finn: Person, foreign: str) -> None:
    path = f"{PATH}/{world.value(foreign)}"
    assert finn.get(path)["complete"] is True
    assert paid.ana.refused("GET", path) == "404 not_found"


def test_who_may_ask(world: World, paid: Paid, finn: Person) -> None:
    path = f"{PATH}/{paid.payout['id']}"
    assert Caller(world).refused("GET", path) == "401 unauthorized"
    assert paid.ravi.refused("GET", path) == "403 forbidden"
    assert paid.acme.refused("GET", path) == "403 forbidden"
    for nobody in ("tr_none", "01a2086e-1062-71bf-bf59-ec8fafc2dc31", "x" * 255):
        assert finn.refused("GET", f"{PATH}/{nobody}") == "404 not_found"
    for nonsense in ("%00", "x" * 256, "%27", "a%20b"):
        assert finn.refused("GET", f"{PATH}/{nonsense}") == "422 invalid_request"
    assert finn.refused("GET", path, query={"format": "xml"}) == "422 invalid_request"


def test_what_is_missing_is_named(world: World, paid: Paid, finn: Person) -> None:
    lift_all_guards(world)
    world.owner_sql("DELETE FROM rate")
    told = finn.get(f"{PATH}/{paid.payout['id']}")
    assert told["complete"] is False
    (problem,) = [each for line in told["lines"] for each in line["problems"]]
    assert problem.startswith("leads to no rate (")
