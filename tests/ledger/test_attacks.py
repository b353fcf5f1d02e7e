"""What the application's own login tries and the database refuses. Every attack really commits."""

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg import sql as parts

from tests.world import Client, Json, Person, World

Connection = psycopg.Connection[Json]

HEADER = (
    "INSERT INTO ledger_transaction"
    " (id, kind, source_type, source_id, currency, occurred_at, accounting_date)"
    " VALUES (%s, 'topup_succeeded', 'topup', %s, %s, now(), now()::date)"
)
ENTRY = (
    "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
    " VALUES (%s, %s, %s, %s)"
)


@pytest.fixture
def mallory(world: World) -> Iterator[Connection]:
    """Somebody who has the application's login."""
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def accounts(world: World) -> dict[str, uuid.UUID]:
    """A wallet and a platform account, in two currencies."""
    opened = {}
    for name, kind, owner, currency in (
        ("wallet", "client_wallet", uuid.uuid4(), "USD"),
        ("capital", "platform_capital", None, "USD"),
        ("cash", "stripe_available", None, "USD"),
        ("euros", "stripe_available", None, "EUR"),
    ):
        (row,) = world.sql(
            "INSERT INTO account (id, kind, owner_id, currency)"
            " SELECT account_id(%s, %s, %s), %s, %s, %s RETURNING id",
            *(kind, owner, currency),
            *(kind, owner, currency),
        )
        opened[name] = row["id"]
    return opened


def refused(connection: Connection, named: str, *statements: tuple[str, list[Any]] | str) -> None:
    """All of them and then COMMIT: somewhere on the way the database names this reason."""
    with pytest.raises(psycopg.Error) as refusal:
        commit(connection, *statements)
    connection.rollback()
    diag = refusal.value.diag
    assert named in {diag.constraint_name, refusal.value.sqlstate}, refusal.value


def commit(connection: Connection, *statements: tuple[str, list[Any]] | str) -> None:
    for statement in statements:
        text, values = statement if isinstance(statement, tuple) else (statement, [])
        connection.execute(text.encode(), values or None)
    connection.commit()


def header(currency: str = "USD") -> tuple[uuid.UUID, tuple[str, list[Any]]]:
    made = uuid.uuid4()
    return made, (HEADER, [made, uuid.uuid4(), currency])


DENIED = "42501"  # insufficient_privilege


