"""What the application's own login tries with withdrawals and the database refuses."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.ledger.test_attacks import DENIED, LEVELS, Connection, commit, owned_entries, refused
from tests.world import Json, World

MOVE = "UPDATE withdrawal SET state = '{}'".format
# Booked for a withdrawal; {} are its kind, its amount, and the two accounts.
BOOK = """
    WITH header AS (
        INSERT INTO ledger_transaction
            (id, kind, source_type, source_id, currency, occurred_at, accounting_date)
        SELECT uuidv7(), '{kind}', 'withdrawal', {source}, 'USD', now(), now()::date
        FROM withdrawal RETURNING id
    ), opened AS (
        INSERT INTO account (id, kind, owner_id, currency)
        SELECT account_id(kind, NULL, 'USD'), kind, NULL, 'USD'
        FROM (VALUES ('bank_in_transit'), ('platform_capital'), ('stripe_available')) AS known (kind)
        ON CONFLICT DO NOTHING
    ), named AS (
        SELECT id FROM header
    )
    INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)
    SELECT id, account_id('{debited}', NULL, 'USD'), 'USD', {amount} FROM named
    UNION ALL
    SELECT id, account_id('{credited}', NULL, 'USD'), 'USD', -{amount} FROM named
"""
NAMED = "(SELECT id FROM ledger_transaction WHERE kind = '{}')".format


def book(
    kind: str,
    amount: int = 200_000,
    debited: str = "platform_capital",
    credited: str = "bank_in_transit",
    source: str = "id",
) -> str:
    return BOOK.format(kind=kind, amount=amount, debited=debited, credited=credited, source=source)


# In another currency than its wallet's, so that the platform's own money is what is credited.
PAID = (
    "INSERT INTO deposit (id, client_id, currency, amount_minor, idempotency_key, success_url, state,"
    " fee_minor, foreign_line_id) VALUES (%s, %s, 'USD', 300001, 'mine', '', 'requested', 0, 'txn_x')"
)
SENT = "UPDATE withdrawal SET state = 'sending', sent_at = now(), sent_transaction_id = " + NAMED(
    "withdrawal_sent"
)


@pytest.fixture
def mallory(world: World, approved: Json) -> Iterator[Connection]:
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


def test_what_the_service_would_write_is_taken(mallory: Connection) -> None:
    commit(mallory, book("withdrawal_sent"), SENT)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ((MOVE("sending"),), "ck_withdrawal_sent_as_booked"),
        ((MOVE("arrived"),), "ck_withdrawal_concluded_as_booked"),
        ((MOVE("requested"),), "ck_withdrawal_approved_by_somebody"),
        (("UPDATE withdrawal SET amount_minor = 1",), DENIED),
        (("UPDATE withdrawal SET requested_by = approved_by",), DENIED),
        (("UPDATE withdrawal SET currency = 'EUR'",), DENIED),
        (("UPDATE withdrawal SET approved_by = requested_by",), "set_once"),
        (("DELETE FROM withdrawal",), DENIED),
        (("TRUNCATE withdrawal",), DENIED),
        # Booked, but no withdrawal says so.
        ((book("withdrawal_sent"),), "withdrawal_booked"),
        ((book("withdrawal_sent", source="uuidv7()"),), "withdrawal_booked"),
        ((book("withdrawal_returned"),), "withdrawal_booked"),
        # Said, but something else is booked.
        ((book("withdrawal_sent", amount=199_999), SENT), "withdrawal_booked"),
        ((book("withdrawal_sent", credited="stripe_available"), SENT), "withdrawal_booked"),
        (
            (
                (
                    "UPDATE withdrawal SET state = 'sending', sent_at = now(), sent_transaction_id ="
                    " (SELECT id FROM ledger_transaction WHERE kind = 'topup_succeeded')"
                ),
            ),
            "withdrawal_booked",
        ),
        # Refused without its money, and twice.
        (
            (
                book("withdrawal_sent"),
                SENT,
                (
                    "UPDATE withdrawal SET state = 'refused', conclusion_transaction_id ="
                    " sent_transaction_id"
                ),
            ),
            "withdrawal_booked",
        ),
        (
            (
                book("withdrawal_sent"),
                SENT,
                "UPDATE withdrawal SET sent_transaction_id = NULL, sent_at = NULL",
            ),
            "set_once",
        ),
        (
            (
                book("withdrawal_sent"),
                SENT,
                "UPDATE withdrawal SET state = 'in_transit', stripe_payout_id = 'po_none'",
            ),
            "ck_withdrawal_concluded_as_booked",
        ),
    ],
    ids=str,
)
def test_refused(mallory: Connection, attack: tuple[str, ...], named: str) -> None:
    refused(mallory, named, *attack)


def test_more_than_is_the_platforms_own(world: World, mallory: Connection) -> None:
    """What was asked for is owed to somebody by now."""
    client, deposit = world.client("Acme Voice Lab"), uuid.uuid4()
    commit(
        mallory,
        (
            (
                "INSERT INTO account (id, kind, owner_id, currency) SELECT account_id('client_wallet',"
                " %s, 'USD'), 'client_wallet', %s, 'USD'"
            ),
            [client.id, client.id],
        ),
        (PAID, [deposit, client.id]),
        *(f"UPDATE deposit SET state = '{state}'" for state in ("awaiting_payment", "credited")),
        (
            (
                "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
                " occurred_at) VALUES (%s, 'deposit_credited', 'deposit', %s, 'USD', now())"
            ),
            [deposit, deposit],
        ),
        owned_entries(
            deposit,
            ("platform_capital", None, 300_001),
            ("client_wallet", client.id, -300_001),
        ),
    )
    refused(mallory, "withdrawal_covered", book("withdrawal_sent"), SENT)


@pytest.mark.parametrize("level", LEVELS)
def test_two_that_do_not_see_each_other(
    world: World, mallory: Connection, level: psycopg.IsolationLevel
) -> None:
    """Each covered by what it sees, and both of them not: an older look at the ledger counts for
    nothing.
    """
    with world.connection(actor="mallory") as other:
        for each in (mallory, other):
            each.isolation_level = level
            each.execute("SELECT FROM ledger_entry")
        refused(other, "read_committed", book("withdrawal_sent"), SENT)
        refused(mallory, "read_committed", SENT)


def test_more_than_it_says_after_it_was_checked(mallory: Connection) -> None:
    """Both checks passed; then a wallet is filled in the same booking."""
    refused(
        mallory,
        "ledger_entries_at_once",
        book("withdrawal_sent"),
        SENT,
        "SET CONSTRAINTS ALL IMMEDIATE",
        "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
        f" SELECT {NAMED('withdrawal_sent')}, account_id(kind, NULL, 'USD'), 'USD', minor"
        " FROM (VALUES ('stripe_available', 70000), ('platform_capital', -70000))"
        "  AS more (kind, minor)",
    )


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (
            (
                "INSERT INTO withdrawal (id, currency, amount_minor, reason, requested_by, state)"
                " SELECT uuidv7(), 'USD', 5, 'mine', requested_by, 'approved' FROM withdrawal"
            ),
            "ck_withdrawal_approved_by_somebody",
        ),
        (
            (
                "INSERT INTO withdrawal (id, currency, amount_minor, reason, requested_by, state,"
                "  approved_by, approved_at)"
                " SELECT uuidv7(), 'USD', 5, 'mine', requested_by, 'approved', approved_by, now()"
                " FROM withdrawal"
            ),
            "move_not_allowed",
        ),
        (
            (
                "INSERT INTO withdrawal (id, currency, amount_minor, reason, requested_by, state)"
                " SELECT uuidv7(), 'USD', 0, 'mine', requested_by, 'requested' FROM withdrawal"
            ),
            "ck_withdrawal_positive",
        ),
    ],
)
def test_one_born_approved(mallory: Connection, attack: str, named: str) -> None:
    refused(mallory, named, attack)
