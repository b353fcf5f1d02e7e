"""A month is closed by two people once its books agree with Stripe's, and stays closed."""

import csv
import io
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.ledger.test_attacks import refused
from tests.reports.conftest import Paid, lift_all_guards
from tests.world import DAY, Client, Json, Person, World


@pytest.fixture
def month(world: World, paid: Paid) -> str:
    """In which the payout was made; it is over, and Stripe's lines were read since."""
    now: datetime = world.value("SELECT marketplace_now()")
    after = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=6)
    world.advance_to(after)
    world.sweep("funds", "stripe_lines")
    return f"{now:%Y-%m}"


def close(month: str, finn: Person, fay: Person) -> Json:
    finn.post(f"/v1/periods/{month}/close")
    closed: Json = fay.post(f"/v1/periods/{month}/confirm")
    return closed


def test_a_month_is_closed_by_two_people(month: str, finn: Person, fay: Person) -> None:
    path = f"/v1/periods/{month}"
    seen = finn.get(path)
    assert (seen["state"], seen["problems"]) == ("open", [])
    (books,) = seen["books"]
    assert books == {
        "currency": "USD",
        "ledger_sum_minor": 0,
        "cash_minor": 596_947,
        "owed_minor": 99_859,
        "stripe_lines_minor": 596_947,
        "booked_later_minor": 0,
        "booked_earlier_minor": 0,
        "lines_not_booked": 0,
    }
    waiting = finn.post(f"{path}/close")
    assert (waiting["state"], waiting["closing_by"]) == ("closing", finn.id)
    assert finn.refused("POST", f"{path}/confirm") == "403 closer_may_not_confirm"
    closed = fay.post(f"{path}/confirm")
    assert (closed["state"], closed["closed_by"], closed["books"]) == ("closed", fay.id, [books])
    assert finn.refused("POST", f"{path}/close") == "409 move_not_allowed"
    assert fay.refused("POST", f"{path}/reopen", {"reason": "I forgot something"}) == (
        "409 move_not_allowed"
    )
    months = finn.get("/v1/periods")["items"]
    assert [each["state"] for each in months] == ["open", "closed"]


def test_a_month_that_is_not_over_stays_open(world: World, paid: Paid, finn: Person) -> None:
    now: datetime = world.value("SELECT marketplace_now()")
    assert finn.refused("POST", f"/v1/periods/{now:%Y-%m}/close") == "409 period_not_over"


