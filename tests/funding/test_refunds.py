"""A client's money goes back to who paid it in: once, never more than is left, whatever is lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World

PATH = "/v1/refunds"
MINOR = 25_000


def wanted(minor: int = MINOR, **more: object) -> Json:
    return {"amount_minor": minor, "currency": "USD", **more}


@pytest.fixture
def acme(settled: Client) -> Client:
    return settled


def asked(acme: Client, minor: int = MINOR) -> Json:
    """One refund that goes back to one deposit; nothing is sent yet."""
    (refund,) = acme.post(PATH, wanted(minor))["refunds"]
    assert (refund["state"], refund["amount_minor"]) == ("sending", minor)
    found: Json = refund
    return found


def states(acme: Client) -> list[str]:
    return [refund["state"] for refund in acme.get(PATH)["items"]]


def at_stripe(world: World) -> list[Json]:
    answer = world.http.get(
        f"{world.stripe.url}/v1/refunds?limit=100",
        headers={"Authorization": "Bearer sk_test_sandbox"},
    )
    data: list[Json] = answer.json()["data"]
    return data


def refunded_once(world: World, acme: Client, minor: int = MINOR) -> None:
    (there,) = at_stripe(world)
    (refund,) = acme.get(PATH)["items"]
    assert (refund["state"], refund["stripe_refund_id"]) == ("succeeded", there["id"])
    assert (there["status"], there["amount"]) == ("succeeded", minor)
    assert there["metadata"] == {"refund_id": refund["id"]}
    assert acme.wallet_minor == 100_000 - minor
    assert world.ledger("refunds_in_flight") == 0
    assert world.stripe.platform_minor == 97_070 + 5_000 - minor
    world.sweep("poll_events", "inbox")
    assert violations(world) == {}


def back_in_the_wallet(world: World, acme: Client, state: str) -> None:
    assert states(acme) == [state]
    assert acme.wallet_minor == 100_000
    assert world.ledger("refunds_in_flight") == 0
    assert world.stripe.platform_minor == 97_070 + 5_000
    world.sweep("poll_events", "inbox", "refunds")
    assert violations(world) == {}


def by_hand(world: World, finn: Person, fay: Person) -> None:
    """Two people say that the money of a refund's line was the platform's."""
    world.sweep("stripe_lines")
    world.advance(25 * HOUR)
    (line,) = [line for line in finn.get("/v1/exceptions")["items"] if line["type"] == "refund"]
    wanted = {"booked_as": "capital", "reason": "Nothing else explains it."}
    booking = finn.post(f"/v1/exceptions/{line['line_id']}/bookings", wanted)
    fay.post(f"/v1/line-bookings/{booking['id']}/approve")


class TestARefund:
    def test_it_works(self, world: World, acme: Client) -> None:
        refund = asked(acme)
        assert acme.wallet_minor == 75_000
        assert world.ledger("refunds_in_flight") == -MINOR
        world.sweep("refunds")
        refunded_once(world, acme)
        assert acme.get(f"{PATH}/{refund['id']}")["state_reason"] is None

    def test_a_member_asks_too(self, world: World, acme: Client) -> None:
        acme.member.post(PATH, wanted())
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_finance_asks_for_a_client_and_says_why(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        finn.post(PATH, wanted(client_id=acme.id, reason="They closed their account."))
        assert finn.get(PATH)["items"][0]["state_reason"] == "They closed their account."
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_a_member_with_finance_asks_for_its_own_client(
        self, world: World, acme: Client
    ) -> None:
        world.sql(
            "INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", acme.member.id
        )
        acme.member.post(PATH, wanted())
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_finance_says_whose(self, acme: Client, finn: Person) -> None:
        assert finn.refused("POST", PATH, wanted()) == "422 invalid_request"
        nobody = wanted(client_id="01a2086e-1062-71bf-bf59-ec8fafc2dc31")
        assert finn.refused("POST", PATH, nobody) == "404 not_found"

    def test_another_clients_refunds_are_not_there(self, world: World, acme: Client) -> None:
        refund = asked(acme)
        other = world.client("Other Lab")
        assert other.refused("GET", f"{PATH}/{refund['id']}") == "404 not_found"
        assert other.get(PATH)["items"] == []
        assert other.refused("POST", PATH, wanted(client_id=acme.id)) == "404 not_found"
        assert world.anybody.refused("POST", PATH, wanted()) == "401 unauthorized"

    @pytest.mark.parametrize(
        "body",
        [
            wanted(0),
            wanted(-1),
            wanted(1.5),  # type: ignore[arg-type]
            {"amount_minor": 1},
            {"amount_minor": 1, "currency": "EUR"},
            wanted(state="succeeded"),
        ],
    )
    def test_what_makes_no_sense(self, acme: Client, body: Json) -> None:
        assert acme.refused("POST", PATH, body) == "422 invalid_request"

    def test_a_repeat_gets_the_same_answer(self, world: World, acme: Client) -> None:
        first = acme.post(PATH, wanted(), key="one intent")
        world.sweep("refunds")
        assert acme.post(PATH, wanted(), key="one intent") == first
        assert (
            acme.refused("POST", PATH, wanted(1), key="one intent") == "422 idempotency_key_reused"
        )
        assert acme.refused("POST", PATH, wanted(), key="") == "400 idempotency_key_missing"
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_finance_reads_those_in_a_state(self, world: World, acme: Client, finn: Person) -> None:
        asked(acme, 1)
        world.sweep("refunds")
        asked(acme, 2)
        assert [each["amount_minor"] for each in finn.get(PATH, state="sending")["items"]] == [2]
        assert [each["amount_minor"] for each in finn.get(PATH)["items"]] == [2, 1]


class TestHowMuch:
    def test_the_wallet_is_never_overdrawn(self, world: World, acme: Client) -> None:
        world.published_job(acme)
        left = acme.wallet_minor
        assert acme.refused("POST", PATH, wanted(left + 1)) == "409 wallet_too_low"
        acme.post(PATH, wanted(left))
        assert acme.wallet_minor == 0

    def test_it_goes_back_to_the_newest_deposits_first(self, world: World, acme: Client) -> None:
        for minor in (10_000, 20_000):
            world.deposit(acme, minor)
        parts = acme.post(PATH, wanted(35_000))["refunds"]
        assert [part["amount_minor"] for part in parts] == [20_000, 10_000, 5_000]
        assert len({part["deposit_id"] for part in parts}) == 3
        assert len({part["request_id"] for part in parts}) == 1
        world.sweep("refunds")
        assert states(acme) == ["succeeded"] * 3
        (last,) = acme.post(PATH, wanted(95_000))["refunds"]
        assert last["deposit_id"] == parts[-1]["deposit_id"]
        assert acme.refused("POST", PATH, wanted(1)) == "409 deposits_do_not_cover"
        world.sweep("refunds", "poll_events", "inbox")
        assert acme.wallet_minor == 0
        world.capital(world.finance(), 5_000)
        assert violations(world) == {}

    def test_what_was_refused_may_be_asked_for_again(self, world: World, acme: Client) -> None:
        world.stripe.fault("balance_insufficient", path=PATH)
        asked(acme, 100_000)
        world.sweep("refunds")
        assert states(acme) == ["refused"]
        asked(acme, 100_000)
        world.sweep("refunds")
        assert states(acme) == ["succeeded", "refused"]

    def test_many_at_once_take_what_is_there(self, world: World, acme: Client) -> None:
        """Twenty ask for 60.00 of 1,000.00: sixteen get it."""

        def ask(_: int) -> int:
            return acme.ask("POST", PATH, wanted(6_000)).status_code

        with ThreadPoolExecutor(10) as pool:
            answers = sorted(pool.map(ask, range(20)))
        assert answers == [201] * 16 + [409] * 4
        assert acme.wallet_minor == 4_000
        world.sweep("refunds", "poll_events", "inbox")
        assert violations(world) == {}

    def test_one_key_at_once_refunds_once(self, world: World, acme: Client) -> None:
        def ask(_: int) -> Json:
            answer: Json = acme.post(PATH, wanted(), key="the same")
            return answer

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        assert answers == [answers[0]] * 8
        world.sweep("refunds")
        refunded_once(world, acme)


class TestOutcomes:
    @pytest.mark.parametrize("fault", ["apply_then_drop", "drop_before"])
    def test_a_lost_reply_is_asked_for_again(self, world: World, acme: Client, fault: str) -> None:
        world.stripe.fault(fault, path=PATH)
        asked(acme)
        world.sweep("refunds")
        assert states(acme) == ["unknown"]
        world.advance(10)
        world.sweep("refunds")
        refunded_once(world, acme)

    @pytest.mark.parametrize("fault", ["409", "429"])
    def test_stripe_is_busy(self, world: World, acme: Client, fault: str) -> None:
        world.stripe.fault(fault, path=PATH)
        asked(acme)
        world.sweep("refunds")
        assert states(acme) == ["unknown"]
        world.advance(10)
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_the_event_of_a_lost_reply_names_our_row(self, world: World, acme: Client) -> None:
        world.stripe.fault("apply_then_drop", path=PATH)
        asked(acme)
        world.sweep("refunds", "poll_events", "inbox")
        refunded_once(world, acme)
        world.advance(HOUR)
        world.sweep("refunds", "poll_events", "inbox")
        refunded_once(world, acme)

    def test_a_saved_500_says_nothing_until_stripe_is_looked_through(
        self, world: World, acme: Client
    ) -> None:
        world.stripe.fault("error_500_after_apply", path=PATH)
        asked(acme)
        for _ in range(23):
            world.sweep("refunds")
            assert states(acme) == ["unknown"]
            world.advance(HOUR)
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_what_stripe_refuses_is_in_the_wallet_again(self, world: World, acme: Client) -> None:
        world.stripe.fault("balance_insufficient", path=PATH)
        refund = asked(acme)
        world.sweep("refunds")
        back_in_the_wallet(world, acme, "refused")
        assert "balance_insufficient" in acme.get(f"{PATH}/{refund['id']}")["state_reason"]

    def test_down_for_a_day_after_a_lost_reply(self, world: World, acme: Client) -> None:
        """By then Stripe has forgotten the key: asking once more would refund twice."""
        world.stripe.fault("apply_then_drop", path=PATH)
        asked(acme)
        world.sweep("refunds")
        world.advance(25 * HOUR)
        world.sweep("refunds")
        refunded_once(world, acme)

    def test_after_a_day_somebody_else_decides_that_it_is_absent(
        self, world: World, acme: Client, finn: Person, fay: Person
    ) -> None:
        world.stripe.fault("drop_before", path=PATH)
        finn.post(PATH, wanted(client_id=acme.id))
        (refund,) = finn.get(PATH)["items"]
        absent, why = f"{PATH}/{refund['id']}/absent", {"reason": "Stripe has never had it."}
        assert fay.refused("POST", absent, why) == "409 move_not_allowed"
        world.sweep("refunds")
        assert fay.refused("POST", absent, why) == "409 not_proven_absent"
        world.advance(24 * HOUR)
        world.sweep("refunds")
        assert finn.refused("POST", absent, why) == "403 requester_may_not_decide"
        decided = fay.post(absent, why, key="once")
        assert (decided["state"], decided["state_reason"]) == ("refused", why["reason"])
        assert str(world.value("SELECT decided_by FROM refund")) == fay.id
        assert fay.post(absent, why, key="once") == decided
        assert fay.refused("POST", absent, why) == "409 move_not_allowed"
        back_in_the_wallet(world, acme, "refused")

    def test_a_member_with_finance_does_not_decide_what_its_clients_key_asked(
        self, world: World, acme: Client
    ) -> None:
        world.sql(
            "INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", acme.member.id
        )
        absent = f"{PATH}/{asked(acme)['id']}/absent"
        why = {"reason": "Stripe has never had it."}
        assert acme.member.refused("POST", absent, why) == "403 acts_for_the_client"

    def test_what_is_looked_for_is_not_absent(
        self, world: World, acme: Client, fay: Person
    ) -> None:
        """A look-up that got no answer takes back what an earlier one did not find."""
        world.stripe.fault("drop_before", path=PATH)
        refund = asked(acme)
        world.sweep("refunds")
        world.advance(24 * HOUR)
        world.sweep("refunds")
        world.stripe.fault("drop_before", path=PATH, method="GET")
        world.advance(2 * HOUR)
        world.sweep("refunds")
        absent = f"{PATH}/{refund['id']}/absent"
        assert fay.refused("POST", absent, {"reason": "Gone?"}) == "409 not_proven_absent"

    def test_a_deposit_from_before_payments_were_kept(self, world: World, acme: Client) -> None:
        world.owner_sql("ALTER TABLE deposit DISABLE TRIGGER kept_payment")
        world.owner_sql("UPDATE deposit SET payment_intent_id = NULL")
        world.owner_sql("ALTER TABLE deposit ENABLE TRIGGER kept_payment")
        asked(acme)
        world.sweep("refunds")
        refunded_once(world, acme)
        assert world.value("SELECT payment_intent_id FROM deposit").startswith("pi_")


class TestOnItsWay:
    @pytest.fixture
    def pending(self, world: World, acme: Client) -> Json:
        world.stripe.control("PUT", "settings", refund_after_seconds=2 * DAY)
        asked(acme)
        world.sweep("refunds")
        assert states(acme) == ["pending"]
        # Stripe takes the money when it takes the order.
        assert world.ledger("refunds_in_flight") == 0
        found: Json = acme.get(PATH)["items"][0]
        return found

    @pytest.mark.parametrize("sweeps", [("refunds",), ("poll_events", "inbox")])
    def test_it_arrives(
        self, world: World, acme: Client, pending: Json, sweeps: tuple[str, ...]
    ) -> None:
        world.advance(DAY)
        world.sweep(*sweeps)
        assert states(acme) == ["pending"]
        world.advance(DAY)
        world.sweep(*sweeps)
        refunded_once(world, acme)

    @pytest.mark.parametrize("sweeps", [("refunds",), ("poll_events", "inbox")])
    def test_the_bank_sends_it_back(
        self, world: World, acme: Client, pending: Json, sweeps: tuple[str, ...]
    ) -> None:
        world.stripe.control("PUT", "settings", refunds_fail=1)
        world.advance(2 * DAY)
        world.sweep(*sweeps)
        back_in_the_wallet(world, acme, "returned")
        refund = acme.get(f"{PATH}/{pending['id']}")
        assert refund["state_reason"] == "Stripe says: lost_or_stolen_card."

    def test_the_bank_sends_back_what_was_called_a_success(
        self, world: World, acme: Client
    ) -> None:
        asked(acme)
        world.sweep("refunds")
        refunded_once(world, acme)
        (there,) = at_stripe(world)
        world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
        assert violations(world) == {}
        for _ in range(2):
            world.sweep("poll_events", "inbox")
        back_in_the_wallet(world, acme, "returned")
        asked(acme, 100_000)

    def test_what_comes_back_within_a_month_is_seen_without_any_event(
        self, world: World, acme: Client
    ) -> None:
        asked(acme)
        world.sweep("refunds")
        world.advance(20 * DAY)
        world.sweep("refunds")
        assert acme.get(PATH)["items"][0]["due_at"] is not None
        (there,) = at_stripe(world)
        world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
        world.advance(DAY)
        world.sweep("refunds")
        back_in_the_wallet(world, acme, "returned")

    def test_after_a_month_it_is_left_alone(self, world: World, acme: Client) -> None:
        asked(acme)
        world.sweep("refunds")
        world.advance(31 * DAY)
        world.sweep("refunds")
        (refund,) = acme.get(PATH)["items"]
        assert (refund["state"], refund["due_at"]) == ("succeeded", None)

    def test_without_funds_at_stripe_it_waits_for_them(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        asked(acme, 100_000)
        world.stripe.fee(10_000)
        world.sweep("refunds")
        (refund,) = acme.get(PATH)["items"]
        assert (refund["state"], refund["state_reason"]) == (
            "pending",
            "It waits for funds at Stripe: top up, and Stripe sends it.",
        )
        assert world.ledger("refunds_in_flight") == -100_000
        world.capital(finn, 10_000)
        world.advance(HOUR)
        world.sweep("refunds")
        assert states(acme) == ["succeeded"]
        assert world.ledger("refunds_in_flight") == 0

    def test_one_that_never_took_anything_is_in_the_wallet_again(
        self, world: World, acme: Client
    ) -> None:
        asked(acme, 100_000)
        world.stripe.fee(10_000)
        world.sweep("refunds")
        (there,) = at_stripe(world)
        world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
        world.sweep("poll_events", "inbox")
        assert states(acme) == ["refused"]
        assert acme.wallet_minor == 100_000
        assert world.ledger("refunds_in_flight") == 0


class TestFee:
    @pytest.mark.parametrize("fee_minor", [150, -725])
    def test_what_stripe_takes_or_gives_for_it_is_booked_beside_it(
        self, world: World, acme: Client, finn: Person, fee_minor: int
    ) -> None:
        world.stripe.control("PUT", "settings", refund_fee=fee_minor)
        before = world.ledger("stripe_fees")
        asked(acme)
        world.sweep("refunds")
        assert states(acme) == ["succeeded"]
        assert acme.wallet_minor == 75_000
        assert world.ledger("stripe_fees") == before + fee_minor
        assert world.ledger("refunds_in_flight") == 0
        world.sweep("poll_events", "inbox", "stripe_lines")
        assert violations(world) == {}
        costs = finn.get("/v1/reports/fees", since="2020-01-01T00:00:00Z")["lines"]
        told = {(each["kind"], each["client_id"]): each["amount_minor"] for each in costs}
        assert told["refund_confirmed", acme.id] == fee_minor
        world.advance(1)
        assert finn.get("/v1/reports/reconciliation")["reconciled"]

    def test_its_line_waits_for_it_whatever_the_fee(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        """Stripe's answer is lost, and for a day nobody asks again."""
        world.stripe.control("PUT", "settings", refund_fee=150)
        world.stripe.fault("apply_then_drop", path="/v1/refunds")
        asked(acme)
        world.sweep("refunds")
        world.advance(25 * HOUR)
        world.sweep("funds", "stripe_lines")
        (line,) = finn.get("/v1/exceptions")["items"]
        (refund,) = acme.get("/v1/refunds")["items"]
        assert (line["net_minor"], line["waits_for"]) == (-25_150, f"refund {refund['id']}")
        world.sweep("refunds", "poll_events", "inbox")
        assert finn.get("/v1/exceptions")["items"] == []

    def test_what_comes_back_keeps_its_fee(self, world: World, acme: Client) -> None:
        world.stripe.control("PUT", "settings", refund_fee=150)
        asked(acme)
        world.sweep("refunds")
        (there,) = at_stripe(world)
        world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
        world.sweep("poll_events", "inbox")
        assert (states(acme), acme.wallet_minor) == (["returned"], 100_000)
        assert world.stripe.platform_minor == 97_070 + 5_000 - 150
        assert violations(world) == {}


