"""The platform's own money out: what two people decide, and what Stripe and the bank may do to it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from marketplace.scheduler import SWEEPS
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World

PATH = "/v1/withdrawals"
REASON = "Fees earned in October."


def wanted(amount_minor: int = 200_000) -> Json:
    return {"amount_minor": amount_minor, "currency": "USD", "reason": REASON}


def read(person: Person, withdrawal: Json) -> Json:
    found: Json = person.get(f"{PATH}/{withdrawal['id']}")
    return found


def payouts(world: World) -> list[Json]:
    answer = world.http.get(
        f"{world.stripe.url}/v1/payouts?limit=100",
        headers={"Authorization": "Bearer sk_test_sandbox"},
    )
    data: list[Json] = answer.json()["data"]
    return data


def left(world: World, finn: Person, withdrawal: Json) -> Json:
    """It left Stripe's balance once, and the books say so."""
    now = read(finn, withdrawal)
    (payout,) = payouts(world)
    assert (now["state"], now["stripe_payout_id"]) == ("in_transit", payout["id"])
    assert (payout["amount"], payout["automatic"]) == (200_000, False)
    assert world.ledger("bank_in_transit") == 0
    assert world.ledger("stripe_available") == 300_000
    assert world.ledger("platform_capital") == -300_000
    assert world.stripe.platform_minor == 300_000
    assert violations(world) == {}
    return now


class TestDeciding:
    def test_it_works_from_the_request_to_the_bank(
        self, world: World, approved: Json, finn: Person
    ) -> None:
        assert (approved["requested_by"], approved["state"]) == (finn.id, "approved")
        assert world.ledger("platform_capital") == -500_000
        world.sweep("withdrawals")
        left(world, finn, approved)
        world.advance(2 * DAY)
        world.sweep("withdrawals")
        assert read(finn, approved)["state"] == "arrived"
        assert [each["id"] for each in finn.get(PATH, state="arrived")["items"]] == [approved["id"]]
        assert finn.get(PATH, state="returned")["items"] == []
        assert violations(world) == {}

    def test_who_asked_may_not_approve(self, funded: None, finn: Person) -> None:
        asked = finn.post(PATH, wanted())
        refused = finn.refused("POST", f"{PATH}/{asked['id']}/approve")
        assert refused == "403 requester_may_not_decide"

    def test_a_request_is_repeated_with_its_key(self, funded: None, finn: Person) -> None:
        first = finn.post(PATH, wanted(), key="one intent")
        assert finn.post(PATH, wanted(), key="one intent") == first
        assert len(finn.get(PATH)["items"]) == 1
        refused = finn.refused("POST", PATH, wanted(1), key="one intent")
        assert refused == "422 idempotency_key_reused"
        assert finn.refused("POST", PATH, wanted(), key="") == "400 idempotency_key_missing"

    @pytest.mark.parametrize("amount", [0, -1, 1.5, "100", None])
    def test_only_whole_positive_amounts(self, finn: Person, amount: object) -> None:
        asked = {**wanted(), "amount_minor": amount}
        assert finn.refused("POST", PATH, asked) == "422 invalid_request"

    def test_it_may_be_given_up_before_it_is_sent(
        self, world: World, approved: Json, fay: Person
    ) -> None:
        discarded = fay.post(f"{PATH}/{approved['id']}/discard", {"reason": "Not this month."})
        assert discarded["state"] == "discarded"
        world.sweep("withdrawals")
        assert payouts(world) == []
        assert violations(world) == {}

    def test_what_is_sent_is_not_given_up(self, world: World, approved: Json, fay: Person) -> None:
        world.sweep("withdrawals")
        refused = fay.refused("POST", f"{PATH}/{approved['id']}/discard", {"reason": "Stop it."})
        assert refused == "409 move_not_allowed"

    def test_two_approvals_at_once_are_one(
        self, world: World, funded: None, finn: Person, fay: Person
    ) -> None:
        asked = finn.post(PATH, wanted())

        def approve(_: int) -> int:
            return fay.ask("POST", f"{PATH}/{asked['id']}/approve").status_code

        with ThreadPoolExecutor(6) as several:
            assert sorted(several.map(approve, range(6))) == [200, *[409] * 5]
        world.sweep("withdrawals")
        left(world, finn, asked)


