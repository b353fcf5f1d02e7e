"""What Stripe's books have and nobody explains: listed with its age, and booked by two people."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from marketplace.reports import explain
from marketplace.shared.pagination import encode_cursor
from tests.ledger.test_attacks import DENIED, refused
from tests.reports.conftest import Paid, lift_all_guards, violations
from tests.world import DAY, HOUR, Json, Person, World

QUEUE = "/v1/exceptions"
REASON = "Radar for Fraud Teams, October."


def queue(world: World, finn: Person) -> list[Json]:
    world.sweep("stripe_lines")
    found: list[Json] = finn.get(QUEUE)["items"]
    return found


def fee(world: World, finn: Person, amount_minor: int = 200, type_: str = "stripe_fee") -> Json:
    world.stripe.fee(amount_minor, type_)
    (line,) = queue(world, finn)
    return line


def propose(finn: Person, line: Json, booked_as: str = "stripe_fee") -> Json:
    wanted = {"booked_as": booked_as, "reason": REASON}
    proposed: Json = finn.post(f"{QUEUE}/{line['line_id']}/bookings", wanted)
    return proposed


def books_agree(world: World, finn: Person) -> None:
    assert queue(world, finn) == []
    assert finn.get("/v1/reports/reconciliation")["reconciled"] is True
    world.sweep("funds")
    assert violations(world) == {}


def test_a_fee_is_booked_by_two_people(world: World, paid: Paid, finn: Person, fay: Person) -> None:
    line = fee(world, finn)
    assert (line["type"], line["reason"], line["net_minor"]) == ("stripe_fee", "unknown_type", -200)
    assert line["may_be_booked_as"] == ["stripe_fee", "capital"]
    assert (line["age_seconds"] < 60, line["line_booking_id"]) == (True, None)
    proposed = propose(finn, line)
    assert (proposed["state"], proposed["proposed_by"]) == ("proposed", finn.id)
    (waiting,) = queue(world, finn)
    assert waiting["line_booking_id"] == proposed["id"]
    before = world.ledger("stripe_fees")
    path = f"/v1/line-bookings/{proposed['id']}"
    assert finn.refused("POST", f"{path}/approve") == "403 proposer_may_not_approve"
    booked = fay.post(f"{path}/approve")
    assert (booked["state"], booked["decided_by"]) == ("booked", fay.id)
    assert world.ledger("stripe_fees") == before + 200
    assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
    assert finn.get("/v1/line-bookings", state="booked")["items"] == [booked]
    assert finn.get(path) == booked
    books_agree(world, finn)
    costs = finn.get("/v1/reports/fees", since="2020-01-01T00:00:00Z")["lines"]
    assert [each["amount_minor"] for each in costs if each["kind"] == "stripe_fee_booked"] == [200]


def test_what_is_neither_is_capital(world: World, paid: Paid, finn: Person, fay: Person) -> None:
    proposed = propose(finn, fee(world, finn, 700, "contribution"), "capital")
    before = world.ledger("platform_capital")
    fay.post(f"/v1/line-bookings/{proposed['id']}/approve")
    assert world.ledger("platform_capital") == before + 700
    books_agree(world, finn)


def test_what_comes_in_is_capital_too(world: World, paid: Paid, finn: Person, fay: Person) -> None:
    """A top-up that somebody made on Stripe's own page is known by its type; by a day it is late."""
    world.loopback.run(
        world.gateway.create_topup(
            amount_minor=900,
            currency="USD",
            description="by hand",
            metadata={},
            idempotency_key="hand",
        )
    )
    assert queue(world, finn) == []
    world.advance(25 * HOUR)
    (line,) = queue(world, finn)
    assert (line["reason"], line["may_be_booked_as"]) == ("not_booked", ["capital"])
    wanted = {"booked_as": "stripe_fee", "reason": REASON}
    refusal = finn.refused("POST", f"{QUEUE}/{line['line_id']}/bookings", wanted)
    assert refusal == "409 not_bookable_as"
    proposed = propose(finn, line, "capital")
    before = world.ledger("platform_capital")
    fay.post(f"/v1/line-bookings/{proposed['id']}/approve")
    assert world.ledger("platform_capital") == before - 900
    books_agree(world, finn)


