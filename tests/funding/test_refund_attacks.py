"""What the application's own login tries with refunds and the database refuses. Every attack commits."""

import uuid
from collections.abc import Iterator

import pytest

from tests.funding.test_refunds import PATH, asked
from tests.ledger.test_attacks import DENIED, Connection, entries, refused
from tests.world import Client, Json, World

HEADER = (
    "INSERT INTO ledger_transaction"
    " (id, kind, source_type, source_id, currency, occurred_at, accounting_date)"
    " VALUES (%s, %s, 'refund', %s, 'USD', now(), now()::date)"
)
REFUND = (
    "INSERT INTO refund (id, request_id, client_id, deposit_id, currency, amount_minor,"
    " requested_by, idempotency_key, state, sent_transaction_id)"
    " SELECT %s, %s, coalesce(%s, client_id), id, currency, %s, client_id, %s, %s, %s FROM deposit"
    " ORDER BY id LIMIT 1"
)
WALLET_EMPTY = "ck_account_balance_covered"
LINE = (
    "INSERT INTO booked_balance_transaction (id, net_minor, currency, ledger_transaction_id)"
    " VALUES (%s, 1, 'USD', %s)"
)


@pytest.fixture
def acme(settled: Client) -> Client:
    return settled


@pytest.fixture
def mallory(world: World, acme: Client) -> Iterator[Connection]:
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


def accounts(acme: Client) -> dict[str, uuid.UUID]:
    def account(kind: str, owner: str | None = None) -> uuid.UUID:
        found: uuid.UUID = acme.world.value("SELECT account_id(%s, %s, 'USD')", kind, owner)
        return found

    opened = {
        "wallet": account("client_wallet", acme.id),
        "cash": account("stripe_available"),
        "in_flight": account("refunds_in_flight"),
        "capital": account("platform_capital"),
    }
    acme.world.sql(
        "INSERT INTO account (id, kind, currency) VALUES (%s, 'refunds_in_flight', 'USD')"
        " ON CONFLICT DO NOTHING",
        opened["in_flight"],
    )
    return opened


def booking(
    kind: str, source: uuid.UUID, debited: uuid.UUID, credited: uuid.UUID, minor: int
) -> tuple[uuid.UUID, list[tuple[str, list[object]]]]:
    made = uuid.uuid4()
    return made, [
        (HEADER, [made, kind, source]),
        entries(made, (debited, minor), (credited, -minor)),
    ]


def new(
    refund: uuid.UUID,
    sent: uuid.UUID,
    minor: int,
    *,
    client: uuid.UUID | None = None,
    key: str = "",
    state: str = "sending",
) -> tuple[str, list[object]]:
    key = key or f"refund-{refund}"
    return REFUND, [refund, uuid.uuid4(), client, minor, key, state, sent]


