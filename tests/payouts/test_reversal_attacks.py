"""What the application's own login tries with reversals, and the database refuses."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.ledger.test_attacks import DENIED, Connection, owned_entries, refused
from tests.payouts.conftest import ask_for, returned
from tests.world import Json, Person, World


@pytest.fixture
def mallory(world: World) -> Iterator[Connection]:
    """Somebody who has the application's login."""
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


INSERT = (
    "INSERT INTO transfer_reversal (id, payout_id, transfer_id, currency, amount_minor, cause,"
    " reason, state, asked_by, asked_at{more}) SELECT uuidv7(), payout.id, {transfer}, {currency},"
    " {amount}, 'fraud', 'no reason', '{state}', {asker}, now(){values} FROM payout"
)
PLAIN = {
    "more": "",
    "values": "",
    "transfer": "payout.transfer_id",
    "currency": "payout.currency",
    "amount": "1",
    "state": "asked",
    "asker": "(SELECT approved_by FROM payout_run)",
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"amount": "124"}, "transfer_reversal_fits"),
        ({"amount": "0"}, "ck_transfer_reversal_positive"),
        ({"transfer": "'tr_other'"}, "transfer_reversal_fits"),
        ({"currency": "'EUR'"}, "transfer_reversal_fits"),
        ({"asker": "payout.performer_id"}, "transfer_reversal_fits"),
        ({"asker": "NULL"}, "ck_transfer_reversal_asked_by_somebody"),
        ({"state": "approved"}, "ck_transfer_reversal_decided_by_somebody"),
        ({"state": "reversed"}, "ck_transfer_reversal_booked_as_stripe_has_it"),
    ],
)
def test_a_reversal_that_nobody_may_ask_for(
    mallory: Connection, paid: Json, changed: dict[str, str], named: str
) -> None:
    refused(mallory, named, INSERT.format(**(PLAIN | changed)))


def test_born_approved_by_two(mallory: Connection, finn: Person, fay: Person, paid: Json) -> None:
    """Two names are not enough: it is asked for first."""
    born = INSERT.format(
        **PLAIN
        | {
            "state": "approved",
            "more": ", decided_by, decided_at",
            "values": f", '{finn.id}', now()",
        }
    )
    refused(mallory, "move_not_allowed", born)


def approved_by(person: str) -> str:
    return (
        f"UPDATE transfer_reversal SET state = 'approved', decided_by = {person},"
        " decided_at = now(), due_at = now()"
    )


def test_approved_by_who_asked_or_who_is_paid(
    mallory: Connection, finn: Person, paid: Json
) -> None:
    ask_for(finn, paid)
    refused(mallory, "ck_transfer_reversal_second_person", approved_by("asked_by"))
    refused(mallory, "transfer_reversal_fits", approved_by("(SELECT performer_id FROM payout)"))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("SET amount_minor = 1", DENIED),
        ("SET payout_id = payout_id", DENIED),
        ("SET cause = 'fraud'", "transfer_reversal_state_proven"),
        ("SET reason = 'another one'", "transfer_reversal_state_proven"),
        ("SET asked_by = decided_by, decided_by = asked_by", "transfer_reversal_state_proven"),
        ("SET state = 'reversed'", "ck_transfer_reversal_booked_as_stripe_has_it"),
        ("SET state = 'sending'", "transfer_reversal_fits"),
        (
            (
                "SET state = 'sending', idempotency_key = 'fresh', committed_at = now(),"
                " request = jsonb_build_object('transfer_id', transfer_id,"
                " 'amount_minor', amount_minor, 'metadata', jsonb_build_object('reversal_id', id))"
            ),
            "transfer_reversal_fits",
        ),
        (
            (
                "SET state = 'sending', idempotency_key = 'reversal-' || id, committed_at = now(),"
                " request = jsonb_build_object('transfer_id', transfer_id,"
                " 'amount_minor', 124, 'metadata', jsonb_build_object('reversal_id', id))"
            ),
            "transfer_reversal_fits",
        ),
        ("SET decided_by = NULL, decided_at = NULL", "set_once"),
    ],
)
def test_an_approved_one_is_frozen(
    mallory: Connection, finn: Person, fay: Person, paid: Json, attack: str, named: str
) -> None:
    fay.post(f"/v1/reversals/{ask_for(finn, paid)['id']}/approve")
    refused(mallory, named, f"UPDATE transfer_reversal {attack}")


def test_one_that_is_over_is_final(
    mallory: Connection, world: World, finn: Person, fay: Person, paid: Json
) -> None:
    returned(world, finn, fay, paid, "fraud", 100)
    refused(mallory, "final", "UPDATE transfer_reversal SET tries = 1")
    refused(mallory, DENIED, "DELETE FROM transfer_reversal")
    refused(mallory, "move_not_allowed", "UPDATE payout SET state = 'paid'")
    refused(mallory, "payout_state_proven", "UPDATE payout SET state = 'reversed'")


def test_a_payout_that_did_not_come_back(mallory: Connection, paid: Json) -> None:
    for state in ("partly_reversed", "reversed"):
        refused(mallory, "payout_state_proven", f"UPDATE payout SET state = '{state}'")


@pytest.mark.parametrize("account", ["performer_payable", "performer_receivable"])
def test_a_booking_without_a_reversal(
    mallory: Connection, world: World, finn: Person, paid: Json, account: str
) -> None:
    """Money out of nothing: a credit in a performer's account that no reversal says."""
    performer = paid["performer_id"]
    world.sql(
        "INSERT INTO account (id, kind, owner_id, currency) VALUES"
        " (account_id(%s, %s, 'USD'), %s, %s, 'USD') ON CONFLICT DO NOTHING",
        *(account, performer, account, performer),
    )
    reversal = ask_for(finn, paid)["id"]
    for source in (reversal, str(uuid.uuid4())):
        header = uuid.uuid4()
        refused(
            mallory,
            "ledger_reversed",
            (
                (
                    "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
                    " occurred_at, accounting_date) VALUES (%s, 'transfer_reversed',"
                    " 'transfer_reversal', %s, 'USD', now(), now()::date)"
                ),
                [header, source],
            ),
            owned_entries(header, ("stripe_available", None, 123), (account, performer, -123)),
        )


def test_nothing_is_asked_twice_at_once(mallory: Connection, finn: Person, paid: Json) -> None:
    ask_for(finn, paid, 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        mallory.execute(INSERT.format(**PLAIN).encode())
