"""What the application's own login tries with corrections, and the database refuses."""

import uuid
from collections.abc import Iterator

import pytest

from tests.corrections.test_corrections import corrected, propose
from tests.ledger.test_attacks import DENIED, Connection, owned_entries, refused
from tests.world import Json, Person, World


@pytest.fixture
def mallory(world: World) -> Iterator[Connection]:
    """Somebody who has the application's login."""
    with world.connection(actor="mallory") as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def claim(owed: Person) -> Json:
    found: Json = owed.get("/v1/claims")["items"][0]
    return found


INSERT = (
    "INSERT INTO correction (id, kind, performer_id, currency, amount_minor, reason, claim_id,"
    " seconds, pay_minor, booked_minor, state, proposed_by)"
    " SELECT uuidv7(), '{kind}', {performer}, '{currency}', {amount}, 'no reason', {claim},"
    " {seconds}, {pay}, {booked}, '{state}', {proposer}"
    " FROM claim, (SELECT id FROM person WHERE id NOT IN (SELECT performer_id FROM claim)"
    "  LIMIT 1) AS somebody"
)
RIGHT = {
    "kind": "pay_corrected",
    "performer": "performer_id",
    "currency": "USD",
    "amount": "21",
    "claim": "claim.id",
    "seconds": "70",
    "pay": "144",
    "booked": "123",
    "state": "proposed",
    "proposer": "somebody.id",
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"pay": "145", "amount": "22"}, "correction_exact"),
        ({"booked": "100", "amount": "44"}, "correction_exact"),
        ({"amount": "22"}, "ck_correction_of_a_claim"),
        ({"performer": "somebody.id"}, "correction_exact"),
        ({"currency": "EUR"}, "correction_exact"),
        ({"proposer": "performer_id"}, "ck_correction_not_their_own"),
        ({"state": "approved"}, "ck_correction_booked_when_approved"),
        ({"claim": "NULL"}, "ck_correction_of_a_claim"),
        ({"kind": "pay_adjusted"}, "ck_correction_of_a_claim"),
        ({"kind": "bonus"}, "ck_correction_kind_known"),
    ],
)
def test_a_proposal_that_does_not_come_out(
    mallory: Connection, claim: Json, changed: dict[str, str], named: str
) -> None:
    refused(mallory, named, INSERT.format(**(RIGHT | changed)))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("SET amount_minor = 1", DENIED),
        ("SET seconds = 1000", DENIED),
        ("SET proposed_by = performer_id", DENIED),
        ("SET state = 'approved'", "ck_correction_booked_when_approved"),
        (
            "SET state = 'rejected', decided_by = proposed_by, decided_at = now()",
            "ck_correction_second_person",
        ),
        (
            "SET state = 'rejected', decided_by = performer_id, decided_at = now()",
            "ck_correction_not_their_own",
        ),
    ],
)
def test_a_proposal_is_frozen(
    mallory: Connection, finn: Person, claim: Json, attack: str, named: str
) -> None:
    propose(finn, claim, 70)
    refused(mallory, named, f"UPDATE correction {attack}")


def test_what_is_decided_is_final(
    mallory: Connection, finn: Person, fay: Person, claim: Json
) -> None:
    corrected(finn, fay, claim, 70)
    refused(mallory, "final", "UPDATE correction SET state_reason = 'another'")
    refused(mallory, DENIED, "DELETE FROM correction")


@pytest.mark.parametrize(
    ("kind", "debited", "credited"),
    [
        ("pay_adjusted", "platform_expense", "performer_payable"),
        ("overpayment_found", "performer_receivable", "client_wallet"),
        ("receivable_netted", "performer_payable", "performer_receivable"),
        ("receivable_written_off", "bad_debt", "performer_receivable"),
    ],
)
def test_a_booking_that_nobody_approved(
    mallory: Connection,
    world: World,
    finn: Person,
    claim: Json,
    kind: str,
    debited: str,
    credited: str,
) -> None:
    """The proposal alone is no ground to book on, nor is nothing at all."""
    performer = world.value("SELECT performer_id FROM claim")
    client = world.value("SELECT client_id FROM claim")
    owners = {"client_wallet": client, "platform_expense": None, "bad_debt": None}
    for account in (debited, credited):
        owner = owners.get(account, performer)
        world.sql(
            "INSERT INTO account (id, kind, owner_id, currency) VALUES"
            " (account_id(%s, %s, 'USD'), %s, %s, 'USD') ON CONFLICT DO NOTHING",
            *(account, owner, account, owner),
        )
    for source in (propose(finn, claim, 70)["id"], uuid.uuid4()):
        header = uuid.uuid4()
        statement = (
            "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
            " occurred_at, accounting_date) VALUES"
            " (%s, %s, 'correction', %s, 'USD', now(), now()::date)"
        )
        refused(
            mallory,
            "ledger_corrected",
            (statement, [header, kind, source]),
            owned_entries(
                header,
                (debited, owners.get(debited, performer), 21),
                (credited, owners.get(credited, performer), -21),
            ),
        )


def test_what_goes_back_goes_to_nobody_else(
    mallory: Connection, world: World, finn: Person, fay: Person, claim: Json
) -> None:
    """Less pay, given back to the reserve of a stranger's job."""
    stranger = world.client("Another Lab", deposit_minor=100_000)
    world.published_job(stranger, title="Somebody else's")
    (reserve,) = world.sql("SELECT id FROM reservation WHERE client_id = %s", stranger.id)
    proposed = propose(finn, claim, 50)["id"]
    header = uuid.uuid4()
    refused(
        mallory,
        "correction_exact",
        (
            (
                "INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
                " occurred_at, accounting_date) VALUES"
                " (%s, 'overpayment_found', 'correction', %s, 'USD', now(), now()::date)"
            ),
            [header, proposed],
        ),
        (
            (
                "UPDATE correction SET state = 'approved', decided_by = %s, decided_at = now(),"
                " client_minor = -20, platform_minor = 0, fee_minor = -3, reservation_id = %s,"
                " ledger_transaction_id = %s WHERE id = %s"
            ),
            [fay.id, reserve["id"], header, proposed],
        ),
    )