class TestMadeUp:
    def test_a_refund_that_is_booked_as_it_should_is_taken(
        self, acme: Client, mallory: Connection
    ) -> None:
        refund, at = uuid.uuid4(), accounts(acme)
        sent, booked = booking("refund_sent", refund, at["wallet"], at["in_flight"], 5)
        for text, values in [*booked, new(refund, sent, 5)]:
            mallory.execute(text.encode(), values)
        mallory.commit()

    def test_money_leaves_a_wallet_for_no_refund(self, acme: Client, mallory: Connection) -> None:
        at = accounts(acme)
        _, booked = booking("refund_sent", uuid.uuid4(), at["wallet"], at["in_flight"], 5)
        refused(mallory, "ledger_refunded", *booked)

    @pytest.mark.parametrize(
        ("debited", "credited", "booked", "says"),
        [
            ("wallet", "in_flight", 5, 4),
            ("wallet", "capital", 5, 5),
            ("cash", "in_flight", 5, 5),
            ("in_flight", "wallet", 5, 5),
        ],
    )
    def test_what_is_booked_is_not_what_the_row_says(
        self,
        acme: Client,
        mallory: Connection,
        debited: str,
        credited: str,
        booked: int,
        says: int,
    ) -> None:
        refund, at = uuid.uuid4(), accounts(acme)
        sent, made = booking("refund_sent", refund, at[debited], at[credited], booked)
        refused(mallory, "ledger_refunded", *made, new(refund, sent, says))

    def test_a_refund_without_a_booking(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        refund = uuid.uuid4()
        another = world.value("SELECT id FROM ledger_transaction WHERE kind = 'topup_succeeded'")
        refused(mallory, "refund_booked", new(refund, another, 5))
        refused(mallory, "fk_refund_sent_transaction_id", new(refund, uuid.uuid4(), 5))

    def test_more_than_the_deposit(self, world: World, acme: Client, mallory: Connection) -> None:
        at = accounts(acme)
        world.deposit(acme, 10_000)
        for minor, reason in ((100_001, "refund_within_deposit"), (110_001, WALLET_EMPTY)):
            refund = uuid.uuid4()
            sent, booked = booking("refund_sent", refund, at["wallet"], at["in_flight"], minor)
            refused(mallory, reason, *booked, new(refund, sent, minor))

    def test_of_another_clients_deposit(
        self, world: World, acme: Client, mallory: Connection
    ) -> None:
        refund, at, other = uuid.uuid4(), accounts(acme), uuid.UUID(world.client("Other").id)
        sent, booked = booking("refund_sent", refund, at["wallet"], at["in_flight"], 5)
        refused(mallory, "fk_refund_deposit", *booked, new(refund, sent, 5, client=other))

    def test_under_another_key_or_in_another_state(self, acme: Client, mallory: Connection) -> None:
        refund, at = uuid.uuid4(), accounts(acme)
        sent, booked = booking("refund_sent", refund, at["wallet"], at["in_flight"], 5)
        another = new(refund, sent, 5, key="refund-of-somebody")
        refused(mallory, "ck_refund_key_of_its_own", *booked, another)
        refused(mallory, "move_not_allowed", *booked, new(refund, sent, 5, state="unknown"))
        refused(mallory, "ck_refund_positive", *booked, new(refund, sent, -5))


class TestOneThatIsThere:
    @pytest.fixture
    def refund(self, world: World, acme: Client) -> Json:
        asked(acme)
        world.sweep("refunds")
        (found,) = world.sql("SELECT * FROM refund")
        return found

    @pytest.mark.parametrize(
        "change",
        [
            "amount_minor = 1",
            "client_id = gen_random_uuid()",
            "deposit_id = gen_random_uuid()",
            "currency = 'EUR'",
            "idempotency_key = 'another'",
            "requested_by = gen_random_uuid()",
            "requested_at = now()",
            "sent_transaction_id = gen_random_uuid()",
        ],
    )
    def test_what_was_asked_for_stays(self, refund: Json, mallory: Connection, change: str) -> None:
        refused(mallory, DENIED, f"UPDATE refund SET {change}")

    def test_it_is_not_removed(self, refund: Json, mallory: Connection) -> None:
        for attack in (
            "DELETE FROM refund",
            "TRUNCATE refund",
            "ALTER TABLE refund DISABLE TRIGGER ALL",
        ):
            refused(mallory, DENIED, attack)

    @pytest.mark.parametrize("column", ["stripe_refund_id", "confirmed_transaction_id"])
    def test_what_is_known_of_it_stays(
        self, refund: Json, mallory: Connection, column: str
    ) -> None:
        other = "'re_other'" if column == "stripe_refund_id" else "sent_transaction_id"
        refused(mallory, "set_once", f"UPDATE refund SET {column} = {other}")

    def test_its_fee_is_what_is_booked(self, refund: Json, mallory: Connection) -> None:
        refused(mallory, "refund_booked", "UPDATE refund SET fee_minor = 1")

    def test_who_asked_for_it_does_not_decide(self, refund: Json, mallory: Connection) -> None:
        refused(
            mallory, "ck_refund_decided_by_another", "UPDATE refund SET decided_by = requested_by"
        )

    def test_it_moves_only_as_it_may(self, refund: Json, mallory: Connection) -> None:
        for state, named in (
            ("sending", "ck_refund_at_stripe"),
            ("unknown", "ck_refund_at_stripe"),
            ("pending", "move_not_allowed"),
        ):
            attack = f"UPDATE refund SET state = '{state}', stripe_refund_id = stripe_refund_id"
            refused(mallory, named, attack)
            assert mallory.execute(b"SELECT state FROM refund").fetchall() == [
                {"state": "succeeded"}
            ]

    def test_it_does_not_come_back_without_stripes_line(
        self, acme: Client, refund: Json, mallory: Connection
    ) -> None:
        at = accounts(acme)
        returned = "UPDATE refund SET state = 'returned', ended_transaction_id = %s"
        made, booked = booking("refund_returned", refund["id"], at["cash"], at["wallet"], 25_000)
        refused(mallory, "refund_booked", *booked, (returned, [made]))
        refused(mallory, "ledger_refunded", *booked, (LINE, ["txn_made_up", made]))
        refused(mallory, "ck_refund_in_the_wallet_again", "UPDATE refund SET state = 'returned'")
        made, booked = booking(
            "refund_refused", refund["id"], at["in_flight"], at["wallet"], 25_000
        )
        refused_ = "UPDATE refund SET state = 'refused', ended_transaction_id = %s"
        refused(mallory, "ck_refund_money_moved", *booked, (refused_, [made]))
        assert acme.wallet_minor == 75_000

    def test_it_comes_back_once(self, world: World, acme: Client, mallory: Connection) -> None:
        world.stripe.fault("balance_insufficient", path=PATH)
        asked(acme)
        world.sweep("refunds")
        at = accounts(acme)
        (row,) = world.sql("SELECT id FROM refund")
        _, again = booking("refund_refused", row["id"], at["in_flight"], at["wallet"], 25_000)
        refused(mallory, "uq_ledger_transaction_event", *again)
        refused(mallory, "final", "UPDATE refund SET state = 'pending'")
        assert acme.wallet_minor == 100_000