def test_what_the_platforms_own_schedule_pays_out_is_an_exception_at_once(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    world.stripe.control("POST", "payouts", amount=1_000, currency="usd")
    (line,) = queue(world, finn)
    assert (line["type"], line["reason"]) == ("payout", "no_event")
    proposed = propose(finn, line, "capital")
    fay.post(f"/v1/line-bookings/{proposed['id']}/approve")
    books_agree(world, finn)


def test_a_transfer_by_hand_is_an_exception_at_once(world: World, paid: Paid, finn: Person) -> None:
    world.loopback.run(
        world.gateway.send_transfer(
            amount_minor=5,
            currency="USD",
            destination=paid.payout["destination"],
            transfer_group="by hand",
            metadata={},
            idempotency_key="by hand",
        )
    )
    (line,) = queue(world, finn)
    assert (line["type"], line["reason"]) == ("transfer", "no_event")


def test_a_withdrawal_on_its_way_is_none(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    wanted = {"amount_minor": 10_000, "currency": "USD", "reason": REASON}
    asked = finn.post("/v1/withdrawals", wanted)
    fay.post(f"/v1/withdrawals/{asked['id']}/approve")
    world.stripe.fault("apply_then_drop", path="/v1/payouts")
    world.sweep("withdrawals")
    assert queue(world, finn) == []
    told = finn.get("/v1/reports/reconciliation")
    assert [line["reason"] for line in told["unmatched"]] == ["on_its_way"]
    (line,) = told["unmatched"]
    wanted = {"booked_as": "capital", "reason": REASON}
    assert finn.refused("POST", f"{QUEUE}/{line['id']}/bookings", wanted) == "409 no_exception"
    world.advance(10)
    world.sweep("withdrawals")
    assert finn.get("/v1/reports/reconciliation", as_of=told["as_of"]) == told
    books_agree(world, finn)


class TestWhatARowWaitsFor:
    """The event that books a line is late, or waits for a person: nobody books it as capital."""

    def waits(self, world: World, finn: Person, line: Json, row: str) -> None:
        assert (line["waits_for"], line["may_be_booked_as"]) == (row, [])
        wanted = {"booked_as": "capital", "reason": REASON}
        path = f"{QUEUE}/{line['line_id']}/bookings"
        assert finn.refused("POST", path, wanted) == "409 line_waits"
        with world.connection(actor="mallory") as mallory:
            attack = PROPOSE(f"'{line['line_id']}'", line["net_minor"])
            refused(mallory, "line_booking_waits", attack)

    def test_a_reversal_that_was_found(
        self, world: World, paid: Paid, finn: Person, fay: Person
    ) -> None:
        world.loopback.run(
            world.gateway.reverse_transfer(
                transfer_id=paid.payout["transfer_id"],
                amount_minor=100,
                metadata={},
                idempotency_key="by hand",
            )
        )
        world.sweep("poll_events", "inbox")
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        (found,) = finn.get("/v1/reversals", state="found")["items"]
        self.waits(world, finn, line, f"transfer_reversal {found['id']}")
        path = f"/v1/reversals/{found['id']}"
        finn.post(f"{path}/explain", {"cause": "fraud", "reason": "Somebody clicked."})
        self.waits(world, finn, line, f"transfer_reversal {found['id']}")
        fay.post(f"{path}/approve")
        books_agree(world, finn)

    def test_a_row_that_comes_to_be_known_after_the_proposal(
        self, world: World, paid: Paid, finn: Person, fay: Person
    ) -> None:
        """The database looks again when the line is booked, whoever books it."""
        world.loopback.run(
            world.gateway.reverse_transfer(
                transfer_id=paid.payout["transfer_id"],
                amount_minor=100,
                metadata={},
                idempotency_key="by hand",
            )
        )
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        proposed = propose(finn, line, "capital")
        world.sweep("poll_events", "inbox")
        path = f"/v1/line-bookings/{proposed['id']}/approve"
        assert fay.refused("POST", path) == "409 line_waits"
        capital = BOOK("(-100)").replace("stripe_fee_booked", "capital_booked")
        with world.connection(actor="mallory") as mallory:
            booked = capital.replace("stripe_fees", "platform_capital")
            refused(mallory, "line_booking_waits", booked, LINE, SAY(FAY))

    def test_a_deposit_that_nobody_told_of(self, world: World, paid: Paid, finn: Person) -> None:
        client = world.client("Another Lab")
        world.paid_at_stripe(client, 100_000)
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        (deposit,) = client.get("/v1/wallet/deposits")["items"]
        self.waits(world, finn, line, f"deposit {deposit['id']}")
        world.sweep("poll_deposits")
        assert client.wallet_minor == 100_000
        books_agree(world, finn)

    def test_a_refund_whose_outcome_is_unknown(
        self, world: World, paid: Paid, finn: Person
    ) -> None:
        world.stripe.fault("apply_then_drop", path="/v1/refunds")
        wanted = {"amount_minor": 5_000, "currency": "USD"}
        (refund,) = paid.acme.post("/v1/refunds", wanted)["refunds"]
        world.sweep("refunds")
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        self.waits(world, finn, line, f"refund {refund['id']}")
        world.sweep("poll_events", "inbox", "refunds")
        books_agree(world, finn)

    def test_a_dispute_that_nobody_told_of(self, world: World, paid: Paid, finn: Person) -> None:
        payment = world.value("SELECT payment_intent_id FROM deposit LIMIT 1")
        world.stripe.control("POST", "disputes", payment_intent=payment, inquiry=True)
        world.sweep("poll_events", "inbox")
        (dispute,) = finn.get("/v1/disputes")["items"]
        world.stripe.control("PUT", f"disputes/{dispute['stripe_dispute_id']}", to="escalated")
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        self.waits(world, finn, line, f"dispute {dispute['id']}")
        world.sweep("poll_events", "inbox")
        books_agree(world, finn)


class TestTheClientsOwn:
    """A refund that was made by hand at Stripe, of what is in the wallet no longer."""

    @pytest.fixture
    def line(self, world: World, paid: Paid, finn: Person) -> Json:
        payment = world.value("SELECT payment_intent_id FROM deposit")
        assert paid.acme.wallet_minor < 100_000
        world.loopback.run(
            world.gateway.create_refund(
                payment_intent_id=payment,
                amount_minor=100_000,
                metadata={},
                idempotency_key="by hand",
            )
        )
        world.sweep("poll_events", "inbox")
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        assert (line["waits_for"], line["may_be_booked_as"]) == (None, ["capital"])
        return line

    def test_nobody_who_acts_for_it_says_that_the_platform_bears_it(
        self, world: World, paid: Paid, finn: Person, fay: Person, line: Json
    ) -> None:
        member = paid.acme.member
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", member.id)
        wanted = {"booked_as": "capital", "reason": REASON}
        path = f"{QUEUE}/{line['line_id']}/bookings"
        assert member.refused("POST", path, wanted) == "403 acts_for_the_client"
        path = f"/v1/line-bookings/{propose(finn, line, 'capital')['id']}"
        assert member.refused("POST", f"{path}/approve") == "403 acts_for_the_client"
        other = {"reason": "It is something else."}
        assert member.refused("POST", f"{path}/discard", other) == "403 acts_for_the_client"
        assert fay.post(f"{path}/approve")["state"] == "booked"


class TestRefused:
    def test_what_stripe_does_not_have(self, world: World, paid: Paid, finn: Person) -> None:
        wanted = {"booked_as": "capital", "reason": REASON}
        assert finn.refused("POST", f"{QUEUE}/txn_none/bookings", wanted) == "404 not_found"
        assert finn.refused("POST", f"{QUEUE}/%00/bookings", wanted) == "422 invalid_request"

    def test_what_is_booked_by_its_event(self, world: World, paid: Paid, finn: Person) -> None:
        queue(world, finn)
        line = world.value("SELECT id FROM booked_balance_transaction LIMIT 1")
        wanted = {"booked_as": "capital", "reason": REASON}
        assert finn.refused("POST", f"{QUEUE}/{line}/bookings", wanted) == "409 no_exception"

    @pytest.mark.parametrize(
        "changed", [{"booked_as": "gift"}, {"reason": ""}, {"booked_as": 1}, {"amount": 1}]
    )
    def test_bad_input(self, world: World, paid: Paid, finn: Person, changed: Json) -> None:
        line = fee(world, finn)
        wanted = {"booked_as": "stripe_fee", "reason": REASON} | changed
        path = f"{QUEUE}/{line['line_id']}/bookings"
        assert finn.refused("POST", path, wanted) == "422 invalid_request"

    def test_two_words_about_one_line(
        self, world: World, paid: Paid, finn: Person, fay: Person
    ) -> None:
        line = fee(world, finn)
        first = propose(finn, line)
        wanted = {"booked_as": "capital", "reason": REASON}
        path = f"{QUEUE}/{line['line_id']}/bookings"
        assert fay.refused("POST", path, wanted) == "409 already_proposed"
        discarded = finn.post(f"/v1/line-bookings/{first['id']}/discard", {"reason": "It is not."})
        assert discarded["state"] == "discarded"
        assert propose(fay, line, "capital")["state"] == "proposed"

    def test_what_its_own_event_booked_meanwhile(
        self, world: World, paid: Paid, finn: Person, fay: Person
    ) -> None:
        world.stripe.fault("apply_then_drop", path="/v1/topups")
        asked = {"amount_minor": 900, "currency": "USD"}
        assert finn.refused("POST", "/v1/topups", asked) == "503 stripe_unavailable"
        world.advance(25 * HOUR)
        (line,) = queue(world, finn)
        proposed = propose(finn, line, "capital")
        world.sweep("poll_topups")
        refusal = fay.refused("POST", f"/v1/line-bookings/{proposed['id']}/approve")
        assert refusal == "409 line_booked_meanwhile"
        fay.post(f"/v1/line-bookings/{proposed['id']}/discard", {"reason": "It has its own."})
        books_agree(world, finn)


def test_six_at_once_book_it_once(world: World, paid: Paid, finn: Person, fay: Person) -> None:
    line = fee(world, finn)
    path = f"{QUEUE}/{line['line_id']}/bookings"

    def one(_: int) -> int:
        wanted = {"booked_as": "stripe_fee", "reason": REASON}
        return finn.ask("POST", path, wanted).status_code

    with ThreadPoolExecutor(6) as several:
        assert sorted(several.map(one, range(6))) == [201, *[409] * 5]
    (proposed,) = finn.get("/v1/line-bookings")["items"]

    def approve(_: int) -> int:
        return fay.ask("POST", f"/v1/line-bookings/{proposed['id']}/approve").status_code

    with ThreadPoolExecutor(6) as several:
        assert sorted(several.map(approve, range(6))) == [200, *[409] * 5]
    books_agree(world, finn)


def test_a_repeat_with_its_key_is_answered_the_same(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    line = fee(world, finn)
    wanted = {"booked_as": "stripe_fee", "reason": REASON}
    path = f"{QUEUE}/{line['line_id']}/bookings"
    first = finn.post(path, wanted, key="one intent")
    assert finn.post(path, wanted, key="one intent") == first
    booked = fay.post(f"/v1/line-bookings/{first['id']}/approve", key="another")
    assert fay.post(f"/v1/line-bookings/{first['id']}/approve", key="another") == booked
    assert (
        world.value("SELECT count(*) FROM ledger_transaction WHERE source_type = 'line_booking'")
        == 1
    )


def test_pages_of_exceptions(world: World, paid: Paid, finn: Person) -> None:
    for number in range(5):
        world.stripe.fee(100 + number)
    world.sweep("stripe_lines")
    pages = finn.pages(QUEUE, limit=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    amounts = sorted(line["net_minor"] for page in pages for line in page)
    assert amounts == [-104, -103, -102, -101, -100]
    for cursor in ("nonsense", encode_cursor("2026-01-01", "\0"), encode_cursor("x", "txn_1")):
        assert finn.refused("GET", QUEUE, query={"cursor": cursor}) == "422 invalid_request"


def test_a_line_that_moves_nothing_is_no_exception(world: World, paid: Paid, finn: Person) -> None:
    world.sweep("stripe_lines")
    world.sql(
        "INSERT INTO stripe_line (id, type, currency, amount_minor, fee_minor, net_minor, created_at,"
        " available_on) VALUES ('txn_zero', 'adjustment', 'USD', 0, 0, 0, now(), now())"
    )
    assert queue(world, finn) == []


def test_the_period_stays_open_until_it_is_decided(
    world: World, paid: Paid, finn: Person, fay: Person
) -> None:
    line = fee(world, finn)
    now: datetime = world.value("SELECT marketplace_now()")
    world.advance(40 * DAY)
    world.sweep("funds", "stripe_lines")
    month = f"/v1/periods/{now:%Y-%m}"
    (problem,) = finn.get(month)["problems"]
    assert "GET /v1/exceptions" in problem
    assert finn.refused("POST", f"{month}/close") == "409 books_not_in_order"
    proposed = propose(finn, line)
    assert finn.refused("POST", f"{month}/close") == "409 books_not_in_order"
    fay.post(f"/v1/line-bookings/{proposed['id']}/approve")
    assert finn.post(f"{month}/close")["state"] == "closing"


def test_a_transfer_whose_line_stripe_did_not_name_gets_it_later(
    world: World, paid: Paid, finn: Person
) -> None:
    lift_all_guards(world)
    world.owner_sql("DELETE FROM booked_balance_transaction WHERE net_minor = -123")
    assert "I4" in violations(world)
    told = finn.get("/v1/reports/reconciliation")
    assert told["reconciled"] is False
    world.sweep("stripe_lines", "late_lines", "late_lines")
    books_agree(world, finn)
    assert finn.get("/v1/reports/reconciliation", as_of=told["as_of"]) == told


# Invariant → what is done to the rows → what it says.
PLANTED = [
    ("I5", "UPDATE line_booking SET net_minor = -199", "its row says 199 in 1"),
    ("I5", "UPDATE line_booking SET booked_as = 'capital'", "on stripe_fees"),
    ("I5", "DELETE FROM line_booking", "(stripe_fee_booked) has no source line_booking"),
    ("I9", "UPDATE line_booking SET line_id = 'txn_x'", "but txn_x is booked as nothing"),
    ("I11", "UPDATE line_booking SET state = 'discarded'", "its last recorded move was to booked"),
]


@pytest.fixture
def booked(world: World, paid: Paid, finn: Person, fay: Person) -> Json:
    proposed = propose(finn, fee(world, finn))
    found: Json = fay.post(f"/v1/line-bookings/{proposed['id']}/approve")
    return found


@pytest.mark.parametrize(("invariant", "planted", "said"), PLANTED, ids=str)
def test_planted_violations_are_caught(
    world: World, booked: Json, invariant: str, planted: str, said: str
) -> None:
    assert violations(world) == {}
    lift_all_guards(world)
    world.owner_sql(planted)
    assert any(said in line for line in violations(world)[invariant]), violations(world)


@pytest.mark.parametrize(
    "asked",
    [
        "SELECT id FROM line_booking",
        "SELECT line_id FROM line_booking",
        "SELECT ledger_transaction_id FROM line_booking",
    ],
)
def test_it_is_explained_from_every_end(world: World, booked: Json, asked: str) -> None:
    async def look() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, str(world.value(asked)))

    found = world.loopback.run(look())
    assert found is not None
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    for said in ("line_booking ", "stripe_line ", "kind=stripe_fee_booked", REASON):
        assert said in text, text


BOOK: Any = (
    "WITH header AS (INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency,"
    "  occurred_at, accounting_date) SELECT uuidv7(), 'stripe_fee_booked', 'line_booking', id, 'USD',"
    "  now(), now()::date FROM line_booking WHERE state = 'proposed' RETURNING id)"
    " INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
    " SELECT id, account_id(kind, NULL, 'USD'), 'USD', minor FROM header, (VALUES"
    "  ('stripe_fees', {0}), ('stripe_available', -{0})) AS entry (kind, minor)"
).format
LINE = (
    "INSERT INTO booked_balance_transaction (id, net_minor, currency, ledger_transaction_id)"
    " SELECT line_id, net_minor, 'USD', (SELECT id FROM ledger_transaction"
    "  WHERE source_type = 'line_booking') FROM line_booking"
)
SAY = (
    "UPDATE line_booking SET state = 'booked', decided_by = {}, decided_at = now(),"
    " ledger_transaction_id = (SELECT id FROM ledger_transaction WHERE source_type = 'line_booking')"
).format
FAY = "(SELECT id FROM person WHERE name = 'Fay')"
PROPOSE = (
    "INSERT INTO line_booking (id, line_id, booked_as, currency, net_minor, reason, proposed_by,"
    " state) SELECT uuidv7(), {}, 'capital', 'USD', {}, 'mine', id, 'proposed' FROM person LIMIT 1"
).format


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ((BOOK(200),), "line_booking_booked"),
        ((BOOK(200), LINE), "line_booking_booked"),
        ((BOOK(199), LINE, SAY(FAY)), "line_booking_booked"),
        ((BOOK(200), SAY(FAY)), "line_booking_booked"),
        ((BOOK(200), LINE, SAY("proposed_by")), "ck_line_booking_second_person"),
        ((SAY(FAY),), "ck_line_booking_booked_as_said"),
        (("UPDATE line_booking SET net_minor = 1",), DENIED),
        (("UPDATE line_booking SET booked_as = 'capital'",), DENIED),
        (("DELETE FROM line_booking",), DENIED),
        ((PROPOSE("(SELECT line_id FROM line_booking)", -200),), "uq_line_booking_line"),
        ((PROPOSE("(SELECT line_id FROM line_booking)", -201),), "line_booking_line"),
        (
            (PROPOSE("(SELECT id FROM booked_balance_transaction LIMIT 1)", 97_070),),
            "line_booking_line",
        ),
    ],
    ids=str,
)
def test_attacks_are_refused(
    world: World, paid: Paid, finn: Person, attack: tuple[str, ...], named: str
) -> None:
    propose(finn, fee(world, finn))
    with world.connection(actor="mallory") as mallory:
        refused(mallory, named, *attack)