class TestCoverage:
    def test_what_is_owed_to_others_is_refused_at_once(
        self, world: World, funded: None, acme: Client, finn: Person
    ) -> None:
        """1,000.00 in the wallet, 970.70 of it at Stripe: 4,970.70 are the platform's own."""
        answer = finn.ask("POST", PATH, wanted(497_071))
        assert (answer.status_code, answer.json()["code"]) == (409, "withdrawal_not_covered")
        assert answer.json()["withdrawable_minor"] == 497_070
        assert finn.post(PATH, wanted(497_070))["state"] == "requested"

    def test_two_that_are_sent_at_once_take_no_more_than_is_there(
        self, world: World, funded: None, finn: Person, fay: Person
    ) -> None:
        asked = [finn.post(PATH, wanted(300_000)) for _ in range(2)]
        for each in asked:
            fay.post(f"{PATH}/{each['id']}/approve")

        async def many() -> None:
            await asyncio.gather(*(SWEEPS["withdrawals"].run(world.parts) for _ in range(4)))

        world.loopback.run(many())
        assert sorted(read(finn, each)["state"] for each in asked) == ["approved", "in_transit"]
        assert len(payouts(world)) == 1
        (waits,) = [read(finn, each) for each in asked if read(finn, each)["state"] == "approved"]
        assert waits["state_reason"]
        world.capital(finn, 100_000)
        world.advance(HOUR)
        world.sweep("withdrawals")
        assert read(finn, waits)["state"] == "in_transit"
        assert violations(world) == {}

    def test_what_stripe_took_and_nobody_booked_is_missing_too(
        self, world: World, approved: Json, acme: Client, finn: Person
    ) -> None:
        world.stripe.fee(310_000)
        world.sweep("withdrawals")
        waits = read(finn, approved)
        assert (waits["state"], payouts(world)) == ("approved", [])
        assert "Waits for funds" in waits["state_reason"]
        world.capital(finn, 10_000)
        world.advance(HOUR)
        world.sweep("withdrawals")
        waits = read(finn, approved)
        assert waits["state"] == "approved"
        assert "owed to others" in waits["state_reason"]
        assert payouts(world) == []