class TestTakenOtherwise:
    """Stripe took another amount for it than it gave back, as when it settles in another currency."""

    @pytest.fixture
    def pending(self, world: World, acme: Client) -> Json:
        world.stripe.control("PUT", "settings", refund_after_seconds=DAY)
        refund = asked(acme)
        world.stripe.fault("apply_then_drop", path=PATH)
        world.sweep("refunds")
        (there,) = at_stripe(world)
        world.change_at_stripe(
            "balance_transaction", there["balance_transaction"], amount=-26_000, net=-26_000
        )
        world.sweep("poll_events", "inbox")
        found: Json = acme.get(f"{PATH}/{refund['id']}")
        return found

    def test_it_says_what_to_do(self, world: World, acme: Client, pending: Json) -> None:
        assert (pending["state"], pending["state_reason"]) == (
            "pending",
            (
                f"Finance must look: Stripe took 26000 USD by {self.line(world)} for 25000 USD. "
                "With that line booked by hand, call it absent."
            ),
        )

    def line(self, world: World) -> str:
        (there,) = at_stripe(world)
        id_: str = there["balance_transaction"]
        return id_

    def test_once_its_line_is_booked_by_hand_the_wallet_has_it_again(
        self, world: World, acme: Client, finn: Person, fay: Person, pending: Json
    ) -> None:
        world.capital(finn, 50_000)
        absent, why = f"{PATH}/{pending['id']}/absent", {"reason": "Booked by hand."}
        assert fay.refused("POST", absent, why) == "409 move_not_allowed"
        by_hand(world, finn, fay)
        decided = fay.post(absent, why, key="once")
        assert (decided["state"], decided["state_reason"]) == ("refused", "Booked by hand.")
        assert fay.post(absent, why, key="once") == decided
        assert acme.wallet_minor == 100_000
        world.advance(DAY)
        world.sweep("poll_events", "inbox", "refunds")
        assert states(acme) == ["refused"]
        assert world.ledger("refunds_in_flight") == 0
        charge = finn.post("/v1/client-charges", self.charge(pending))
        sure = {"confirm": True, "reason": "I saw it at Stripe."}
        fay.post(f"/v1/client-charges/{charge['id']}/decision", sure)
        assert acme.wallet_minor == 75_000
        # Only the line was changed at Stripe, and not the balance it moved.
        assert violations(world).keys() == {"I4"}

    def charge(self, refund: Json) -> Json:
        return {
            "deposit_id": refund["deposit_id"],
            "amount_minor": MINOR,
            "currency": "USD",
            "reason": "Stripe has sent it.",
        }

    def test_until_then_nobody_is_charged_for_it(self, finn: Person, pending: Json) -> None:
        refusal = finn.refused("POST", "/v1/client-charges", self.charge(pending))
        assert refusal == "409 followed_by_itself"

    def test_what_comes_back_of_it_is_for_finance_too(
        self, world: World, acme: Client, pending: Json
    ) -> None:
        (there,) = at_stripe(world)
        world.stripe.control("PUT", f"refunds/{there['id']}", status="failed")
        world.sweep("poll_events", "inbox")
        seen = acme.get(f"{PATH}/{pending['id']}")
        assert (seen["state"], seen["state_reason"]) == ("pending", pending["state_reason"])
        assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0


