"""What the application's own login tries and the database refuses. Every attack really commits."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from time import sleep
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg import sql as parts

from tests.conftest import Scene
from tests.world import HOUR, Client, Json, Person, World

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
# What a header of `topup_succeeded` is booked for: its id, the amount, the id again (or another key).
TOPUP = (
    "INSERT INTO topup (id, currency, amount_minor, requested_by, idempotency_key, state)"
    " SELECT %s, 'USD', %s, id, %s, 'requested' FROM person ORDER BY id LIMIT 1"
)
Statement = tuple[str, list[Any]]


def topup(source: uuid.UUID, minor: int) -> list[Statement]:
    """A top-up that succeeded, which the login may say (and `verify` asks Stripe about)."""
    moves = [(f"UPDATE topup SET state = '{to}' WHERE id = %s", [source]) for to in TOPUP_WAY]
    return [(TOPUP, [source, minor, str(source)]), *moves]


TOPUP_WAY = ("pending", "succeeded")


def entries(transaction: uuid.UUID, *amounts: tuple[uuid.UUID, int]) -> Statement:
    """All of a transaction's entries in one statement, in dollars."""
    text = ENTRY + ", (%s, %s, %s, %s)" * (len(amounts) - 1)
    rows = [[transaction, account, "USD", minor] for account, minor in amounts]
    return text, [value for row in rows for value in row]


def owned_entries(transaction: uuid.UUID, *given: tuple[str, Any, int]) -> Statement:
    """The same, of accounts by their kind and owner."""
    text = "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor) VALUES "
    text += ", ".join(["(%s, account_id(%s, %s, 'USD'), 'USD', %s)"] * len(given))
    return text, [value for each in given for value in (transaction, *each)]


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
# Of a transaction that keeps to what it saw at its beginning.
LEVELS = (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE)


