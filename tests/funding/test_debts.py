"""What a client owes after a lost dispute is settled or written off by two people, never by itself."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.funding.test_disputes import ROLE_MINOR, becomes, opened, told
from tests.ledger.test_attacks import refused
from tests.reports.conftest import violations
from tests.world import DAY, Client, Json, Person, World

DEBTS = "/v1/client-debts"
DECISIONS = "/v1/client-debt-decisions"
YES = {"confirm": True, "reason": "Agreed on the phone."}
NO = {"confirm": False, "reason": "They will pay after all."}


@pytest.fixture
def acme(world: World, settled: Client, finn: Person, ana: Person) -> Client:
    """Owes 127.65: all it paid was taken back while Ana holds one role."""
    world.capital(finn, 200_000)
    world.claim(ana, world.published_job(settled))
    becomes(world, opened(world, settled), "lost")
    told(world)
    assert settled.get("/v1/wallet")["owed_minor"] == ROLE_MINOR
    return settled


def propose(finn: Person, acme: Client, remedy: str, minor: int = ROLE_MINOR) -> Json:
    wanted = {
        "remedy": remedy,
        "amount_minor": minor,
        "currency": "USD",
        "reason": "The client is insolvent.",
    }
    proposed: Json = finn.post(f"{DEBTS}/{acme.id}/decisions", wanted)
    assert proposed["state"] == "proposed"
    return proposed


def decide(fay: Person, proposed: Json, word: Json) -> Json:
    decided: Json = fay.post(f"{DECISIONS}/{proposed['id']}/decision", word)
    return decided


def owed(finn: Person) -> list[int]:
    return [debt["owed_minor"] for debt in finn.get(DEBTS)["items"]]


def test_finance_reads_who_owes_what(world: World, acme: Client, finn: Person) -> None:
    (debt,) = finn.get(DEBTS)["items"]
    assert (debt["client_id"], debt["owed_minor"], debt["wallet_minor"]) == (
        *(acme.id, ROLE_MINOR, 0),
    )
    world.deposit(acme, 5_000)
    (debt,) = finn.get(DEBTS)["items"]
    assert (debt["owed_minor"], debt["wallet_minor"]) == (ROLE_MINOR, 5_000)
    assert acme.wallet_minor == 5_000


def test_debts_come_in_pages(world: World, acme: Client, finn: Person) -> None:
    """The oldest first, and a cursor while more follow."""
    newer = world.client("Bee Voices", deposit_minor=20_000)
    intent = world.value("SELECT payment_intent_id FROM deposit WHERE client_id = %s", newer.id)
    world.claim(world.performer("Bea"), world.published_job(newer, title="Another"))
    made = world.stripe.control("POST", "disputes", payment_intent=intent)
    told(world)
    becomes(world, made["id"], "lost")
    told(world)
    first = finn.get(DEBTS, limit="1")
    last = finn.get(DEBTS, limit="1", cursor=first["next_cursor"])
    assert last["next_cursor"] is None
    pages = [*first["items"], *last["items"]]
    assert [debt["client_id"] for debt in pages] == [acme.id, newer.id]
    assert finn.get(DEBTS)["items"] == pages
    assert finn.refused("GET", DEBTS, query={"cursor": "x"}) == "422 invalid_request"


def test_a_new_debt_is_not_as_old_as_one_that_was_settled(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    (first,) = finn.get(DEBTS)["items"]
    decide(fay, propose(finn, acme, "write_off", 5_000), YES)
    world.advance(DAY)
    (same,) = finn.get(DEBTS)["items"]
    assert same["since"] == first["since"]
    decide(fay, propose(finn, acme, "write_off", ROLE_MINOR - 5_000), YES)
    world.deposit(acme, 30_000)
    newest = "SELECT payment_intent_id FROM deposit ORDER BY id DESC LIMIT 1"
    world.claim(world.performer("Bea"), world.published_job(acme, title="Another"))
    made = world.stripe.control("POST", "disputes", payment_intent=world.value(newest))
    told(world)
    becomes(world, made["id"], "lost")
    told(world)
    (second,) = finn.get(DEBTS)["items"]
    assert second["since"] > first["since"]


def test_two_people_write_it_off(world: World, acme: Client, finn: Person, fay: Person) -> None:
    proposed = propose(finn, acme, "write_off")
    path = f"{DECISIONS}/{proposed['id']}/decision"
    assert finn.refused("POST", path, YES) == "403 proposer_may_not_confirm"
    assert owed(finn) == [ROLE_MINOR]
    decided = fay.post(path, YES, key="once")
    assert (decided["state"], decided["decided_by"]) == ("confirmed", fay.id)
    assert fay.post(path, YES, key="once") == decided
    assert fay.refused("POST", path, YES) == "409 move_not_allowed"
    assert owed(finn) == []
    assert world.ledger("bad_debt") == ROLE_MINOR
    assert violations(world) == {}


def test_it_is_settled_out_of_a_later_deposit(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    proposed = propose(finn, acme, "settle")
    path = f"{DECISIONS}/{proposed['id']}/decision"
    assert fay.refused("POST", path, YES) == "409 wallet_too_low"
    world.deposit(acme, 20_000)
    assert decide(fay, proposed, YES)["state"] == "confirmed"
    assert acme.wallet_minor == 20_000 - ROLE_MINOR
    assert owed(finn) == []
    assert violations(world) == {}


def test_the_second_person_may_say_no(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    proposed = propose(finn, acme, "write_off")
    rejected = decide(fay, proposed, NO)
    assert (rejected["state"], rejected["state_reason"]) == ("rejected", NO["reason"])
    assert owed(finn) == [ROLE_MINOR]
    assert [each["id"] for each in finn.get(DECISIONS, state="rejected")["items"]] == [
        proposed["id"]
    ]
    assert finn.get(DECISIONS, state="proposed")["items"] == []
    assert violations(world) == {}


def test_a_refund_waits_until_the_debt_is_settled(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    world.deposit(acme, 20_000)
    wanted = {"amount_minor": 5_000, "currency": "USD"}
    assert acme.refused("POST", "/v1/refunds", wanted) == "409 debt_first"
    assert finn.refused("POST", "/v1/refunds", wanted | {"client_id": acme.id}) == "409 debt_first"
    assert acme.wallet_minor == 20_000
    decide(fay, propose(finn, acme, "settle"), YES)
    assert len(acme.post("/v1/refunds", wanted)["refunds"]) == 1
    world.sweep("refunds")
    assert violations(world) == {}


def test_a_refund_that_was_made_at_stripe_is_booked_all_the_same(
    world: World, acme: Client
) -> None:
    world.deposit(acme, 20_000)
    newest = "SELECT payment_intent_id FROM deposit ORDER BY id DESC LIMIT 1"
    world.loopback.run(
        world.gateway.create_refund(
            payment_intent_id=world.value(newest),
            amount_minor=5_000,
            metadata={},
            idempotency_key="by hand",
        )
    )
    for _ in range(2):
        world.sweep("poll_events", "inbox", "refunds")
    assert [refund["state"] for refund in acme.get("/v1/refunds")["items"]] == ["succeeded"]
    assert acme.wallet_minor == 15_000
    assert violations(world) == {}


def test_the_database_refuses_a_refund_while_something_is_owed(world: World, acme: Client) -> None:
    world.deposit(acme, 20_000)
    attack = (
        "INSERT INTO refund (id, request_id, client_id, deposit_id, currency, amount_minor,"
        " requested_by, idempotency_key, state, sent_transaction_id)"
        " SELECT uuidv7(), uuidv7(), client_id, id, currency, 5, client_id, 'mine', 'sending',"
        " uuidv7() FROM deposit ORDER BY id DESC LIMIT 1"
    )
    with world.connection(actor="mallory") as mallory:
        refused(mallory, "refund_while_owing", attack)


def test_nobody_who_acts_for_the_client_decides_about_its_debt(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", acme.member.id)
    wanted = {"remedy": "write_off", "amount_minor": 1, "currency": "USD", "reason": "We are poor."}
    own = f"{DEBTS}/{acme.id}/decisions"
    assert acme.member.refused("POST", own, wanted) == "403 acts_for_the_client"
    proposed = propose(finn, acme, "write_off")
    path = f"{DECISIONS}/{proposed['id']}/decision"
    for word in (YES, NO):
        assert acme.member.refused("POST", path, word) == "403 acts_for_the_client"
    assert fay.post(path, YES)["state"] == "confirmed"


def test_never_more_than_is_owed(world: World, acme: Client, finn: Person, fay: Person) -> None:
    wanted = {
        "remedy": "write_off",
        "amount_minor": ROLE_MINOR + 1,
        "currency": "USD",
        "reason": "All of it and more.",
    }
    path = f"{DEBTS}/{acme.id}/decisions"
    assert finn.refused("POST", path, wanted) == "409 client_owes_less"
    assert finn.refused("POST", path, wanted | {"amount_minor": 0}) == "422 invalid_request"
    nobody = f"{DEBTS}/01a2086e-1062-71bf-bf59-ec8fafc2dc31/decisions"
    assert finn.refused("POST", nobody, wanted) == "404 not_found"
    assert acme.refused("GET", DEBTS) == "403 forbidden"
    two = [propose(finn, acme, "write_off") for _ in range(2)]
    decide(fay, two[0], YES)
    assert fay.refused("POST", f"{DECISIONS}/{two[1]['id']}/decision", YES) == (
        "409 client_owes_less"
    )


def test_many_at_once_write_off_what_is_owed_once(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    proposals = [propose(finn, acme, "write_off", 5_000) for _ in range(6)]

    def confirm(proposed: Json) -> int:
        return fay.ask("POST", f"{DECISIONS}/{proposed['id']}/decision", YES).status_code

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(confirm, proposals))
    assert answers == [200] * 2 + [409] * 4
    assert owed(finn) == [ROLE_MINOR - 10_000]
    assert violations(world) == {}