def test_a_month_settles_for_an_hour(world: World, paid: Paid, finn: Person) -> None:
    """What was begun in it may be committed a moment later; what Stripe lists late comes then."""
    now: datetime = world.value("SELECT marketplace_now()")
    after = (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    path = f"/v1/periods/{now:%Y-%m}/close"
    world.advance_to(after + timedelta(minutes=30))
    world.sweep("funds", "stripe_lines")
    assert finn.refused("POST", path) == "409 period_not_over"
    world.advance_to(after + timedelta(minutes=61))
    assert finn.refused("POST", path) == "409 books_not_in_order"
    world.sweep("funds", "stripe_lines")
    assert finn.post(path)["state"] == "closing"


def test_months_are_closed_in_order(world: World, month: str, finn: Person, fay: Person) -> None:
    world.advance(40 * DAY)
    world.sweep("stripe_lines")
    _, later, _ = sorted(each["month"] for each in finn.get("/v1/periods")["items"])
    assert finn.refused("POST", f"/v1/periods/{later}/close") == "409 earlier_period_open"
    close(month, finn, fay)
    assert close(later, finn, fay)["state"] == "closed"


def test_what_was_found_sends_it_back(month: str, finn: Person, fay: Person) -> None:
    path = f"/v1/periods/{month}"
    finn.post(f"{path}/close")
    reopened = fay.post(f"{path}/reopen", {"reason": "one line looks odd to me"})
    assert (reopened["state"], reopened["closing_by"]) == ("open", None)
    finn.post(f"{path}/close")
    assert fay.post(f"{path}/confirm")["state"] == "closed"


def problems(caller: Person, month: str) -> list[str]:
    answer = caller.ask("POST", f"/v1/periods/{month}/close")
    assert (answer.status_code, answer.json()["code"]) == (409, "books_not_in_order")
    found: list[str] = answer.json()["problems"]
    assert found == caller.get(f"/v1/periods/{month}")["problems"]
    return found


def test_a_line_of_stripes_that_nobody_booked_is_in_the_way(
    world: World, paid: Paid, finn: Person
) -> None:
    world.stripe.fee(200)
    now: datetime = world.value("SELECT marketplace_now()")
    world.advance(40 * DAY)
    assert "were not read since" in problems(finn, f"{now:%Y-%m}")[0]
    world.sweep("stripe_lines")
    (problem,) = problems(finn, f"{now:%Y-%m}")
    assert problem.startswith("USD: 1 of Stripe's lines are in no booking")


def test_cash_that_does_not_cover_what_is_owed_is_in_the_way(
    world: World, paid: Paid, finn: Person
) -> None:
    """The platform took out what it had brought in, and more."""
    now: datetime = world.value("SELECT marketplace_now()")
    world.stripe.fee(500_000, "topup")
    lift_all_guards(world)
    world.sweep("stripe_lines")
    world.owner_sql(
        "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency, occurred_at,"
        "  booked_at, accounting_date) SELECT gen_random_uuid(), 'topup_succeeded', 'topup',"
        "  gen_random_uuid(), 'USD', now(), marketplace_now(), marketplace_now()::date"
    )
    taken = "(SELECT id FROM ledger_transaction ORDER BY booked_at DESC LIMIT 1)"
    world.owner_sql(
        "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
        f" VALUES ({taken}, account_id('stripe_available', NULL, 'USD'), 'USD', -500000),"
        f"  ({taken}, account_id('platform_capital', NULL, 'USD'), 'USD', 500000)"
    )
    world.owner_sql(
        "INSERT INTO booked_balance_transaction (id, net_minor, currency, ledger_transaction_id)"
        f" SELECT id, net_minor, currency, {taken} FROM stripe_line WHERE net_minor = -500000"
    )
    world.advance(40 * DAY)
    world.sweep("stripe_lines")
    (problem,) = problems(finn, f"{now:%Y-%m}")
    assert problem.startswith("USD: 96947 at Stripe do not cover the 99859 owed")


def test_cash_that_came_since_the_month_is_not_in_the_way(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    """Nothing is booked into a month that is over; its books tell what was missing."""
    world.stripe.fee(500_000)
    world.sweep("stripe_lines")
    (line,) = finn.get("/v1/exceptions")["items"]
    said = {"booked_as": "stripe_fee", "reason": "It is on their invoice."}
    booking = finn.post(f"/v1/exceptions/{line['line_id']}/bookings", said)
    fay.post(f"/v1/line-bookings/{booking['id']}/approve")
    now: datetime = world.value("SELECT marketplace_now()")
    month = f"{now:%Y-%m}"
    world.advance(40 * DAY)
    world.sweep("stripe_lines")
    (problem,) = problems(finn, month)
    assert problem.startswith("USD: 96947 at Stripe do not cover the 99859 owed")
    world.capital(finn, 3_000)
    world.sweep("stripe_lines")
    assert close(month, finn, fay)["state"] == "closed"
    (books,) = finn.get(f"/v1/periods/{month}")["books"]
    assert (books["cash_minor"], books["owed_minor"]) == (96_947, 99_859)


def test_a_line_booked_after_the_month_is_a_difference_of_timing(
    world: World, paid: Paid, acme: Client, finn: Person, fay: Person
) -> None:
    now: datetime = world.value("SELECT marketplace_now()")
    world.paid_at_stripe(acme, 5_000)
    world.advance(40 * DAY)
    world.sweep("poll_deposits", "stripe_lines", "funds")
    (books,) = finn.get(f"/v1/periods/{now:%Y-%m}")["books"]
    assert (books["stripe_lines_minor"], books["booked_later_minor"]) == (601_772, 4_825)
    assert books["cash_minor"] == 596_947
    assert close(f"{now:%Y-%m}", finn, fay)["state"] == "closed"


def test_a_line_that_stripe_dates_after_the_month_is_one_too(
    world: World, month: str, finn: Person, fay: Person
) -> None:
    """Two clocks at a month's last moment."""
    world.owner_sql("ALTER TABLE stripe_line DISABLE TRIGGER USER")
    world.owner_sql(
        "UPDATE stripe_line SET created_at = date_trunc('month', marketplace_now())"
        " WHERE net_minor = -123"
    )
    (books,) = finn.get(f"/v1/periods/{month}")["books"]
    assert (books["stripe_lines_minor"], books["booked_earlier_minor"]) == (597_070, -123)
    assert close(month, finn, fay)["state"] == "closed"


def test_nothing_is_booked_into_a_closed_month(
    world: World, month: str, finn: Person, fay: Person
) -> None:
    close(month, finn, fay)
    # Only a clock that is set back could: the owner's hand stands in for it.
    world.owner_sql("ALTER TABLE ledger_transaction DISABLE TRIGGER stamp")
    with pytest.raises(psycopg.errors.CheckViolation, match=f"the books of {month} are closed"):
        world.owner_sql(
            "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
            "  occurred_at, accounting_date) VALUES (gen_random_uuid(), 'topup_succeeded', 'topup',"
            "  gen_random_uuid(), 'USD', now(), %s)",
            f"{month}-01",
        )


def test_a_closed_month_that_is_found_different_stays_as_it_was_closed(
    world: World, month: str, finn: Person, fay: Person
) -> None:
    closed = close(month, finn, fay)
    # As if Stripe had dated a line of it later: in order still, and not what was found then.
    world.owner_sql("ALTER TABLE stripe_line DISABLE TRIGGER USER")
    world.owner_sql(
        "UPDATE stripe_line SET created_at = created_at + interval '40 days' WHERE net_minor = -123"
    )
    assert fay.refused("POST", f"/v1/periods/{month}/close") == "409 move_not_allowed"
    assert finn.get(f"/v1/periods/{month}")["books"] == closed["books"]


def test_a_month_that_goes_on_accrues_up_to_now(world: World, paid: Paid, finn: Person) -> None:
    """Bo has been at work for 60 s, and may be for an hour."""
    bo = world.performer("Bo")
    claim = world.claim(bo, paid.job)
    bo.post(f"/v1/claims/{claim['id']}/time", {"activity": "perform"})
    world.advance(60)
    month = f"/v1/periods/{world.value('SELECT marketplace_now()'):%Y-%m}"
    journal = finn.get(f"{month}/journal")
    assert datetime.fromisoformat(journal["as_of"]) <= world.now
    payable = [entry for entry in journal["entries"] if entry["kind"] == "accrual"][1]
    a_minute, an_hour = 123, 7_400
    assert a_minute <= payable["credit_minor"] < an_hour / 2
    assert a_minute < finn.get(month)["accrued_minor"]["USD"] < an_hour / 2


def test_the_journal_balances_and_accrues_what_was_not_decided(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    """Bo works 600 s in this month that are decided in the next."""
    now: datetime = world.value("SELECT marketplace_now()")
    bo = world.performer("Bo")
    claim = world.claim(bo, paid.job)
    world.work(bo, claim, "perform", 600)
    eve = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0)
    world.advance_to(eve + timedelta(hours=6))
    world.sweep("stripe_lines", "funds")
    month = f"{now:%Y-%m}"
    assert finn.get(f"/v1/periods/{month}")["accrued_minor"] == {"USD": 1_233 + 185}
    told = finn.get(f"/v1/periods/{month}/journal")
    entries = told["entries"]
    debits = sum(entry["debit_minor"] or 0 for entry in entries)
    credits_ = sum(entry["credit_minor"] or 0 for entry in entries)
    assert debits == credits_ > 0
    accrued = [entry for entry in entries if entry["kind"] == "accrual"]
    assert [
        (entry["account"], entry["debit_minor"], entry["credit_minor"]) for entry in accrued
    ] == [
        ("job_reserve", 1_418, None),
        ("performer_payable", None, 1_233),
        ("platform_fees", None, 185),
    ]
    world.sweep("expiry")
    world.advance(4 * DAY)
    world.sweep("pay", "stripe_lines")
    close(month, finn, fay)
    again = finn.get(f"/v1/periods/{month}/journal")
    assert again["entries"] == entries, "decided later, it was accrued then all the same"
    text = finn.ask("GET", f"/v1/periods/{month}/journal", query={"format": "csv"}).text
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == len(entries)
    assert sum(int(line["debit_minor"] or 0) for line in lines) == debits
    later = f"{eve.astimezone(UTC):%Y-%m}"
    kinds = {entry["kind"] for entry in finn.get(f"/v1/periods/{later}/journal")["entries"]}
    assert "claim_paid" in kinds


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "now", "1999-12", "20٢٦-01"])
def test_what_is_no_month_is_422(paid: Paid, finn: Person, month: str) -> None:
    assert finn.refused("GET", f"/v1/periods/{month}") == "422 invalid_request"


def test_a_month_without_bookings_is_404(paid: Paid, finn: Person) -> None:
    assert finn.refused("GET", "/v1/periods/2020-01") == "404 not_found"
    assert finn.refused("POST", "/v1/periods/2099-01/close") == "404 not_found"


def test_nobody_closes_a_month_alone(world: World, paid: Paid, fay: Person) -> None:
    """Not even with the application's login: the one who began to close it is named."""
    with world.connection(actor="mallory") as mallory:
        month = (
            (
                "INSERT INTO accounting_period (id, first_day, state) VALUES"
                " (uuidv7(), '2020-01-01', 'open') ON CONFLICT DO NOTHING"
            ),
            "UPDATE accounting_period SET state = 'closing'",
        )
        closed = (
            "UPDATE accounting_period SET state = 'closed', closed_at = now(), closed_by = %s",
            [fay.id],
        )
        refused(mallory, "ck_accounting_period_closing_by_somebody", *month, closed)
        named = f"{month[1]}, closing_by = '{fay.id}'"
        refused(mallory, "ck_accounting_period_second_person", month[0], named, closed)
