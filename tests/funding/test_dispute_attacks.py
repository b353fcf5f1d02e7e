"""What the application's own login tries with disputes and debts and the database refuses."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.funding.test_disputes import becomes, opened, told
from tests.ledger.test_attacks import DENIED, Connection, entries, refused
from tests.world import Client, Person, World

HEADER = (
    "INSERT INTO ledger_transaction"
    " (id, kind, source_type, source_id, currency, occurred_at, accounting_date)"
    " VALUES (%s, %s, %s, %s, 'USD', now(), now()::date)"
)
DECISION = (
    "INSERT INTO client_debt_decision (id, client_id, currency, amount_minor, remedy, reason, state,"
    " proposed_by) VALUES (%s, %s, 'USD', %s, 'write_off', 'mine', %s, %s)"
)


@pytest.fixture
def acme(world: World, settled: Client, finn: Person) -> Client:
    world.capital(finn, 200_000)
    opened(world, settled, amount=40_000)
    return settled


@pytest.fixture
def mallory(world: World, acme: Client) -> Iterator[Connection]:
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


def booking(
    world: World, kind: str, source_type: str, source: object, *given: tuple[str, str | None, int]
) -> tuple[uuid.UUID, list[tuple[str, list[object]]]]:
    made = uuid.uuid4()
    amounts = []
    for account, owner, minor in given:
        id_ = world.value("SELECT account_id(%s, %s, 'USD')", account, owner)
        world.sql(
            "INSERT INTO account (id, kind, owner_id, currency) VALUES (%s, %s, %s, 'USD')"
            " ON CONFLICT DO NOTHING",
            *(id_, account, owner),
        )
        amounts.append((id_, minor))
    return made, [(HEADER, [made, kind, source_type, source]), entries(made, *amounts)]


class TestBookings:
    def test_a_wallet_is_not_emptied_for_no_dispute(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        for kind in ("dispute_opened", "dispute_won", "dispute_lost"):
            _, booked = booking(
                world,
                *(kind, "dispute", uuid.uuid4()),
                ("client_wallet", acme.id, 5),
                ("disputes_receivable", None, -5),
            )
            refused(mallory, "ledger_disputed", *booked)

    def test_a_dispute_is_not_won_without_stripes_line(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        source = world.value("SELECT id FROM dispute")
        made, booked = booking(
            world,
            *("dispute_won", "dispute", source),
            ("stripe_available", None, 40_000),
            ("disputes_receivable", None, -40_000),
            ("wallet_disputed", acme.id, 40_000),
            ("client_wallet", acme.id, -40_000),
        )
        won = "UPDATE dispute SET state = 'won', fee_returned_minor = 0, ended_transaction_id = %s"
        refused(mallory, "dispute_booked", *booked, (won, [made]))
        refused(mallory, "ledger_disputed", *booked)
        assert acme.wallet_minor == 60_000

    def test_nobody_writes_off_what_is_not_owed(
        self, world: World, acme: Client, finn: Person, fay: Person, mallory: Connection
    ) -> None:
        decision = uuid.uuid4()
        made, booked = booking(
            world,
            *("client_debt_written_off", "client_debt_decision", decision),
            ("bad_debt", None, 5),
            ("client_receivable", acme.id, -5),
        )
        proposed = (DECISION, [decision, acme.id, 5, "proposed", finn.id])
        confirmed = (
            "UPDATE client_debt_decision SET state = 'confirmed', decided_by = %s,"
            " ledger_transaction_id = %s"
        )
        refused(mallory, "client_debt_owed", proposed, *booked, (confirmed, [fay.id, made]))
        refused(mallory, "ledger_disputed", proposed, *booked)
        refused(
            mallory,
            "ck_client_debt_decision_second_person",
            proposed,
            *booked,
            (confirmed, [finn.id, made]),
        )
        refused(
            mallory,
            "ck_client_debt_decision_confirmed_booked",
            proposed,
            (confirmed, [fay.id, None]),
        )

    def test_a_decision_begins_as_a_proposal(
        self, acme: Client, finn: Person, mallory: Connection
    ) -> None:
        for state in ("confirmed", "rejected"):
            with pytest.raises(psycopg.errors.CheckViolation):
                mallory.execute(DECISION.encode(), [uuid.uuid4(), acme.id, 5, state, finn.id])
            mallory.rollback()


class TestRows:
    @pytest.mark.parametrize(
        "change",
        [
            "amount_minor = 1",
            "client_id = gen_random_uuid()",
            "deposit_id = gen_random_uuid()",
            "stripe_dispute_id = 'du_other'",
            "currency = 'EUR'",
            "opened_at = now()",
        ],
    )
    def test_what_stripe_said_stays(self, acme: Client, mallory: Connection, change: str) -> None:
        refused(mallory, DENIED, f"UPDATE dispute SET {change}")

    @pytest.mark.parametrize("column", ["withdrawn_minor", "fee_minor", "held_minor"])
    def test_what_was_booked_of_it_stays(
        self, acme: Client, mallory: Connection, column: str
    ) -> None:
        refused(mallory, "set_once", f"UPDATE dispute SET {column} = {column} - 1")
        refused(mallory, "set_once", f"UPDATE dispute SET {column} = NULL")

    def test_nothing_is_removed(self, acme: Client, mallory: Connection) -> None:
        for table in ("dispute", "client_debt_decision"):
            for attack in ("DELETE FROM {}", "TRUNCATE {}", "ALTER TABLE {} DISABLE TRIGGER ALL"):
                refused(mallory, DENIED, attack.format(table))
        for column in ("amount_minor", "proposed_by", "client_id", "remedy"):
            refused(mallory, DENIED, f"UPDATE client_debt_decision SET {column} = {column}")

    def test_it_does_not_end_by_itself(self, acme: Client, mallory: Connection) -> None:
        refused(
            mallory,
            "ck_dispute_ended_booked",
            "UPDATE dispute SET state = 'lost', from_reserves_minor = 0",
        )
        refused(mallory, "move_not_allowed", "UPDATE dispute SET state = 'inquiry'")

    def test_one_that_ended_stays_as_it_is(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        becomes(world, world.value("SELECT stripe_dispute_id FROM dispute"), "lost")
        told(world)
        refused(mallory, "final", "UPDATE dispute SET state_reason = 'mine'")

    def test_no_refund_while_a_payment_is_disputed(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        refund = uuid.uuid4()
        made, booked = booking(
            world,
            *("refund_sent", "refund", refund),
            ("client_wallet", acme.id, 5),
            ("refunds_in_flight", None, -5),
        )
        attack = (
            "INSERT INTO refund (id, request_id, client_id, deposit_id, currency, amount_minor,"
            " requested_by, idempotency_key, state, sent_transaction_id)"
            " SELECT %s, %s, client_id, id, currency, 5, client_id, %s, 'sending', %s FROM deposit"
        )
        values = [refund, uuid.uuid4(), f"refund-{refund}", made]
        refused(mallory, "refund_while_disputed", *booked, (attack, values))


class TestInbox:
    def test_an_event_is_not_rewritten(self, acme: Client, mallory: Connection) -> None:
        for column in ("type", "object_id", "payload", "created", "account"):
            refused(mallory, DENIED, f"UPDATE stripe_event SET {column} = {column}")
        for attack in ("DELETE FROM stripe_event", "TRUNCATE stripe_event"):
            refused(mallory, DENIED, attack)

    def test_one_that_was_handled_is_not_handled_again(
        self, acme: Client, mallory: Connection
    ) -> None:
        again = "UPDATE stripe_event SET handled_at = NULL WHERE type LIKE 'charge.dispute%'"
        refused(mallory, "final", again)

    def test_it_is_stored_once(self, acme: Client, mallory: Connection) -> None:
        again = (
            "INSERT INTO stripe_event (id, type, object_id, created, payload, tries)"
            " SELECT id, type, object_id, created, payload, 0 FROM stripe_event LIMIT 1"
        )
        refused(mallory, "pk_stripe_event", again)