class TestUnbalancedBooks:
    def test_a_balanced_transaction_is_taken(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        for text, values in (
            head,
            (ENTRY, [transaction, accounts["cash"], "USD", 5]),
            (ENTRY, [transaction, accounts["capital"], "USD", -5]),
        ):
            mallory.execute(text.encode(), values)
        mallory.commit()

    def test_one_that_does_not_sum_to_zero(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        one = (ENTRY, [transaction, accounts["cash"], "USD", 5])
        two = (ENTRY, [transaction, accounts["capital"], "USD", -4])
        refused(mallory, "ledger_balanced", head, one, two)

    def test_one_without_entries(self, mallory: Connection) -> None:
        _, head = header()
        refused(mallory, "ledger_balanced", head)

    def test_an_entry_of_zero(self, mallory: Connection, accounts: dict[str, uuid.UUID]) -> None:
        transaction, head = header()
        zero = (ENTRY, [transaction, accounts["cash"], "USD", 0])
        refused(mallory, "ck_ledger_entry_not_zero", head, zero)

    def test_two_currencies_in_one(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        one = (ENTRY, [transaction, accounts["cash"], "USD", 5])
        foreign = (ENTRY, [transaction, accounts["euros"], "EUR", -5])
        refused(mallory, "fk_ledger_entry_transaction_id_currency", head, one, foreign)

    def test_an_account_of_another_currency(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        wrong = (ENTRY, [transaction, accounts["euros"], "USD", 5])
        refused(mallory, "fk_ledger_entry_account_id_currency", head, wrong)

    def test_checked_early_and_then_unbalanced(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        """Both triggers stand: the check that already passed is made again for a new entry."""
        transaction, head = header()
        refused(
            mallory,
            "ledger_balanced",
            head,
            (ENTRY, [transaction, accounts["cash"], "USD", 5]),
            (ENTRY, [transaction, accounts["capital"], "USD", -5]),
            "SET CONSTRAINTS ALL IMMEDIATE",
            "SET CONSTRAINTS ALL DEFERRED",
            (ENTRY, [transaction, accounts["cash"], "USD", 7]),
        )

    def test_a_header_that_is_checked_before_its_entries(self, mallory: Connection) -> None:
        _, head = header()
        refused(mallory, "ledger_balanced", head, "SET CONSTRAINTS ALL IMMEDIATE")

    def test_half_of_it_in_a_savepoint(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        refused(
            mallory,
            "ledger_balanced",
            head,
            (ENTRY, [transaction, accounts["cash"], "USD", 5]),
            "SAVEPOINT half",
            (ENTRY, [transaction, accounts["capital"], "USD", -5]),
            "ROLLBACK TO half",
        )

    def test_an_entry_into_a_committed_one(
        self, world: World, acme: Client, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        committed = world.value("SELECT id FROM ledger_transaction LIMIT 1")
        for entries in (
            [(ENTRY, [committed, accounts["cash"], "USD", 5])],
            [
                (ENTRY, [committed, accounts["cash"], "USD", 5]),
                (ENTRY, [committed, accounts["capital"], "USD", -5]),
            ],
        ):
            refused(mallory, "ledger_committed", *entries)

    def test_the_same_event_twice(self, world: World, acme: Client, mallory: Connection) -> None:
        (row,) = world.sql("SELECT kind, source_type, source_id FROM ledger_transaction LIMIT 1")
        again = HEADER.replace("'topup_succeeded', 'topup'", "%s, %s")
        values = [uuid.uuid4(), row["kind"], row["source_type"], row["source_id"], "USD"]
        refused(mallory, "uq_ledger_transaction_event", (again, values))

    def test_a_wallet_overdrawn(self, mallory: Connection, accounts: dict[str, uuid.UUID]) -> None:
        transaction, head = header()
        refused(
            mallory,
            "ck_account_balance_covered",
            head,
            (ENTRY, [transaction, accounts["wallet"], "USD", 5]),
            (ENTRY, [transaction, accounts["cash"], "USD", -5]),
        )


APPEND_ONLY = (
    *("ledger_transaction", "ledger_entry", "account", "rate", "rate_lineage", "minimum_rate"),
    *("consent_grant", "consent_withdrawal", "audit_event", "feed_event", "reservation"),
    *("reserve_move", "pay_decision", "payout_exclusion", "booked_balance_transaction"),
    *("claim_recording", "submission_recording", "download_link"),
)


class TestHistory:
    @pytest.mark.parametrize(
        "table", [*APPEND_ONLY, "account_balance", "booking", "clock", "allowed_move"]
    )
    def test_no_row_of_history_is_changed_or_removed(self, mallory: Connection, table: str) -> None:
        name = parts.Identifier(table)
        (column,) = (
            mallory.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
                " ORDER BY ordinal_position DESC LIMIT 1",
                [table],
            )
            .fetchall()[0]
            .values()
        )
        for attack in (
            parts.SQL("UPDATE {} SET {} = {}").format(
                name, parts.Identifier(column), parts.Identifier(column)
            ),
            parts.SQL("DELETE FROM {}").format(name),
            parts.SQL("TRUNCATE {}").format(name),
            parts.SQL("TRUNCATE {} CASCADE").format(name),
            parts.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(name),
            parts.SQL("DROP TABLE {}").format(name),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                mallory.execute(attack)
            mallory.rollback()

    @pytest.mark.parametrize("table", APPEND_ONLY)
    def test_not_even_the_owner_changes_it(self, world: World, table: str) -> None:
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            world.owner_sql(f"TRUNCATE {table} CASCADE")  # a fixed list

    def test_a_balance_is_not_written_by_hand(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        refused(mallory, DENIED, "UPDATE account_balance SET balance_minor = 999999")
        insert = "INSERT INTO account_balance SELECT id, 999999 FROM account LIMIT 1"
        refused(mallory, DENIED, insert)

    def test_the_clock_is_not_set(self, mallory: Connection) -> None:
        refused(mallory, DENIED, "UPDATE clock SET offset_seconds = 1000000000")

    def test_a_claims_price_is_not_changed(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        claim = world.claim(ana, world.published_job(acme))
        for change in (
            "rate_id = gen_random_uuid()",
            "rate_minor_per_hour = 1",
            "fee_basis_points = 0",
            "performer_id = gen_random_uuid()",
            "claimed_at = now()",
            "currency = 'EUR'",
        ):
            attack = (f"UPDATE claim SET {change} WHERE id = %s", [claim["id"]])  # a fixed list
            refused(mallory, DENIED, attack)

    def test_time_is_not_rewritten(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        claim = world.claim(ana, world.published_job(acme))
        world.work(ana, claim, "prep", 60)
        longer = "UPDATE time_entry SET ended_at = ended_at + interval '1 hour'"
        refused(mallory, "final", longer)
        refused(mallory, DENIED, "UPDATE time_entry SET started_at = now()")
        insert = (
            "INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at,"
            " heartbeat_at, ends_by, ended_at, ended_by)"
            " SELECT uuidv7(), id, performer_id, 'perform', {start}, {start}, now() + interval"
            " '9 days', {end}, 'performer' FROM claim"
        )
        second = "date_trunc('second', marketplace_now())"
        for start, end, reason in (
            (f"{second} + interval '1 hour'", f"{second} + interval '2 hours'", "future"),
            ("claimed_at - interval '1 hour'", "claimed_at", "before the claim"),
            ("claimed_at + interval '0.5 seconds'", second, "part of a second"),
        ):
            attack = insert.format(start=start, end=end)
            with pytest.raises(psycopg.errors.CheckViolation, match="lies within"):
                mallory.execute(attack.encode())
            mallory.rollback()
            assert reason
        overlap = insert.format(start="claimed_at", end=second)
        refused(mallory, "ex_time_entry_overlap", overlap)


class TestWhatIsAgreed:
    def test_a_published_job_stays_as_it_is(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        world.published_job(acme)
        cheap = world.job(acme, elicitation="scripted", rate_minor_per_hour=100)
        for change in (
            "fee_basis_points = 9000",
            "review_seconds = 1",
            "specification = '{}'",
            "perform_seconds_cap = 1",
            f"lineage_id = '{cheap['lineage_id']}'",
        ):
            attack = f"UPDATE job SET {change} WHERE state = 'open'"  # a fixed list
            refused(mallory, "job_published", attack)

    def test_what_was_funded_is_not_deleted(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        world.published_job(acme)
        refused(mallory, "role_funded", "DELETE FROM role")

    def test_a_claim_of_another_time_or_rate(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        job = world.published_job(acme, tasks=2)
        path = f"/v1/rate-lineages/{job['lineage_id']}/rates"
        world.claim(ana, job)
        acme.post(path, {"rate_minor_per_hour": 9_000, "reason": "agreed"})
        now = "date_trunc('second', marketplace_now())"
        for claimed_at, rate in (
            (f"{now} - interval '1 hour'", "rate_id"),
            (now, "(SELECT id FROM rate WHERE rate_minor_per_hour = 9000)"),
        ):
            attack = (
                "INSERT INTO claim (id, role_id, task_id, job_id, client_id, performer_id, state,"
                " rate_id, lineage_id, currency, rate_minor_per_hour, fee_basis_points,"
                " consent_grant_id, claimed_at, deadline, pay_by, retakes_granted)"
                " SELECT uuidv7(), role_id, task_id, job_id, client_id, performer_id, state,"
                f" {rate}, lineage_id, currency, rate_minor_per_hour, fee_basis_points,"
                f" consent_grant_id, {claimed_at}, deadline, pay_by, 0 FROM claim"
            )
            refused(mallory, "claim_rate_in_force", attack)

    def test_anothers_reserve(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        claim = world.claim(ana, world.published_job(acme))
        world.work(ana, claim, "prep", 60)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        set_aside = world.value("SELECT reservation_id FROM claim")
        draft = world.job(world.client("Globex"))
        attack = "UPDATE role SET reservation_id = %s WHERE job_id = %s"
        refused(mallory, "fk_role_reservation", (attack, [set_aside, draft["id"]]))

    def test_nothing_is_signed_or_numbered_by_hand(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        world.claim(ana, world.published_job(acme))
        columns = "performer_id, client_id, licence_version, licence_sha256, allowed_uses,"
        columns += " forbidden_uses, territory, exclusive, term_ends_at, consideration, method"
        commit(
            mallory,
            f"INSERT INTO consent_grant (id, signed_at, {columns})"
            f" SELECT uuidv7(), '2020-01-01', {columns} FROM consent_grant",
            "INSERT INTO audit_event (id, subject_type, subject_id, action)"
            " OVERRIDING SYSTEM VALUE VALUES (4611686018427387904, 'job', uuidv7(), 'forged')",
        )
        assert world.value("SELECT min(signed_at) FROM consent_grant").year >= world.now.year
        assert world.value("SELECT max(id) FROM audit_event") < 1_000_000


class TestBookingTime:
    """One moment for all that a transaction books, taken while reports wait for it."""

    NOTE = (
        "INSERT INTO audit_event (subject_type, subject_id, action, booked_at)"
        " VALUES ('job', uuidv7(), 'noted', '2020-01-01') RETURNING booked_at"
    )

    def noted(self, connection: Connection) -> datetime:
        (row,) = connection.execute(self.NOTE.encode()).fetchall()
        stamp: datetime = row["booked_at"]
        return stamp

    def test_a_transaction_has_one(self, world: World, mallory: Connection) -> None:
        mallory.execute("SELECT 1")
        began = world.now
        first = self.noted(mallory)
        assert first > began
        assert {first, self.noted(mallory), self.noted(mallory)} == {first}
        mallory.commit()
        assert self.noted(mallory) > first

    def test_a_savepoint_takes_it_along(self, mallory: Connection) -> None:
        """Its lock is given up with it: a report may have been handed out since."""
        mallory.execute("SAVEPOINT half")
        given_up = self.noted(mallory)
        mallory.execute("ROLLBACK TO half")
        kept = self.noted(mallory)
        assert kept > given_up
        mallory.execute("SAVEPOINT other_half")
        assert self.noted(mallory) == kept
        mallory.execute("ROLLBACK TO other_half")
        assert self.noted(mallory) == kept

    def test_it_is_not_set_by_hand(self, mallory: Connection) -> None:
        refused(
            mallory,
            DENIED,
            "INSERT INTO booking SELECT pg_backend_pid(), pg_current_xact_id()::text, now(),"
            " '2020-01-01'",
        )


STATEFUL = (
    *("audition", "claim", "deposit", "job", "payout", "payout_run", "performer", "recording"),
    *("role", "submission", "topup", "withholding"),
)


class TestStates:
    def test_a_move_the_table_forbids(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        world.claim(ana, world.published_job(acme))
        for table, state in (
            ("claim", "settled"),
            ("job", "closed"),
            ("job", "draft"),
            ("role", "done "),
            ("performer", "applied"),
            ("deposit", "requested"),
            ("deposit", "made-up"),
        ):
            attack = (f"UPDATE {table} SET state = %s", [state])  # a fixed list
            refused(mallory, "move_not_allowed", attack)

    def test_a_row_born_in_a_later_state(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        born = (
            "INSERT INTO payout_run (id, currency, state, cut_off_at)"
            " VALUES (uuidv7(), 'USD', 'discarded', now())"
        )
        refused(mallory, "move_not_allowed", born)

    def test_a_run_approved_by_its_preparer(
        self, world: World, finn: Person, mallory: Connection
    ) -> None:
        finn.post("/v1/payout-runs", {"currency": "USD"})
        approve = "UPDATE payout_run SET state = 'approved', approved_by = prepared_by"
        refused(mallory, "ck_payout_run_second_person", approve)
        refused(
            mallory,
            "ck_payout_run_approved_by_somebody",
            "UPDATE payout_run SET state = 'approved'",
        )

    def test_an_approval_is_not_rewritten(
        self, world: World, finn: Person, fay: Person, mallory: Connection
    ) -> None:
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        other = world.finance("Fred")
        attack = ("UPDATE payout_run SET approved_by = %s", [other.id])
        refused(mallory, "set_once", attack)
        refused(mallory, "set_once", "UPDATE payout_run SET approved_at = now()")

    def test_a_performers_counter(self, world: World, ana: Person, mallory: Connection) -> None:
        refused(mallory, DENIED, "UPDATE performer SET live_claims = 0")

    def test_a_move_by_nobody_is_refused(self, world: World, ana: Person) -> None:
        with world.connection(actor="") as nobody:
            with pytest.raises(psycopg.errors.NotNullViolation, match="actor"):
                nobody.execute("UPDATE performer SET state = 'suspended'")
            nobody.rollback()


class TestPay:
    @pytest.fixture
    def ended(self, world: World, acme: Client, ana: Person) -> Json:
        """Ana's claim, released with 60 s of work on it: 1.23 at 74.00 an hour, fee 0.18."""
        claim = world.claim(ana, world.published_job(acme))
        world.work(ana, claim, "prep", 60)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        return claim

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"seconds": 61, "pay_minor": 125, "fee_minor": 19}, "pay_decision_seconds"),
            ({"seconds": 0, "pay_minor": 0, "fee_minor": 0}, "pay_decision_seconds"),
            ({"pay_minor": 124, "fee_minor": 19}, "ck_pay_decision_pay_exact"),
            ({"pay_minor": 0, "fee_minor": 0}, "ck_pay_decision_pay_exact"),
            ({"fee_minor": 0}, "ck_pay_decision_fee_exact"),
            (
                {"rate_minor_per_hour": 3_700, "pay_minor": 62, "fee_minor": 9},
                "fk_pay_decision_price",
            ),
            ({"fee_basis_points": 0, "fee_minor": 0}, "fk_pay_decision_price"),
            ({"currency": "EUR"}, "fk_pay_decision_price"),
            ({"performer_id": uuid.UUID(int=1)}, "fk_pay_decision_price"),
            (
                {"outcome": "withhold", "pay_minor": 0, "fee_minor": 0},
                "ck_pay_decision_withheld_by_two",
            ),
        ],
        ids=str,
    )
    def test_a_wrong_decision(
        self, world: World, ended: Json, mallory: Connection, changed: Json, reason: str
    ) -> None:
        refused(mallory, reason, self.decision(world, ended, changed))

    def test_a_decision_on_a_live_claim(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        live = world.claim(ana, world.published_job(acme))
        nothing = {"seconds": 0, "pay_minor": 0, "fee_minor": 0}
        refused(mallory, "pay_decision_seconds", self.decision(world, live, nothing))

    def test_a_second_decision(
        self, world: World, ended: Json, ravi: Person, mallory: Connection
    ) -> None:
        ravi.post(f"/v1/claims/{ended['id']}/pay")
        refused(mallory, "uq_pay_decision_claim_id_number", self.decision(world, ended, {}))

    def test_time_added_after_the_decision(
        self, world: World, ended: Json, ravi: Person, mallory: Connection
    ) -> None:
        ravi.post(f"/v1/claims/{ended['id']}/pay")
        more = (
            "INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at,"
            " heartbeat_at, ends_by, ended_at, ended_by) SELECT uuidv7(), claim_id, performer_id,"
            " activity, ended_at, ended_at, ended_at, ended_at, 'performer' FROM time_entry"
        )
        refused(mallory, "time_entry_decided", more)

    def test_more_time_than_the_role_allows(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        """600 s of preparation and 2,400 s of performance; no retake was granted."""
        claim = world.claim(ana, world.published_job(acme))
        world.advance(3_001)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        long = (
            "INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at,"
            " heartbeat_at, ends_by, ended_at, ended_by) SELECT uuidv7(), id, performer_id,"
            " 'perform', claimed_at, claimed_at, {end}, {end}, 'performer' FROM claim"
        ).format(end="claimed_at + interval '3001 seconds'")
        changed = {"seconds": 3_001, "pay_minor": 6_169, "fee_minor": 925}
        refused(mallory, "pay_decision_seconds", long, self.decision(world, claim, changed))

    def decision(self, world: World, claim: Json, changed: Json) -> tuple[str, list[Any]]:
        (row,) = world.sql("SELECT * FROM claim WHERE id = %s", claim["id"])
        values = {
            "id": uuid.uuid4(),
            "claim_id": row["id"],
            "performer_id": row["performer_id"],
            "number": 1,
            "outcome": "pay",
            "seconds": 60,
            "rate_id": row["rate_id"],
            "rate_minor_per_hour": row["rate_minor_per_hour"],
            "fee_basis_points": row["fee_basis_points"],
            "currency": row["currency"],
            "pay_minor": 123,
            "fee_minor": 18,
            **changed,
        }
        places = ", ".join(["%s"] * len(values))
        statement = f"INSERT INTO pay_decision ({', '.join(values)}) VALUES ({places})"
        return statement, list(values.values())


class TestPayoutLines:
    @pytest.fixture
    def drafted(self, world: World, acme: Client, ravi: Person, finn: Person) -> Json:
        """Ana and Bea are each owed 1.23; both are in a drafted run."""
        job = world.published_job(acme, tasks=2)
        for name in ("Ana", "Bea"):
            performer = world.performer(name, onboarded=True)
            world.accepted_claim(performer, job, ravi, seconds=60)
        run: Json = finn.post("/v1/payout-runs", {"currency": "USD"})
        assert run["payouts"] == 2
        return run

    LINE = "INSERT INTO payout_line (id, payout_id, ledger_entry_id, amount_minor) "

    def test_anothers_earning(self, drafted: Json, mallory: Connection) -> None:
        attack = self.LINE + (
            "SELECT uuidv7(), mine.id, theirs.ledger_entry_id, 123 FROM payout AS mine"
            " JOIN payout_line AS theirs ON theirs.payout_id <> mine.id LIMIT 1"
        )
        with pytest.raises(psycopg.Error) as refusal:
            mallory.execute(attack.encode())
        assert refusal.value.diag.constraint_name in {"payout_line_earning", "uq_payout_line_entry"}

    def test_anothers_earning_that_is_free(
        self, world: World, acme: Client, ravi: Person, drafted: Json, mallory: Connection
    ) -> None:
        job = world.published_job(acme)
        world.accepted_claim(world.performer("Cleo"), job, ravi, seconds=60)
        attack = self.LINE + (
            "SELECT uuidv7(), (SELECT id FROM payout LIMIT 1), entry.id, -entry.amount_minor"
            " FROM ledger_entry AS entry JOIN account ON account.id = account_id"
            " WHERE kind = 'performer_payable'"
            " AND entry.id NOT IN (SELECT ledger_entry_id FROM payout_line)"
        )
        refused(mallory, "payout_line_earning", attack)

    def test_an_earning_twice(self, drafted: Json, mallory: Connection) -> None:
        attack = self.LINE + (
            "SELECT uuidv7(), payout_id, ledger_entry_id, amount_minor FROM payout_line LIMIT 1"
        )
        refused(mallory, "uq_payout_line_entry", attack)

    def test_a_payout_of_more_than_its_lines(self, drafted: Json, mallory: Connection) -> None:
        refused(mallory, DENIED, "UPDATE payout SET amount_minor = 99999")
        attack = (
            "INSERT INTO payout (id, run_id, performer_id, currency, amount_minor, destination,"
            " state) SELECT uuidv7(), %s, person_id, 'USD', 99999, 'acct_mine', 'draft'"
            " FROM performer WHERE person_id NOT IN (SELECT performer_id FROM payout)"
        )
        mallory.execute(
            b"INSERT INTO performer (person_id, state, languages, accents, skills, time_zone,"
            b" work_country, claims_limit, live_claims, version)"
            b" SELECT id, 'applied', '{}', '{}', '{}', 'UTC', 'US', 1, 0, 1 FROM person"
            b" WHERE id NOT IN (SELECT person_id FROM performer) LIMIT 1"
        )
        refused(mallory, "payout_amount", (attack, [drafted["id"]]))

    def test_a_line_released_under_a_living_payout(
        self, drafted: Json, mallory: Connection
    ) -> None:
        refused(mallory, "payout_amount", "UPDATE payout_line SET released_at = now()")

    def test_another_destination(self, drafted: Json, mallory: Connection) -> None:
        refused(mallory, DENIED, "UPDATE payout SET destination = 'acct_mine'")

    def test_two_open_attempts(
        self, world: World, drafted: Json, fay: Person, finn: Person, mallory: Connection
    ) -> None:
        world.capital(finn, 100_000)
        fay.post(f"/v1/payout-runs/{drafted['id']}/approve")
        for _ in range(2):
            world.stripe.fault("409")
        world.sweep("payouts")
        second_key = (
            "INSERT INTO payout_attempt (id, payout_id, number, idempotency_key, request,"
            " in_flight_transaction_id) SELECT uuidv7(), payout_id, 2,"
            " format('payout-%s-attempt-2', payout_id),"
            " jsonb_set(request, '{metadata,attempt}', '\"2\"'),"
            " (SELECT id FROM ledger_transaction WHERE kind = 'deposit_credited' LIMIT 1)"
            " FROM payout_attempt LIMIT 1"
        )
        refused(mallory, "uq_payout_attempt_open", second_key)
        refused(mallory, DENIED, "UPDATE payout_attempt SET idempotency_key = 'fresh'")

    @pytest.fixture
    def approved(self, world: World, drafted: Json, finn: Person, fay: Person) -> Json:
        world.capital(finn, 100_000)
        run: Json = fay.post(f"/v1/payout-runs/{drafted['id']}/approve")
        return run

    ATTEMPT = (
        "INSERT INTO payout_attempt (id, payout_id, number, idempotency_key, request,"
        " in_flight_transaction_id) SELECT uuidv7(), id, 1, {key}, jsonb_build_object("
        "'amount_minor', {amount}, 'currency', currency, 'destination', {destination},"
        " 'transfer_group', format('payout-%s', id), 'metadata', jsonb_build_object("
        "'payout_id', id, 'attempt', '1')),"
        " (SELECT id FROM ledger_transaction WHERE kind = 'deposit_credited' LIMIT 1)"
        " FROM payout LIMIT 1"
    )
    AS_APPROVED: ClassVar = {
        "key": "format('payout-%s-attempt-1', id)",
        "amount": "amount_minor",
        "destination": "destination",
    }

    @pytest.mark.parametrize(
        "changed",
        [
            {"key": "'fresh'"},
            {"key": "format('payout-%s-attempt-2', id)"},
            {"amount": "99999"},
            {"destination": "'acct_mine'"},
        ],
        ids=str,
    )
    def test_an_attempt_that_asks_for_something_else(
        self, approved: Json, mallory: Connection, changed: Json
    ) -> None:
        mallory.execute(self.ATTEMPT.format(**self.AS_APPROVED).encode())
        mallory.rollback()
        attack = self.ATTEMPT.format(**{**self.AS_APPROVED, **changed})
        refused(mallory, "payout_attempt_request", attack)

    def test_a_payout_approved_without_its_run(self, drafted: Json, mallory: Connection) -> None:
        approve = "UPDATE payout SET state = 'approved', due_at = now()"
        refused(mallory, "payout_state_proven", approve)

    def test_a_payout_that_joins_an_approved_run(
        self, world: World, approved: Json, mallory: Connection
    ) -> None:
        world.performer("Cleo")
        join = (
            "INSERT INTO payout (id, run_id, performer_id, currency, amount_minor, destination,"
            " state) SELECT uuidv7(), %s, person_id, 'USD', 123, 'acct_mine', 'draft'"
            " FROM performer WHERE person_id NOT IN (SELECT performer_id FROM payout)"
        )
        refused(mallory, "payout_state_proven", (join, [approved["id"]]))

    def test_a_payout_sent_without_an_attempt(self, approved: Json, mallory: Connection) -> None:
        refused(mallory, "payout_state_proven", "UPDATE payout SET state = 'sending'")

    def test_a_payout_in_flight_that_is_called_paid_or_refused(
        self, world: World, approved: Json, mallory: Connection
    ) -> None:
        for _ in range(2):
            world.stripe.fault("409")
        world.sweep("payouts")
        for outcome in ("state = 'paid', transfer_id = id", "state = 'paid'", "state = 'refused'"):
            refused(mallory, "payout_state_proven", f"UPDATE payout SET {outcome}")


class TestPrivileges:
    @pytest.mark.parametrize(
        "attack",
        [
            "SET ROLE marketplace_owner",
            "SET SESSION AUTHORIZATION marketplace_owner",
            "SET session_replication_role = replica",
            "ALTER TABLE ledger_entry DISABLE TRIGGER ALL",
            "DROP TRIGGER append_only ON rate",
            "CREATE OR REPLACE FUNCTION acting() RETURNS text LANGUAGE sql AS 'SELECT null'",
            "CREATE FUNCTION public.acting() RETURNS text LANGUAGE sql AS 'SELECT ''ravi'''",
            "CREATE TABLE public.mine (id int)",
            "CREATE SCHEMA mine",
            "CREATE EXTENSION dblink",
            "ALTER ROLE CURRENT_USER SUPERUSER",
            "COPY ledger_entry TO PROGRAM 'true'",
            "SELECT pg_read_file('/etc/passwd')",
            "LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE",
        ],
    )
    def test_the_login_cannot_lift_its_guards(self, mallory: Connection, attack: str) -> None:
        with pytest.raises(psycopg.Error) as refusal:
            mallory.execute(attack.encode())
        assert refusal.value.sqlstate in {DENIED, "0A000"}, refusal.value
        mallory.rollback()


class TestShadows:
    """A temporary table is found before a table of `public`, unless the statement names that."""

    @pytest.fixture(
        params=["clock", "rate", "account", "allowed_move", "pay_decision", "time_entry", "claim"]
    )
    def shadow(self, request: pytest.FixtureRequest, mallory: Connection) -> str:
        name: str = request.param
        try:
            mallory.execute(f"CREATE TEMP TABLE {name} (LIKE public.{name})".encode())
        except psycopg.errors.InsufficientPrivilege:
            mallory.rollback()  # the best answer of all
        return name

    def test_the_clock_stays_what_it_is(
        self, world: World, mallory: Connection, shadow: str
    ) -> None:
        if shadow == "clock" and mallory.info.transaction_status:
            mallory.execute("INSERT INTO clock VALUES (1, true, 1000000000)")
        row = mallory.execute("SELECT marketplace_now() AS at").fetchone()
        assert row is not None
        assert abs((row["at"] - world.now).total_seconds()) < 60

    def test_a_forbidden_move_stays_forbidden(
        self, world: World, ana: Person, mallory: Connection, shadow: str
    ) -> None:
        if shadow == "allowed_move" and mallory.info.transaction_status:
            mallory.execute("INSERT INTO allowed_move VALUES (1, 'performer', 'vetted', 'applied')")
        refused(mallory, "move_not_allowed", "UPDATE performer SET state = 'applied'")

    def test_a_cut_still_needs_its_notice(
        self, world: World, acme: Client, mallory: Connection, shadow: str
    ) -> None:
        job = world.published_job(acme)
        cut = (
            "INSERT INTO public.rate (id, lineage_id, currency, rate_minor_per_hour, reason,"
            " announced_by, effective_from) VALUES (uuidv7(), %s, 'USD', 1, 'mine', uuidv7(),"
            " marketplace_now() + interval '13 days')"
        )
        refused(mallory, "rate_cut_needs_notice", (cut, [job["lineage_id"]]))

    def test_a_wallet_is_still_guarded(
        self, world: World, acme: Client, mallory: Connection, shadow: str
    ) -> None:
        wallet = world.value("SELECT account_id('client_wallet', %s, 'USD')", acme.id)
        cash = world.value("SELECT account_id('stripe_pending', NULL, 'USD')")
        transaction, head = header()
        refused(
            mallory,
            "ck_account_balance_covered",
            head,
            (ENTRY, [transaction, wallet, "USD", 100_001]),
            (ENTRY, [transaction, cash, "USD", -100_001]),
        )