class TestFoundAtStripe:
    def make(self, world: World, metadata: dict[str, str], minor: int = MINOR) -> None:
        payment = world.value("SELECT payment_intent_id FROM deposit")
        world.loopback.run(
            world.gateway.create_refund(
                payment_intent_id=payment,
                amount_minor=minor,
                metadata=metadata,
                idempotency_key="by hand",
            )
        )

    def test_one_that_was_made_by_hand_leaves_the_wallet(self, world: World, acme: Client) -> None:
        self.make(world, {})
        for _ in range(2):
            world.sweep("poll_events", "inbox", "refunds")
        (refund,) = acme.get(PATH)["items"]
        assert (refund["state"], refund["amount_minor"]) == ("succeeded", MINOR)
        assert acme.wallet_minor == 75_000
        why = "SELECT reason FROM audit_event WHERE subject_type = 'refund' AND from_state IS NULL"
        assert world.value(why) == "Found at Stripe, and nobody here asked for it."
        assert violations(world) == {}

    def test_one_that_came_after_it_was_called_absent(
        self, world: World, acme: Client, fay: Person
    ) -> None:
        world.stripe.fault("drop_before", path=PATH)
        refund = asked(acme)
        world.sweep("refunds")
        world.advance(24 * HOUR)
        world.sweep("refunds")
        fay.post(f"{PATH}/{refund['id']}/absent", {"reason": "Nothing is there."})
        assert acme.wallet_minor == 100_000
        self.make(world, {"refund_id": refund["id"]})
        for _ in range(2):
            world.sweep("poll_events", "inbox", "refunds")
        assert states(acme) == ["succeeded", "refused"]
        assert acme.wallet_minor == 75_000
        assert violations(world) == {}

    def test_what_the_wallet_does_not_cover_waits_with_its_error(
        self, world: World, acme: Client
    ) -> None:
        world.published_job(acme, tasks=7)
        self.make(world, {})
        world.sweep("poll_events", "inbox")
        assert acme.get(PATH)["items"] == []
        (line,) = violations(world)["I1"]
        assert line.endswith("which belong to no refund of ours")
        errors = world.sql("SELECT last_error FROM stripe_event WHERE last_error IS NOT NULL")
        assert errors
        assert all(row["last_error"].startswith("RefundNotBooked: re_") for row in errors)
        world.deposit(acme, 30_000)
        world.sweep("inbox")
        assert states(acme) == ["succeeded"]
        assert violations(world) == {}

    def test_one_that_carries_our_id_and_another_amount_is_another(
        self, world: World, acme: Client, fay: Person
    ) -> None:
        """The lost one is looked for past it, and ends as any that Stripe never had."""
        world.stripe.fault("drop_before", path=PATH)
        refund = asked(acme)
        world.sweep("refunds")
        world.advance(24 * HOUR)
        self.make(world, {"refund_id": refund["id"]}, 20_000)
        for _ in range(2):
            world.sweep("poll_events", "inbox", "refunds")
            world.advance(HOUR)
        found, lost = acme.get(PATH)["items"]
        assert (found["state"], found["amount_minor"]) == ("succeeded", 20_000)
        assert (lost["id"], lost["state"]) == (refund["id"], "unknown")
        assert acme.wallet_minor == 100_000 - MINOR - 20_000
        fay.post(f"{PATH}/{refund['id']}/absent", {"reason": "Made by hand, as less."})
        assert acme.wallet_minor == 80_000
        world.sweep("poll_events", "inbox", "refunds")
        assert states(acme) == ["succeeded", "refused"]
        assert world.ledger("refunds_in_flight") == 0
        assert violations(world) == {}

    def test_one_that_finance_has_booked_by_hand_is_done(
        self, world: World, acme: Client, finn: Person, fay: Person
    ) -> None:
        world.capital(finn, 50_000)
        world.published_job(acme, tasks=7)
        self.make(world, {})
        world.sweep("poll_events", "inbox")
        by_hand(world, finn, fay)
        world.deposit(acme, 30_000)
        world.advance(HOUR)
        world.sweep("inbox")
        assert acme.get(PATH)["items"] == []
        assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0
        assert violations(world) == {}

    def test_one_that_stands_twice_is_named(self, world: World, acme: Client) -> None:
        refund = asked(acme)
        world.sweep("refunds")
        self.make(world, {"refund_id": refund["id"]})
        world.sweep("poll_events", "inbox")
        (line,) = violations(world)["I1"]
        assert line.startswith(f"refund {refund['id']} stands 2 times at Stripe")
        assert acme.wallet_minor == 50_000
