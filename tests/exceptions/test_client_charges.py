"""What became of a deposit at Stripe and our books cannot follow: two people charge its client."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from marketplace.reports import explain
from tests.exceptions.test_exceptions import QUEUE, REASON, queue
from tests.exceptions.test_foreign_deposits import foreign
from tests.exceptions.test_foreign_deposits import propose as say_what_it_is
from tests.funding.test_disputes import becomes, opened, told
from tests.reports.conftest import Paid, lift_all_guards, violations
from tests.world import DAY, HOUR, Client, Json, Person, World

__all__ = ["foreign"]

CHARGES = "/v1/client-charges"
YES = {"confirm": True, "reason": "I saw it at Stripe."}
NO = {"confirm": False, "reason": "It is not theirs to bear."}
REFUND = {"amount_minor": 1_000, "currency": "USD"}
NOBODY = "01a2086e-1062-71bf-bf59-ec8fafc2dc31"


@pytest.fixture
def lab(world: World, foreign: Client, finn: Person, fay: Person) -> Client:
    """Has the 1,000.00 USD that it paid; the platform has the 920.00 EUR that Stripe made of them."""
    (line,) = queue(world, finn)
    fay.post(f"{say_what_it_is(finn, line)}/approve")
    world.advance(3 * DAY)
    world.sweep("funds", "inbox", "poll_events")
    return foreign


def wanted(client: Client, minor: int, dispute: Json | None = None) -> Json:
    (deposit,) = client.get("/v1/wallet/deposits")["items"]
    about = {"dispute_id": dispute["id"]} if dispute else {}
    return {
        "deposit_id": deposit["id"],
        "amount_minor": minor,
        "currency": "USD",
        "reason": "Refunded at Stripe by hand.",
        **about,
    }


def propose(finn: Person, client: Client, minor: int, dispute: Json | None = None) -> str:
    proposed = finn.post(CHARGES, wanted(client, minor, dispute))
    assert proposed["state"] == "proposed"
    return f"{CHARGES}/{proposed['id']}"


def charge(
    finn: Person, fay: Person, client: Client, minor: int, dispute: Json | None = None
) -> Json:
    charged: Json = fay.post(f"{propose(finn, client, minor, dispute)}/decision", YES)
    assert charged["state"] == "approved"
    return charged


def refunded_by_hand(world: World, client: Client, minor: int) -> None:
    payment = world.value("SELECT payment_intent_id FROM deposit WHERE client_id = %s", client.id)
    world.loopback.run(
        world.gateway.create_refund(
            payment_intent_id=payment,
            amount_minor=minor,
            metadata={},
            idempotency_key=f"by hand {minor}",
        )
    )
    told(world)


def book_as_capital(world: World, finn: Person, fay: Person) -> None:
    """Everything that is in the queue."""
    for line in queue(world, finn):
        fay.post(f"{say_what_it_is(finn, line, 'capital')}/approve")


def books_are_whole(world: World, finn: Person) -> None:
    assert queue(world, finn) == []
    world.sweep("funds", "refunds", "poll_events", "inbox")
    assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0
    assert finn.get("/v1/reports/reconciliation")["reconciled"] is True
    assert violations(world) == {}


def dispute_of(client: Client) -> Json:
    (dispute,) = client.get("/v1/disputes")["items"]
    found: Json = dispute
    return found


class TestRefundedByHand:
    def test_the_client_is_told_that_it_takes_a_hand(self, lab: Client) -> None:
        answer = lab.ask("POST", "/v1/refunds", REFUND)
        assert (answer.status_code, answer.json()["code"]) == (409, "deposits_do_not_cover")
        assert answer.json()["refundable_minor"] == 0
        assert answer.json()["by_hand_minor"] == 100_000

    def test_it_leaves_the_wallet_by_two_people(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        capital = world.ledger("platform_capital")
        refunded_by_hand(world, lab, 40_000)
        (line,) = queue(world, finn)
        assert (line["currency"], line["net_minor"]) == ("EUR", -36_800)
        assert line["charge_deposit_id"] == wanted(lab, 1)["deposit_id"]
        assert (line["reason"], line["may_be_booked_as"]) == ("no_event", ["capital"])
        path = propose(finn, lab, 40_000)
        assert finn.refused("POST", f"{path}/decision", YES) == "403 proposer_may_not_decide"
        assert lab.get(CHARGES)["items"] == []
        charged = fay.post(f"{path}/decision", YES, key="once")
        assert (charged["state"], charged["decided_by"]) == ("approved", fay.id)
        assert charged["from_wallet_minor"] == 40_000
        assert fay.post(f"{path}/decision", YES, key="once") == charged
        assert fay.refused("POST", f"{path}/decision", YES) == "409 move_not_allowed"
        assert lab.wallet_minor == 60_000
        assert world.ledger("platform_capital") == capital - 40_000
        assert finn.get(CHARGES)["items"] == [charged]
        told = charged | dict.fromkeys(
            ("state_reason", "proposed_by", "decided_by", "ledger_transaction_id")
        )
        assert lab.get(CHARGES)["items"] == [told]
        assert lab.get(path) == told
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)
        answer = lab.ask("POST", "/v1/refunds", REFUND)
        assert answer.json()["by_hand_minor"] == 60_000

    def test_before_it_was_credited_it_is_no_deposit(
        self, world: World, foreign: Client, finn: Person, fay: Person
    ) -> None:
        world.advance(3 * DAY)
        # As much as Stripe's fee has left of it there.
        refunded_by_hand(world, foreign, 95_000)
        (line, back) = queue(world, finn)
        # There is nothing to be charged: it was never credited.
        assert (back["charge_deposit_id"], back["may_be_booked_as"]) == (None, ["capital"])
        fay.post(f"{say_what_it_is(finn, line, 'given_back')}/approve")
        (deposit,) = foreign.get("/v1/wallet/deposits")["items"]
        assert deposit["state"] == "expired"
        assert deposit["state_reason"].startswith("Given back at Stripe")
        assert foreign.wallet_minor == 0
        refused = finn.refused("POST", CHARGES, wanted(foreign, 1))
        assert refused == "409 more_than_paid"
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)
        # Its payer's bank may take it back all the same: nobody here bears that but the platform.
        dispute = world.value("SELECT payment_intent_id FROM deposit WHERE state = 'expired'")
        world.stripe.control("POST", "disputes", payment_intent=dispute, amount=500)
        told(world)
        assert foreign.get("/v1/disputes")["items"] == []
        world.advance(DAY)
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)

    def test_one_of_another_amount_is_credited_or_given_back_by_two(
        self, world: World, paid: Paid, finn: Person, fay: Person
    ) -> None:
        lab = world.client("Another Lab")
        asked = {"amount_minor": 50_000, "success_url": "https://acme.example/wallet"}
        page = lab.post("/v1/wallet/deposits", asked)
        session = world.value("SELECT checkout_session_id FROM deposit WHERE id = %s", page["id"])
        world.change_at_stripe("checkout.session", session, amount_total=30_000)
        world.stripe.complete(page["checkout_url"], "card")
        world.advance(60)
        world.sweep("poll_deposits", "poll_events", "inbox")
        (line,) = queue(world, finn)
        assert (line["reason"], line["currency"]) == ("amount_differs", "USD")
        assert line["deposit_id"] == page["id"]
        fay.post(f"{say_what_it_is(finn, line)}/approve")
        assert lab.wallet_minor == 50_000
        charge(finn, fay, lab, 20_000)
        assert lab.wallet_minor == 30_000
        books_are_whole(world, finn)


class TestDisputed:
    def test_one_that_was_taken_in_another_currency_and_lost(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        disputed = opened(world, lab, amount=40_000)
        dispute = dispute_of(lab)
        assert (dispute["state"], dispute["held_minor"]) == ("open", None)
        assert lab.refused("POST", "/v1/refunds", REFUND) == "409 refunds_paused"
        refused = finn.refused("POST", CHARGES, wanted(lab, 40_000, dispute))
        assert refused == "409 dispute_not_ended"
        (line,) = queue(world, finn)
        assert line["charge_dispute_id"] == dispute["id"]
        becomes(world, disputed, "lost")
        told(world)
        dispute = dispute_of(lab)
        assert (dispute["state"], dispute["outcome"]) == ("open", "lost")
        path = propose(finn, lab, 40_000, dispute)
        refused = fay.refused("POST", CHARGES, wanted(lab, 1, dispute))
        assert refused == "409 charge_proposed"
        fay.post(f"{path}/decision", YES)
        ended = dispute_of(lab)
        assert ended["state"] == "closed"
        assert "charged 400.00 USD" in ended["state_reason"]
        assert lab.wallet_minor == 60_000
        # Nothing is paused any more.
        world.published_job(lab)
        assert lab.refused("POST", "/v1/refunds", REFUND) == "409 deposits_do_not_cover"
        book_as_capital(world, finn, fay)
        world.advance(HOUR)
        world.sweep("disputes")
        books_are_whole(world, finn)

    def test_one_that_came_back_whole_ends_by_itself(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        for ends in ("won", "prevented"):
            disputed = opened(world, lab, amount=40_000)
            becomes(world, disputed, ends)
            told(world)
            dispute = lab.get("/v1/disputes")["items"][0]
            assert (dispute["state"], dispute["outcome"]) == ("closed", ends)
            refused = finn.refused("POST", CHARGES, wanted(lab, 0, dispute))
            assert refused == "409 followed_by_itself"
        assert lab.wallet_minor == 100_000
        assert [line["charge_dispute_id"] for line in queue(world, finn)] == [None] * 4
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)

    def test_one_that_came_back_at_another_rate_waits_for_two_people(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        disputed = opened(world, lab, amount=40_000)
        world.stripe.control("PUT", "settings", euros_percent=90)
        becomes(world, disputed, "won")
        told(world)
        dispute = dispute_of(lab)
        assert (dispute["state"], dispute["outcome"]) == ("open", "won")
        charged = charge(finn, fay, lab, 0, dispute)
        assert charged["ledger_transaction_id"] is None
        assert dispute_of(lab)["state"] == "closed"
        assert lab.wallet_minor == 100_000
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)

    def test_one_of_which_less_came_back(
        self, world: World, acme: Client, finn: Person, fay: Person
    ) -> None:
        """In the wallet's own currency: what was set aside for it ends, too."""
        in_wallet = acme.wallet_minor
        disputed = opened(world, acme, amount=40_000)
        assert acme.wallet_minor == in_wallet - 40_000
        world.stripe.control("PUT", f"disputes/{disputed}", to="won", given_back=25_000)
        told(world)
        dispute = dispute_of(acme)
        assert (dispute["state"], dispute["held_minor"]) == ("open", 40_000)
        refused = finn.refused("POST", CHARGES, wanted(acme, 1))
        assert refused == "409 followed_by_itself"
        capital = world.ledger("platform_capital")
        charge(finn, fay, acme, 15_000, dispute)
        assert dispute_of(acme)["state"] == "closed"
        assert acme.wallet_minor == in_wallet - 15_000
        assert world.ledger("disputes_receivable") == 0
        assert world.ledger("wallet_disputed", acme.id) == 0
        book_as_capital(world, finn, fay)
        assert world.ledger("platform_capital") == capital
        books_are_whole(world, finn)

    def test_the_platform_may_bear_it(
        self, world: World, acme: Client, finn: Person, fay: Person
    ) -> None:
        in_wallet = acme.wallet_minor
        disputed = opened(world, acme, amount=40_000)
        world.stripe.control("PUT", f"disputes/{disputed}", to="won", given_back=25_000)
        told(world)
        charged = charge(finn, fay, acme, 0, dispute_of(acme))
        assert charged["ledger_transaction_id"] is not None
        assert acme.wallet_minor == in_wallet
        book_as_capital(world, finn, fay)
        books_are_whole(world, finn)

    def test_one_that_was_prevented_is_as_one_that_was_won(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        in_wallet = acme.wallet_minor
        disputed = opened(world, acme, amount=40_000)
        becomes(world, disputed, "prevented")
        told(world)
        assert dispute_of(acme)["state"] == "won"
        assert acme.wallet_minor == in_wallet
        books_are_whole(world, finn)

    def test_one_that_was_lost_without_a_line(
        self, world: World, acme: Client, finn: Person, fay: Person
    ) -> None:
        in_wallet = acme.wallet_minor
        disputed = opened(world, acme, amount=40_000, withdraws=False)
        becomes(world, disputed, "lost")
        told(world)
        dispute = dispute_of(acme)
        assert (dispute["state"], dispute["outcome"]) == ("open", "lost")
        # Its line may yet be told.
        refused = finn.refused("POST", CHARGES, wanted(acme, 0, dispute))
        assert refused == "409 followed_by_itself"
        world.advance(DAY)
        world.sweep("disputes")
        charge(finn, fay, acme, 0, dispute)
        assert dispute_of(acme)["state"] == "closed"
        assert acme.wallet_minor == in_wallet
        acme.post("/v1/refunds", REFUND)
        world.sweep("refunds")
        books_are_whole(world, finn)

    def test_one_that_our_books_follow_is_not_charged(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        disputed = opened(world, acme, amount=40_000)
        becomes(world, disputed, "lost")
        told(world)
        ended = dispute_of(acme)
        assert ended["state"] == "lost"
        world.advance(2 * DAY)
        refused = finn.refused("POST", CHARGES, wanted(acme, 0, ended))
        assert refused == "409 followed_by_itself"


class TestProposal:
    def test_what_the_wallet_has_not_the_client_owes(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        """Ana holds one role, the other gives its money up; what the held one has is owed."""
        job = world.published_job(lab, tasks=2)
        claim = world.claim(world.performer("Bea"), job)
        in_wallet = lab.wallet_minor
        (role_minor, other) = (
            each["balance_minor"]
            for each in world.sql(
                "SELECT balance_minor FROM account_balance JOIN account ON account.id = account_id"
                " JOIN reservation ON reservation.id = owner_id WHERE client_id = %s",
                lab.id,
            )
        )
        assert role_minor == other
        charged = charge(finn, fay, lab, 100_000)
        assert charged["from_wallet_minor"] == in_wallet + role_minor
        wallet = lab.get("/v1/wallet")
        assert (wallet["balance_minor"], wallet["owed_minor"]) == (0, role_minor)
        states = {row["id"]: row["state"] for row in world.sql("SELECT id::text, state FROM role")}
        assert states[claim["role_id"]] == "held"
        assert "unfunded" in states.values()
        (debt,) = finn.get("/v1/client-debts")["items"]
        assert debt["owed_minor"] == role_minor
        given_up = {"remedy": "write_off", "amount_minor": role_minor, "currency": "USD"}
        decision = finn.post(f"/v1/client-debts/{lab.id}/decisions", {**given_up, "reason": REASON})
        fay.post(f"/v1/client-debt-decisions/{decision['id']}/decision", YES)
        found = explained(world, decision["id"])
        assert found.complete, "\n".join(explain.lines(found))
        books_are_whole(world, finn)

    def test_the_second_person_may_say_no(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        path = propose(finn, lab, 40_000)
        rejected = fay.post(f"{path}/decision", NO)
        assert (rejected["state"], rejected["state_reason"]) == ("rejected", NO["reason"])
        assert finn.get(CHARGES, state="rejected")["items"] == [rejected]
        assert lab.refused("GET", path) == "404 not_found"
        assert lab.wallet_minor == 100_000
        books_are_whole(world, finn)

    def test_a_proposal_that_is_sent_twice_is_one(self, lab: Client, finn: Person) -> None:
        twice = [finn.post(CHARGES, wanted(lab, 100), key="once") for _ in range(2)]
        assert twice[0] == twice[1]
        assert finn.get(CHARGES)["items"] == twice[:1]
        other = finn.refused("POST", CHARGES, wanted(lab, 101), key="once")
        assert other == "422 idempotency_key_reused"

    def test_never_more_than_was_paid(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        over = finn.refused("POST", CHARGES, wanted(lab, 100_001))
        assert over == "409 more_than_paid"
        paths = [propose(finn, lab, 60_000) for _ in range(2)]
        fay.post(f"{paths[0]}/decision", YES)
        assert fay.refused("POST", f"{paths[1]}/decision", YES) == "409 more_than_paid"
        assert lab.wallet_minor == 40_000
        assert violations(world) == {}

    @pytest.mark.parametrize(
        ("change", "refusal"),
        [
            ({"amount_minor": -1}, "422 invalid_request"),
            ({"amount_minor": 0}, "422 invalid_request"),
            ({"amount_minor": 1.5}, "422 invalid_request"),
            ({"currency": "EUR"}, "422 invalid_request"),
            ({"reason": ""}, "422 invalid_request"),
            ({"more": 1}, "422 invalid_request"),
            ({"deposit_id": NOBODY}, "404 not_found"),
            ({"dispute_id": NOBODY}, "404 not_found"),
        ],
    )
    def test_bad_input(self, lab: Client, finn: Person, change: Json, refusal: str) -> None:
        assert finn.refused("POST", CHARGES, wanted(lab, 100) | change) == refusal

    def test_nobody_else_reads_or_decides(
        self, world: World, lab: Client, acme: Client, finn: Person, fay: Person
    ) -> None:
        path = propose(finn, lab, 100)
        for stranger in (world.performer("Bea"), world.reviewer("Rae"), world.operator("Otto")):
            assert stranger.refused("GET", path) == "403 forbidden"
        assert acme.refused("GET", path) == "404 not_found"
        assert lab.refused("POST", f"{path}/decision", YES) == "403 forbidden"
        assert world.anybody.refused("GET", path) == "401 unauthorized"
        fay.post(f"{path}/decision", YES)
        assert acme.refused("GET", path) == "404 not_found"
        assert acme.get(CHARGES)["items"] == []

    def test_nobody_who_acts_for_the_client_decides(
        self, world: World, lab: Client, finn: Person
    ) -> None:
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", lab.member.id)
        own = lab.member.refused("POST", CHARGES, wanted(lab, 100))
        assert own == "403 acts_for_the_client"
        path = propose(finn, lab, 100)
        for word in (YES, NO):
            refused = lab.member.refused("POST", f"{path}/decision", word)
            assert refused == "403 acts_for_the_client"

    def test_many_at_once_charge_what_was_paid_once(
        self, world: World, lab: Client, finn: Person, fay: Person
    ) -> None:
        paths = [propose(finn, lab, 30_000) for _ in range(6)]

        def decide(path: str) -> int:
            return fay.ask("POST", f"{path}/decision", YES).status_code

        with ThreadPoolExecutor(6) as pool:
            answers = sorted(pool.map(decide, paths))
        assert answers == [200] * 3 + [409] * 3
        assert lab.wallet_minor == 10_000
        with ThreadPoolExecutor(6) as pool:
            again = list(pool.map(lambda _: decide(paths[0]), range(6)))
        assert set(again) == {409}
        assert violations(world) == {}


def explained(world: World, asked: str) -> explain.Node:
    async def look() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, asked)

    found = world.loopback.run(look())
    assert found is not None
    return found


def test_it_is_explained(world: World, lab: Client, finn: Person, fay: Person) -> None:
    disputed = opened(world, lab, amount=40_000)
    becomes(world, disputed, "lost")
    told(world)
    charged = charge(finn, fay, lab, 40_000, dispute_of(lab))
    for asked in (charged["id"], charged["deposit_id"], disputed, charged["ledger_transaction_id"]):
        found = explained(world, asked)
        text = "\n".join(explain.lines(found))
        assert found.complete, text
        for said in ("deposit ", "dispute ", "client_charge ", "kind=client_charged"):
            assert said in text, (asked, text)


PLANTED: list[tuple[str, str, str]] = [
    ("I5", "UPDATE client_charge SET from_wallet_minor = 29999", "its row says 29999"),
    ("I5", "UPDATE client_charge SET from_wallet_minor = 30000, amount_minor = 100001", "refunded"),
    ("I5", "UPDATE client_charge SET amount_minor = 30000, client_id = uuidv7()", "is refunded by"),
    ("I11", "UPDATE client_charge SET state = 'proposed'", "last recorded move was to approved"),
    ("I5", "DELETE FROM client_charge", "(client_charged) has no source client_charge"),
]


def test_planted_violations_are_caught(
    world: World, lab: Client, finn: Person, fay: Person
) -> None:
    charge(finn, fay, lab, 30_000)
    assert violations(world) == {}
    lift_all_guards(world)
    for invariant, statement, text in PLANTED:
        world.owner_sql(statement)
        found: Any = violations(world).get(invariant, [])
        assert any(text in line for line in found), (statement, found)


def test_a_dispute_that_is_open_after_its_charge_is_caught(
    world: World, acme: Client, finn: Person, fay: Person
) -> None:
    disputed = opened(world, acme, amount=40_000)
    world.stripe.control("PUT", f"disputes/{disputed}", to="won", given_back=25_000)
    told(world)
    charge(finn, fay, acme, 15_000, dispute_of(acme))
    lift_all_guards(world)
    for state, statement in (
        ("open", "UPDATE dispute SET state = 'open'"),
        (
            "closed",
            "UPDATE dispute SET state = 'closed'; UPDATE client_charge SET dispute_id = NULL",
        ),
    ):
        world.owner_sql(statement)
        found = violations(world)["I5"]
        assert any(f"but the dispute is {state}" in line for line in found), found


def test_the_queue_needs_nobody_elses_word(world: World, lab: Client, finn: Person) -> None:
    """A line of a dispute that our books follow is not for finance."""
    assert [line for line in queue(world, finn) if line["charge_dispute_id"]] == []
    assert lab.refused("GET", QUEUE) == "403 forbidden"
