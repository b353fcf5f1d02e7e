"""What the application's own login tries with client charges and the database refuses."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.exceptions.test_client_charges import YES, foreign, lab, propose
from tests.funding.test_dispute_attacks import booking
from tests.funding.test_disputes import becomes, opened, told
from tests.ledger.test_attacks import DENIED, Connection, commit, refused
from tests.world import Client, Person, World

__all__ = ["foreign", "lab"]

PROPOSAL = (
    "INSERT INTO client_charge (id, client_id, deposit_id, dispute_id, currency, amount_minor,"
    " reason, state, proposed_by)"
    " SELECT %s, client_id, id, %s, currency, %s, 'mine', 'proposed', %s FROM deposit"
    " WHERE client_id = %s"
)
APPROVAL = (
    "UPDATE client_charge SET state = 'approved', decided_by = %s, decided_at = now(),"
    " from_wallet_minor = %s, ledger_transaction_id = %s WHERE id = %s"
)
Statement = tuple[str, list[Any]]


@pytest.fixture
def mallory(world: World, lab: Client) -> Iterator[Connection]:
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


def proposal(
    client: Client, by: Person, minor: int, dispute: object = None
) -> tuple[uuid.UUID, Statement]:
    made = uuid.uuid4()
    return made, (PROPOSAL, [made, dispute, minor, by.id, client.id])


def approval(
    world: World, client: Client, charge: uuid.UUID, by: Person, minor: int
) -> list[Statement]:
    """As the application would book it, all of it out of the wallet."""
    made, booked = booking(
        world,
        *("client_charged", "client_charge", charge),
        ("client_wallet", client.id, minor),
        ("platform_capital", None, -minor),
    )
    return [*booked, (APPROVAL, [by.id, minor, made, charge])]


def test_nobody_approves_their_own(
    world: World, lab: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    charge, proposed = proposal(lab, finn, 500)
    second_person = "ck_client_charge_second_person"
    refused(mallory, second_person, proposed, *approval(world, lab, charge, finn, 500))
    commit(mallory, proposed, *approval(world, lab, charge, fay, 500))
    assert lab.wallet_minor == 99_500


def test_never_more_than_was_paid(
    world: World, lab: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    _, above = proposal(lab, finn, 100_001)
    refused(mallory, "charge_within_deposit", above)
    first, proposed = proposal(lab, finn, 60_000)
    second, as_well = proposal(lab, finn, 60_000)
    commit(mallory, proposed, as_well, *approval(world, lab, first, fay, 60_000))
    refused(mallory, "charge_within_deposit", (APPROVAL, [fay.id, 0, uuid.uuid4(), second]))


def test_a_snapshot_sees_no_more_than_others_left(
    world: World, lab: Client, finn: Person, mallory: Connection
) -> None:
    _, proposed = proposal(lab, finn, 500)
    snapshot = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    refused(mallory, "read_committed", snapshot, proposed)


def test_what_our_books_follow_is_not_charged(
    world: World, lab: Client, acme: Client, finn: Person, mallory: Connection
) -> None:
    not_followed = "charge_of_what_is_not_followed"
    _, proposed = proposal(acme, finn, 500)
    refused(mallory, not_followed, proposed)
    opened(world, lab)
    dispute = world.value("SELECT id FROM dispute")
    _, proposed = proposal(lab, finn, 0, dispute)
    refused(mallory, not_followed, proposed)
    _, of_another = proposal(acme, finn, 0, dispute)
    refused(mallory, not_followed, of_another)


def test_nothing_is_charged_only_for_a_dispute(
    lab: Client, finn: Person, mallory: Connection
) -> None:
    for minor in (0, -1):
        _, proposed = proposal(lab, finn, minor)
        refused(mallory, "ck_client_charge_of_something", proposed)


def test_a_wallet_is_not_emptied_for_no_charge(
    world: World, lab: Client, finn: Person, mallory: Connection
) -> None:
    charge, proposed = proposal(lab, finn, 500)
    for source in (uuid.uuid4(), charge):
        _, booked = booking(
            world,
            *("client_charged", "client_charge", source),
            ("client_wallet", lab.id, 500),
            ("platform_capital", None, -500),
        )
        refused(mallory, "ledger_disputed", proposed, *booked)


def test_what_is_booked_is_what_was_said(
    world: World, lab: Client, acme: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    charge, proposed = proposal(lab, finn, 500)
    refused(mallory, "ledger_disputed", proposed, *approval(world, acme, charge, fay, 500))
    made, booked = booking(
        world,
        *("client_charged", "client_charge", charge),
        ("client_wallet", lab.id, 501),
        ("platform_capital", None, -501),
    )
    more = (APPROVAL, [fay.id, 500, made, charge])
    refused(mallory, "ledger_disputed", proposed, *booked, more)
    unbooked = (APPROVAL, [fay.id, 500, None, charge])
    refused(mallory, "ck_client_charge_booked", proposed, unbooked)
    another = world.value("SELECT id FROM ledger_transaction LIMIT 1")
    others = (APPROVAL, [fay.id, 500, another, charge])
    refused(mallory, "dispute_booked", proposed, others)


def test_a_dispute_with_something_booked_ends_by_its_charge_alone(
    world: World, acme: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    disputed = opened(world, acme, amount=40_000)
    refused(mallory, "dispute_ends", "UPDATE dispute SET state = 'closed', due_at = NULL")
    world.stripe.control("PUT", f"disputes/{disputed}", to="won", given_back=25_000)
    told(world)
    charge, proposed = proposal(acme, finn, 0, world.value("SELECT id FROM dispute"))
    approved = (APPROVAL, [fay.id, 0, None, charge])
    refused(mallory, "dispute_ends", proposed, approved)
    ended = "UPDATE dispute SET state = 'closed', due_at = NULL"
    refused(mallory, "dispute_ends", proposed, approved, ended)


def test_stripes_lines_of_a_dispute_stay(world: World, lab: Client, mallory: Connection) -> None:
    opened(world, lab)
    for change in ("'txn_other'", "NULL"):
        refused(mallory, "set_once", f"UPDATE dispute SET unbookable_line_id = {change}")


def test_what_was_decided_stays(
    world: World, lab: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    path = propose(finn, lab, 500)
    for column in ("amount_minor", "client_id", "deposit_id", "proposed_by", "reason"):
        refused(mallory, DENIED, f"UPDATE client_charge SET {column} = {column}")
    for attack in ("DELETE FROM {}", "TRUNCATE {}", "ALTER TABLE {} DISABLE TRIGGER ALL"):
        refused(mallory, DENIED, attack.format("client_charge"))
    fay.post(f"{path}/decision", YES)
    refused(mallory, "final", "UPDATE client_charge SET state_reason = 'mine'")


def test_it_begins_as_a_proposal(lab: Client, finn: Person, mallory: Connection) -> None:
    _, (text, values) = proposal(lab, finn, 500)
    with pytest.raises(psycopg.errors.CheckViolation):
        mallory.execute(text.replace("'proposed'", "'rejected'").encode(), values)


def test_a_payment_is_not_called_given_back_and_credited(
    world: World, lab: Client, finn: Person, mallory: Connection
) -> None:
    """Its line is in one booking, and what is booked must be what was said of it."""
    again = (
        "INSERT INTO line_booking (id, line_id, booked_as, currency, net_minor, reason,"
        " proposed_by, state, deposit_id) SELECT uuidv7(), line_id, 'given_back', currency,"
        " net_minor, 'mine', proposed_by, 'proposed', deposit_id FROM line_booking"
    )
    refused(mallory, "line_booking_line", again)


def test_a_dispute_that_ended_is_not_won_again(
    world: World, lab: Client, finn: Person, fay: Person, mallory: Connection
) -> None:
    disputed = opened(world, lab)
    becomes(world, disputed, "lost")
    told(world)
    (dispute,) = lab.get("/v1/disputes")["items"]
    fay.post(f"{propose(finn, lab, 100_000, dispute)}/decision", YES)
    refused(mallory, "move_not_allowed", "UPDATE dispute SET state = 'open'")