class TestUnbalancedBooks:
    def test_a_balanced_transaction_is_taken(
        self, operator: Person, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        source = head[1][1]
        pair = entries(transaction, (accounts["cash"], 5), (accounts["capital"], -5))
        commit(mallory, *topup(source, 5), head, pair)

    def test_one_that_does_not_sum_to_zero(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        pair = entries(transaction, (accounts["cash"], 5), (accounts["capital"], -4))
        refused(mallory, "ledger_balanced", head, pair)

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

    @pytest.mark.parametrize("more", [[("cash", 7)], [("wallet", -7), ("capital", 7)]], ids=str)
    def test_checked_early_and_then_added_to(
        self,
        operator: Person,
        mallory: Connection,
        accounts: dict[str, uuid.UUID],
        more: list[tuple[str, int]],
    ) -> None:
        """What was found in order stays as it was found, balanced or not."""
        transaction, head = header()
        refused(
            mallory,
            "ledger_entries_at_once",
            *topup(head[1][1], 5),
            head,
            entries(transaction, (accounts["cash"], 5), (accounts["capital"], -5)),
            "SET CONSTRAINTS ALL IMMEDIATE",
            "SET CONSTRAINTS ALL DEFERRED",
            entries(transaction, *((accounts[name], minor) for name, minor in more)),
        )

    def test_entries_of_two_statements(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        one = entries(transaction, (accounts["cash"], 5))
        two = entries(transaction, (accounts["capital"], -5))
        refused(mallory, "ledger_entries_at_once", head, one, two)

    def test_entries_of_two_statements_with_no_check_of_the_balance_left(
        self, world: World, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        for table in ("ledger_transaction", "ledger_entry"):
            world.owner_sql(f"ALTER TABLE {table} DISABLE TRIGGER balanced")  # a fixed list
        self.test_entries_of_two_statements(mallory, accounts)

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
            "SAVEPOINT half",
            entries(transaction, (accounts["cash"], 5), (accounts["capital"], -5)),
            "SET CONSTRAINTS balanced IMMEDIATE",
            "ROLLBACK TO half",
        )

    def test_an_entry_into_a_committed_one(
        self, world: World, acme: Client, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        committed = world.value("SELECT id FROM ledger_transaction LIMIT 1")
        for more in ([("cash", 5)], [("cash", 5), ("capital", -5)]):
            added = entries(committed, *((accounts[name], minor) for name, minor in more))
            refused(mallory, "ledger_committed", added)

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
            entries(transaction, (accounts["wallet"], 5), (accounts["cash"], -5)),
        )


class TestIsolation:
    """Guards wait for who was before them and read what that one left: never an older snapshot."""

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize(
        "table",
        [
            *("ledger_transaction", "payout_run", "payout", "payout_line", "payout_attempt"),
            *("transfer_reversal", "withdrawal", "refund", "dispute", "client_debt_decision"),
            *("correction", "line_booking", "pay_decision", "person_role", "client_member"),
        ],
    )
    def test_nothing_is_written_where_a_guard_would_read_an_older_state(
        self, mallory: Connection, table: str, level: psycopg.IsolationLevel
    ) -> None:
        mallory.isolation_level = level
        mallory.execute("SELECT FROM account")
        refused(mallory, "read_committed", f"INSERT INTO {table} SELECT * FROM {table} LIMIT 0")

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("table", ["person_role", "client_member"])
    def test_nobody_is_taken_away_there(
        self, mallory: Connection, table: str, level: psycopg.IsolationLevel
    ) -> None:
        mallory.isolation_level = level
        refused(mallory, "read_committed", f"DELETE FROM {table}")


class TestMadeUpEvents:
    """Balanced, and nobody's: what is booked for a row is what the row says."""

    def test_money_that_never_came(
        self, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        amounts = (accounts["cash"], 70_000), (accounts["wallet"], -70_000)
        refused(mallory, "ledger_as_said", head, entries(transaction, *amounts))

    @pytest.mark.parametrize("booked", [4, 6])
    def test_another_amount_than_came(
        self,
        operator: Person,
        mallory: Connection,
        accounts: dict[str, uuid.UUID],
        booked: int,
    ) -> None:
        transaction, head = header()
        said = topup(head[1][1], 5)
        pair = entries(transaction, (accounts["cash"], booked), (accounts["capital"], -booked))
        refused(mallory, "ledger_as_said", *said, head, pair)

    def test_one_that_only_may_come(
        self, operator: Person, mallory: Connection, accounts: dict[str, uuid.UUID]
    ) -> None:
        transaction, head = header()
        asked = topup(head[1][1], 5)[:-1]
        pair = entries(transaction, (accounts["cash"], 5), (accounts["capital"], -5))
        refused(mallory, "ledger_as_said", *asked, head, pair)

    @pytest.mark.parametrize(
        ("kind", "source_type", "debited", "credited"),
        [
            ("deposit_credited", "deposit", "stripe_pending", "client_wallet"),
            ("funds_available", "deposit", "stripe_available", "client_wallet"),
            ("reserve_changed", "reserve_move", "platform_expense", "client_wallet"),
            ("transfer_sent", "payout_attempt", "transfers_in_flight", "performer_payable"),
            ("transfer_confirmed", "payout_attempt", "transfers_in_flight", "performer_payable"),
            ("transfer_refused", "payout_attempt", "transfers_in_flight", "performer_payable"),
        ],
    )
    def test_of_no_row_and_of_one_that_says_something_else(
        self,
        world: World,
        acme: Client,
        ana: Person,
        ravi: Person,
        mallory: Connection,
        *,
        kind: str,
        source_type: str,
        debited: str,
        credited: str,
    ) -> None:
        owner = acme.id if credited == "client_wallet" else ana.id
        requested = world.value(
            "INSERT INTO deposit (id, client_id, currency, amount_minor, idempotency_key,"
            " success_url, state) VALUES (uuidv7(), %s, 'USD', 5, 'mine', '', 'requested')"
            " RETURNING id",
            acme.id,
        )
        for source in (uuid.uuid4(), requested):
            made = uuid.uuid4()
            refused(
                mallory,
                "ledger_as_said",
                (EARNING, [made, kind, source_type, source]),
                (OPEN, [debited, None, debited, None]),
                (OPEN, [credited, owner, credited, owner]),
                owned_entries(made, (debited, None, 5), (credited, owner, -5)),
            )

    def test_a_reserve_that_is_moved_to_somebody_else(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        world.published_job(acme)
        bee = world.client("Bee Voices")
        (reserve,) = world.sql("SELECT id FROM reservation ORDER BY id LIMIT 1")
        made, source = uuid.uuid4(), uuid.uuid4()
        booked: list[tuple[str, list[Any]]] = [
            (EARNING, [made, "reserve_changed", "reserve_move", source]),
            (OPEN, ["client_wallet", bee.id, "client_wallet", bee.id]),
        ]
        say = (
            "INSERT INTO reserve_move (id, client_id, currency, from_reservation_id, amount_minor,"
            " cause, ledger_transaction_id) VALUES (%s, %s, 'USD', %s, 5, 'left_over', %s)"
        )
        said = (say, [source, acme.id, reserve["id"], made])
        for owner, minor in ((bee.id, 5), (acme.id, 4)):
            moved = owned_entries(
                made, ("job_reserve", reserve["id"], minor), ("client_wallet", owner, -minor)
            )
            refused(mallory, "ledger_as_said", *booked, moved, said)
        moved = owned_entries(
            made, ("job_reserve", reserve["id"], 5), ("client_wallet", acme.id, -5)
        )
        refused(mallory, "ledger_as_said", *booked, moved)
        commit(mallory, *booked, moved, said)


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


class TestTimeCaps:
    """600 s of preparation and 2,400 s of performance, two hours after the claim was made."""

    @pytest.fixture
    def claim(self, world: World, acme: Client, ana: Person) -> Json:
        claim = world.claim(ana, world.published_job(acme, retakes_max=2))
        world.advance(2 * HOUR)
        return claim

    def entry(
        self, activity: str, begin: int, end: int, *, running: bool = False, retake: str = "NULL"
    ) -> str:
        """In seconds from the claim's beginning; one that runs ends by `end` at the latest."""
        at = "claimed_at + interval '{} seconds'"
        ended = "NULL, NULL" if running else f"{at.format(end)}, 'performer'"
        return (
            "INSERT INTO time_entry (id, claim_id, performer_id, activity, retake_number,"
            " started_at, heartbeat_at, ends_by, ended_at, ended_by)"
            f" SELECT uuidv7(), id, performer_id, '{activity}', {retake}::int,"
            f" {at.format(begin)}, {at.format(begin)}, {at.format(end)}, {ended} FROM claim"
        )

    def test_the_whole_cap_and_not_a_second_more(self, claim: Json, mallory: Connection) -> None:
        commit(mallory, self.entry("perform", 0, 2_000), self.entry("perform", 2_000, 2_400))
        refused(mallory, "time_entry_cap", self.entry("perform", 3_000, 3_001))

    def test_preparing_has_one_cap(self, claim: Json, mallory: Connection) -> None:
        commit(mallory, self.entry("brief", 0, 300), self.entry("prep", 300, 500))
        refused(mallory, "time_entry_cap", self.entry("wait", 500, 601))

    def test_what_runs_counts_to_where_it_may_end(self, claim: Json, mallory: Connection) -> None:
        refused(mallory, "time_entry_cap", self.entry("perform", 0, 2_401, running=True))
        commit(mallory, self.entry("perform", 200, 2_500, running=True))
        refused(mallory, "time_entry_cap", self.entry("perform", 0, 101))
        refused(mallory, DENIED, "UPDATE time_entry SET ends_by = ends_by + interval '1 day'")

    def test_several_in_one_statement(self, claim: Json, mallory: Connection) -> None:
        halves = self.entry("perform", 0, 1_500) + " UNION ALL "
        halves += self.entry("perform", 1_500, 3_000).partition("ended_by) ")[2]
        refused(mallory, "time_entry_cap", halves)

    def test_an_end_before_the_beginning(self, claim: Json, mallory: Connection) -> None:
        backwards = self.entry("perform", 2_400, 0, running=True)
        refused(mallory, "ck_time_entry_within_limits", backwards)

    def test_two_at_once(self, world: World, claim: Json, mallory: Connection) -> None:
        """The second waits for the first, and counts it."""
        with world.connection() as other, ThreadPoolExecutor(1) as elsewhere:
            other.execute(self.entry("perform", 0, 2_000).encode())
            attack = self.entry("perform", 3_000, 5_000)
            second = elsewhere.submit(refused, mallory, "time_entry_cap", attack)
            sleep(0.3)
            assert not second.done()
            other.commit()
            second.result()

    def test_with_an_older_look_at_the_world(
        self, world: World, claim: Json, mallory: Connection
    ) -> None:
        mallory.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        mallory.execute("SELECT FROM time_entry")
        world.sql(self.entry("perform", 0, 2_000))
        refused(mallory, "time_entry_cap", self.entry("perform", 3_000, 5_000))

    def test_a_retake_that_was_not_granted(self, claim: Json, mallory: Connection) -> None:
        for end in (0, 60):
            attack = self.entry("retake", 0, end)
            refused(mallory, "ck_time_entry_retake_numbered", attack)

    def test_each_retake_has_its_own_cap_whatever_number_it_is_given(
        self, claim: Json, mallory: Connection
    ) -> None:
        commit(mallory, "UPDATE claim SET retakes_granted = 1", self.entry("retake", 0, 100))
        refused(mallory, "time_entry_cap", self.entry("retake", 100, 2_401))
        commit(mallory, "UPDATE claim SET retakes_granted = 2", self.entry("retake", 100, 2_500))
        for number in ("1", "3", "NULL"):
            attack = self.entry("retake", 2_500, 2_501, retake=number)
            refused(mallory, "time_entry_cap", attack)

    def test_more_retakes_than_the_role_allows(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        world.claim(world.performer("Bea"), world.published_job(acme, retakes_max=1))
        world.advance(2 * HOUR)
        commit(mallory, "UPDATE claim SET retakes_granted = 2", self.entry("retake", 0, 2_400))
        refused(mallory, "time_entry_cap", self.entry("retake", 3_000, 3_001))


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
        refused(mallory, "set_once", (attack, [set_aside, claim["job_id"]]))

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


@pytest.fixture
def ended(world: World, acme: Client, ana: Person) -> Json:
    """Ana's claim, released with 60 s of work on it: 1.23 at 74.00 an hour, fee 0.18."""
    claim = world.claim(ana, world.published_job(acme))
    world.work(ana, claim, "prep", 60)
    ana.post(f"/v1/claims/{claim['id']}/release", {})
    return claim


def decision(world: World, claim: Json, changed: Json) -> tuple[str, list[Any]]:
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


class TestPay:
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
        refused(mallory, reason, decision(world, ended, changed))

    def test_a_decision_on_a_live_claim(
        self, world: World, acme: Client, ana: Person, mallory: Connection
    ) -> None:
        live = world.claim(ana, world.published_job(acme))
        nothing = {"seconds": 0, "pay_minor": 0, "fee_minor": 0}
        refused(mallory, "pay_decision_seconds", decision(world, live, nothing))

    def test_a_second_decision(
        self, world: World, ended: Json, ravi: Person, mallory: Connection
    ) -> None:
        ravi.post(f"/v1/claims/{ended['id']}/pay")
        refused(mallory, "uq_pay_decision_claim_id_number", decision(world, ended, {}))

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
        """600 s of preparation and 2,400 s of performance; not paid even with its guard gone."""
        claim = world.claim(ana, world.published_job(acme))
        world.advance(3_001)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        end = "claimed_at + interval '3001 seconds'"
        long = (
            "INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at,"
            " heartbeat_at, ends_by, ended_at, ended_by) SELECT uuidv7(), id, performer_id,"
            f" 'perform', claimed_at, claimed_at, {end}, {end}, 'performer' FROM claim"
        )
        refused(mallory, "time_entry_cap", long)
        world.owner_sql("ALTER TABLE time_entry DISABLE TRIGGER capped")
        changed = {"seconds": 3_001, "pay_minor": 6_169, "fee_minor": 925}
        refused(mallory, "pay_decision_seconds", long, decision(world, claim, changed))


EARNING = (
    "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency, occurred_at)"
    " VALUES (%s, %s, %s, %s, 'USD', now())"
)
OPEN = (
    "INSERT INTO account (id, kind, owner_id, currency)"
    " SELECT account_id(%s, %s, 'USD'), %s, %s, 'USD' ON CONFLICT DO NOTHING"
)


@dataclass
class Forged:
    """An earning as the service would book it, but for what a story changes."""

    source_id: Any
    entries: list[tuple[str, Any, int]]
    kind: str = "claim_paid"
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    def statements(self) -> list[Statement]:
        source = "pay_decision" if self.kind == "claim_paid" else "audition"
        booked: list[Statement] = [(EARNING, [self.id, self.kind, source, self.source_id])]
        return [*booked, *self.booked(*self.entries)]

    def booked(self, *given: tuple[str, Any, int]) -> list[Statement]:
        opened = [(OPEN, [kind, owner, kind, owner]) for kind, owner, _ in given]
        return [*opened, owned_entries(self.id, *given)]


class TestEarnings:
    """A balanced transaction is not enough: somebody must have decided it, to the cent."""

    def of(self, world: World, claim: Json, **changed: Any) -> tuple[Forged, Statement]:
        """The right booking of the ended claim's minute, and its decision."""
        row = world.sql("SELECT * FROM claim WHERE id = %s", claim["id"])[0] | changed
        forged = Forged(
            uuid.uuid4(),
            [
                ("job_reserve", row["reservation_id"], 141),
                ("performer_payable", row["performer_id"], -123),
                ("platform_fees", None, -18),
            ],
        )
        named = {"id": forged.source_id, "ledger_transaction_id": forged.id}
        return forged, decision(world, claim, named)

    def test_what_the_service_books_is_taken(
        self, world: World, ended: Json, ana: Person, mallory: Connection
    ) -> None:
        forged, decided = self.of(world, ended)
        commit(mallory, *forged.statements(), decided)
        assert world.ledger("performer_payable", ana.id) == -123

    @pytest.mark.parametrize("kind", ["claim_paid", "audition_paid"])
    def test_out_of_nothing(self, ana: Person, mallory: Connection, kind: str) -> None:
        entries = [("platform_expense", None, 9_900), ("performer_payable", ana.id, -9_900)]
        refused(mallory, "ledger_earned", *Forged(uuid.uuid4(), entries, kind).statements())

    def test_a_second_time_for_the_same_minute(
        self, world: World, ended: Json, ravi: Person, mallory: Connection
    ) -> None:
        ravi.post(f"/v1/claims/{ended['id']}/pay")
        forged, _ = self.of(world, ended)
        forged.entries[0] = ("platform_expense", None, 141)
        again = {"id": forged.source_id, "number": 2, "ledger_transaction_id": forged.id}
        attack = decision(world, ended, again)
        refused(mallory, "ck_pay_decision_made_once", *forged.statements(), attack)

    def test_a_decision_that_names_another_booking(
        self, world: World, ended: Json, mallory: Connection
    ) -> None:
        forged, _ = self.of(world, ended)
        decided = decision(world, ended, {"id": forged.source_id})
        refused(mallory, "ledger_earned", *forged.statements(), decided)

    @pytest.mark.parametrize(
        "payer",
        ["platform_expense", "client_wallet", "another_role"],
    )
    def test_at_the_cost_of_somebody_else(
        self, world: World, acme: Client, ended: Json, mallory: Connection, payer: str
    ) -> None:
        another = world.value("SELECT reservation_id FROM role WHERE state = 'open' LIMIT 1")
        forged, decided = self.of(world, ended)
        forged.entries[0] = {
            "platform_expense": ("platform_expense", None, 141),
            "client_wallet": ("client_wallet", acme.id, 141),
            "another_role": ("job_reserve", another, 141),
        }[payer]
        refused(mallory, "ledger_earned", *forged.statements(), decided)

    def test_to_somebody_else(self, world: World, ended: Json, mallory: Connection) -> None:
        bea = world.performer("Bea")
        forged, decided = self.of(world, ended, performer_id=bea.id)
        refused(mallory, "ledger_earned", *forged.statements(), decided)

    def test_the_fee_as_well(self, world: World, ended: Json, mallory: Connection) -> None:
        forged, decided = self.of(world, ended)
        _, (_, ana, _), _ = forged.entries
        forged.entries[1:] = [("performer_payable", ana, -141)]
        refused(mallory, "ledger_earned", *forged.statements(), decided)

    def test_twice_in_one_booking_that_was_checked_already(
        self, world: World, ended: Json, ana: Person, mallory: Connection
    ) -> None:
        forged, decided = self.of(world, ended)
        again = [("platform_expense", None, 123), ("performer_payable", ana.id, -123)]
        refused(
            mallory,
            "ledger_entries_at_once",
            *forged.statements(),
            decided,
            "SET CONSTRAINTS ALL IMMEDIATE",
            "SET CONSTRAINTS ALL DEFERRED",
            *forged.booked(*again),
        )


class TestAuditions:
    @pytest.fixture
    def offered(self, world: World, operator: Person) -> Person:
        """An applicant with an audition at 36.00 an hour: a cent a second."""
        applicant = world.performer("Bea", vetted=False)
        rate = {"currency": "USD", "rate_minor_per_hour": 3_600, "reason": "what an hour is worth"}
        operator.post("/v1/audition-rates", rate)
        offer = {"brief": "Two minutes.", "currency": "USD", "seconds_cap": 600}
        operator.post(f"/v1/performers/{applicant.id}/auditions", offer)
        return applicant

    ANOTHER = (
        "INSERT INTO audition (id, performer_id, state, brief, rate_id, lineage_id, currency,"
        " rate_minor_per_hour, seconds_cap, started_at, seen_at, worked_seconds)"
        " SELECT uuidv7(), %s, 'offered', 'mine', rate.id, rate.lineage_id, rate.currency,"
        " rate.rate_minor_per_hour, {cap}, {began}, {seen}, {worked}"
        " FROM rate JOIN rate_lineage ON rate_lineage.id = lineage_id"
        " WHERE elicitation = '{elicitation}' ORDER BY number LIMIT 1"
    )
    PLAIN: ClassVar[Json] = {
        "cap": 600,
        "began": "NULL",
        "seen": "NULL",
        "worked": 0,
        "elicitation": "audition",
    }

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"began": "now() - interval '1 hour'", "seen": "now()"}, "audition_offered"),
            (
                {"began": "now() - interval '1 hour'", "seen": "now()", "worked": 3_600},
                "audition_offered",
            ),
            ({"elicitation": "improv_solo"}, "audition_offered"),
            ({"cap": 86_400}, "ck_audition_cap_sensible"),
        ],
        ids=str,
    )
    def test_an_offer_that_is_none(
        self,
        world: World,
        acme: Client,
        offered: Person,
        mallory: Connection,
        changed: Json,
        reason: str,
    ) -> None:
        world.published_job(acme)
        cleo = world.performer("Cleo")
        refused(mallory, reason, (self.ANOTHER.format(**self.PLAIN | changed), [cleo.id]))
        commit(mallory, (self.ANOTHER.format(**self.PLAIN), [cleo.id]))

    def test_a_rate_that_is_over(
        self, world: World, offered: Person, operator: Person, mallory: Connection
    ) -> None:
        rate = {"currency": "USD", "rate_minor_per_hour": 4_000, "reason": "it is worth more"}
        operator.post("/v1/audition-rates", rate)
        world.advance(HOUR)
        attack = (self.ANOTHER.format(**self.PLAIN), [world.performer("Cleo").id])
        refused(mallory, "audition_offered", attack)

    def test_time_that_did_not_pass(
        self, world: World, offered: Person, mallory: Connection
    ) -> None:
        begun = "UPDATE audition SET state = 'started', started_at = {0}, seen_at = {0}"
        past = "date_trunc('second', marketplace_now() - interval '1 hour')"
        refused(mallory, "audition_time", begun.format(past))
        world.advance(HOUR)
        offered.post("/v1/audition/start")
        world.advance(60)
        second = "date_trunc('second', marketplace_now())"
        for seen, worked in (
            (second, 120),  # more than passed since
            ("seen_at", 1),
            (f"{second} + interval '1 hour'", 60),  # not yet
            ("NULL", 1),
        ):
            attack = f"UPDATE audition SET seen_at = {seen}, worked_seconds = {worked}"
            refused(mallory, "audition_time", attack)
        refused(mallory, "audition_time", "UPDATE audition SET ended_at = now() + interval '9 d'")
        commit(mallory, f"UPDATE audition SET seen_at = {second}, worked_seconds = 60")
        refused(mallory, "audition_time", "UPDATE audition SET worked_seconds = 30")

    def test_what_is_paid_stays(self, world: World, offered: Person, mallory: Connection) -> None:
        offered.post("/v1/audition/start")
        world.advance(HOUR)
        world.sql(
            "UPDATE audition SET seen_at = started_at + interval '700 s', worked_seconds = 700,"
            " ended_at = started_at + interval '700 s', paid_seconds = 600, pay_minor = 600"
        )
        for change in ("worked_seconds = 3600, seen_at = now()", "recording_id = uuidv7()"):
            refused(mallory, "audition_paid", f"UPDATE audition SET {change}")


@dataclass(frozen=True)
class Drafted:
    """Ana and Bea are each owed 1.23; both are in a drafted run."""

    acme: Client
    ravi: Person
    run: Json


def draft(world: World) -> Drafted:
    acme, ravi = world.client("Acme Voice Lab", deposit_minor=100_000), world.reviewer("Ravi")
    job = world.published_job(acme, tasks=2)
    for name in ("Ana", "Bea"):
        performer = world.performer(name, onboarded=True)
        world.accepted_claim(performer, job, ravi, seconds=60)
    run: Json = world.finance("Finn").post("/v1/payout-runs", {"currency": "USD"})
    assert run["payouts"] == 2
    return Drafted(acme, ravi, run)


@pytest.fixture(scope="session")
def after_drafting(make_scene: Callable[[Callable[[World], Drafted]], Scene]) -> Scene:
    return make_scene(draft)


class TestPayoutLines:
    @pytest.fixture
    def scene(self, after_drafting: Scene) -> Scene:
        return after_drafting

    @pytest.fixture
    def cast(self, world: World, scene: Scene) -> Drafted:
        found: Drafted = scene.cast_in(world)
        return found

    @pytest.fixture
    def acme(self, cast: Drafted) -> Client:
        return cast.acme

    @pytest.fixture
    def ravi(self, cast: Drafted) -> Person:
        return cast.ravi

    @pytest.fixture
    def drafted(self, cast: Drafted) -> Json:
        return cast.run

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

    def test_an_earning_that_nobody_decided(
        self, world: World, drafted: Json, mallory: Connection
    ) -> None:
        """Refused at once, before the ledger's own check at the commit."""
        (payout,) = world.sql("SELECT * FROM payout LIMIT 1")
        ana = payout["performer_id"]
        entries = [("platform_expense", None, 123), ("performer_payable", ana, -123)]
        forged = Forged(uuid.uuid4(), entries)
        line = self.LINE + (
            "SELECT uuidv7(), %s, id, 123 FROM ledger_entry"
            " WHERE transaction_id = %s AND amount_minor < 0"
        )
        attack = (line, [payout["id"], forged.id])
        refused(mallory, "payout_line_earning", *forged.statements(), attack)

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
        params=[
            "clock",
            "rate",
            "rate_lineage",
            "account",
            "allowed_move",
            "pay_decision",
            "time_entry",
            "claim",
        ]
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

    def test_a_cheaper_kind_of_job_is_still_a_cut(
        self, world: World, acme: Client, mallory: Connection, shadow: str
    ) -> None:
        world.published_job(acme)
        lower = world.job(acme, skills=[])
        first = (
            "INSERT INTO public.rate (id, lineage_id, currency, rate_minor_per_hour, reason,"
            " announced_by) VALUES (uuidv7(), %s, 'USD', 7399, 'mine', uuidv7())"
        )
        refused(mallory, "rate_below_alike", (first, [lower["lineage_id"]]))

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
            entries(transaction, (wallet, 100_001), (cash, -100_001)),
        )