class TestUnknown:
    @pytest.mark.parametrize("fault", ["drop_before", "apply_then_drop", "409", "429"])
    def test_an_unknown_outcome_keeps_its_key(
        self, world: World, finn: Person, approved: Json, fault: str
    ) -> None:
        world.stripe.fault(fault, path="/v1/payouts")
        world.sweep("withdrawals")
        assert read(finn, approved)["state"] == "unknown"
        assert world.ledger("bank_in_transit") == -200_000
        assert violations(world) == {}
        refused = finn.refused("POST", f"{PATH}/{approved['id']}/discard", {"reason": "Stop it."})
        assert refused == "409 move_not_allowed"
        world.advance(10)
        world.sweep("withdrawals")
        left(world, finn, approved)

    def test_a_saved_server_error_is_resolved_by_looking_it_up(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("error_500_after_apply", path="/v1/payouts")
        world.sweep("withdrawals")
        for _ in range(2):
            world.advance(HOUR)
            world.sweep("withdrawals")
        assert read(finn, approved)["state"] == "unknown"
        world.advance(23 * HOUR)
        world.sweep("withdrawals")
        found = read(finn, approved)
        assert found["state"] in {"in_transit", "arrived"}
        assert len(payouts(world)) == 1

    def test_the_event_of_a_lost_reply_names_our_row(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("apply_then_drop", path="/v1/payouts")
        world.sweep("withdrawals", "poll_events", "inbox")
        left(world, finn, approved)
        world.advance(HOUR)
        world.sweep("withdrawals", "poll_events", "inbox")
        left(world, finn, approved)

    def test_after_23_hours_what_is_not_found_waits_for_finance(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"{PATH}/{approved['id']}"
        gone = {"reason": "Stripe's support says that the request never came in."}
        assert fay.refused("POST", f"{path}/absent", gone) == "409 move_not_allowed"
        world.stripe.fault("drop_before", path="/v1/payouts")
        world.sweep("withdrawals")
        assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"
        world.advance(23 * HOUR)
        world.sweep("withdrawals")
        assert "finance decides" in read(finn, approved)["state_reason"]
        assert finn.refused("POST", f"{path}/absent", gone) == "403 requester_may_not_decide"
        decided = fay.post(f"{path}/absent", gone)
        assert decided["decided_by"] == fay.id
        assert (decided["state"], decided["state_reason"]) == ("refused", gone["reason"])
        assert world.ledger("platform_capital") == -500_000
        assert world.ledger("bank_in_transit") == 0
        world.advance(DAY)
        world.sweep("withdrawals")
        assert payouts(world) == []
        assert violations(world) == {}

    def test_one_that_shows_up_after_the_decision_is_told(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        world.stripe.fault("drop_before", path="/v1/payouts")
        world.sweep("withdrawals")
        world.advance(23 * HOUR)
        world.sweep("withdrawals")
        fay.post(f"{PATH}/{approved['id']}/absent", {"reason": "It was not there."})
        late = world.loopback.run(
            world.gateway.pay_out_to_bank(
                amount_minor=200_000,
                currency="USD",
                description="Withdrawal",
                metadata={"withdrawal_id": approved["id"]},
                idempotency_key="late",
            )
        )
        world.sweep("poll_events", "inbox")
        told = read(finn, approved)
        assert told["state"] == "refused"
        assert f"Stripe has {late.id} of it after all" in told["state_reason"]
        assert "I15" in violations(world)
        world.sweep("stripe_lines")
        (line,) = finn.get("/v1/exceptions")["items"]
        wanted = {"booked_as": "capital", "reason": "Our bank has it."}
        said = finn.post(f"/v1/exceptions/{line['line_id']}/bookings", wanted)
        fay.post(f"/v1/line-bookings/{said['id']}/approve")
        assert violations(world) == {}

    def test_one_that_was_canceled_and_made_anew_by_hand_stands_once(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.sweep("withdrawals", "poll_events", "inbox")
        again = world.loopback.run(
            world.gateway.pay_out_to_bank(
                amount_minor=200_000,
                currency="USD",
                description="Withdrawal",
                metadata={"withdrawal_id": approved["id"]},
                idempotency_key="again",
            )
        )
        assert "I15" in violations(world)
        world.http.post(
            f"{world.stripe.url}/v1/payouts/{again.id}/cancel",
            headers={"Authorization": "Bearer sk_test_sandbox"},
        ).raise_for_status()
        assert "I15" not in violations(world)


class TestAtTheBank:
    def test_what_stripe_refuses_is_ours_again(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("balance_insufficient", path="/v1/payouts")
        world.sweep("withdrawals")
        refused = read(finn, approved)
        assert (refused["state"], refused["error_code"]) == ("refused", "balance_insufficient")
        assert world.ledger("platform_capital") == -500_000
        assert world.ledger("bank_in_transit") == 0
        world.advance(DAY)
        world.sweep("withdrawals")
        assert payouts(world) == []
        assert violations(world) == {}

    @pytest.mark.parametrize("by", ["poll", "event"])
    def test_it_may_fail_after_it_was_paid(
        self, world: World, finn: Person, approved: Json, by: str
    ) -> None:
        sweeps = ["withdrawals"] if by == "poll" else ["poll_events", "inbox"]
        world.sweep("withdrawals")
        world.advance(2 * DAY)
        world.sweep(*sweeps)
        arrived = read(finn, approved)
        assert arrived["state"] == "arrived"
        world.advance(3 * DAY)
        world.stripe.control("PUT", f"payouts/{arrived['stripe_payout_id']}", status="failed")
        for _ in range(2):
            world.sweep(*sweeps)
            returned = read(finn, approved)
            assert (returned["state"], returned["error_code"]) == ("returned", "account_closed")
            assert returned["state_reason"] == "The bank account has been closed."
            assert world.ledger("platform_capital") == -500_000
            assert world.ledger("stripe_available") == 500_000
            assert world.stripe.platform_minor == 500_000
            assert violations(world) == {}
            world.advance(DAY)
        world.sweep("stripe_lines")
        assert finn.get("/v1/reports/reconciliation")["unmatched"] == []

    def test_one_that_is_canceled_at_stripe_comes_back(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.sweep("withdrawals")
        sent = read(finn, approved)
        world.stripe.control("PUT", f"payouts/{sent['stripe_payout_id']}", status="canceled")
        world.advance(HOUR)
        world.sweep("withdrawals")
        assert read(finn, approved)["state"] == "returned"
        assert violations(world) == {}

    def test_it_is_followed_for_a_month_and_then_left(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.sweep("withdrawals")
        for _ in range(2):
            world.advance(20 * DAY)
            world.sweep("withdrawals")
        assert (read(finn, approved)["state"], read(finn, approved)["due_at"]) == ("arrived", None)

    def test_many_senders_send_it_once(self, world: World, finn: Person, approved: Json) -> None:
        async def many() -> None:
            await asyncio.gather(*(SWEEPS["withdrawals"].run(world.parts) for _ in range(6)))

        world.loopback.run(many())
        left(world, finn, approved)
