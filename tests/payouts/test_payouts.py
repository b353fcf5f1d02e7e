"""Runs, exclusions, approvals, and what Stripe may do to a payout."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from marketplace.scheduler import SWEEPS
from tests.payouts.conftest import comes_in, late_transfer, lost
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World


def draft(finance: Person) -> Json:
    run: Json = finance.post("/v1/payout-runs", {"currency": "USD"})
    return run


def payout(finance: Person, run: Json) -> Json:
    (found,) = finance.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    answer: Json = finance.get(f"/v1/payouts/{found['id']}")
    return answer


def exclusions(finance: Person, run: Json) -> list[Json]:
    found: list[Json] = finance.get(f"/v1/payout-runs/{run['id']}/exclusions")["items"]
    return found


def paid(world: World, finance: Person, approver: Person) -> Json:
    run = draft(finance)
    approver.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    return payout(finance, run)


class TestDrafting:
    def test_without_an_account_earnings_accumulate(
        self, world: World, acme: Client, ravi: Person, finn: Person
    ) -> None:
        ana = world.performer()
        job = world.published_job(acme, tasks=2)
        world.accepted_claim(ana, job, ravi)
        first = draft(finn)
        assert (first["payouts"], first["excluded"], first["excluded_minor"]) == (0, 1, 123)
        (excluded,) = exclusions(finn, first)
        assert (excluded["performer_id"], excluded["reason"]) == (ana.id, "no_account")
        assert "payout account" in excluded["remedy"]
        world.accepted_claim(ana, job, ravi)
        world.onboard(ana)
        second = draft(finn)
        assert (second["payouts"], second["amount_minor"]) == (1, 246)

    def test_a_restricted_account_says_what_stripe_wants(
        self, world: World, acme: Client, ravi: Person, finn: Person
    ) -> None:
        ana = world.performer()
        world.onboard(ana, "restricted")
        world.accepted_claim(ana, world.published_job(acme), ravi)
        (excluded,) = exclusions(finn, draft(finn))
        assert excluded["reason"] == "account_not_active"
        assert excluded["remedy"].startswith("Complete what Stripe asks for")

    def test_below_the_minimum_waits(
        self, world: World, acme: Client, ravi: Person, finn: Person
    ) -> None:
        ana = world.performer(onboarded=True)
        job = world.published_job(acme, tasks=2)
        world.accepted_claim(ana, job, ravi, seconds=30)
        (excluded,) = exclusions(finn, draft(finn))
        assert (excluded["reason"], excluded["amount_minor"]) == ("below_minimum", 62)
        monday = datetime.fromisoformat(excluded["next_run_at"])
        assert (monday.weekday(), monday.hour, monday.tzinfo) == (0, 6, UTC)
        world.accepted_claim(ana, job, ravi, seconds=30)
        assert draft(finn)["amount_minor"] == 124

    def test_nothing_owed_is_an_empty_run(self, finn: Person) -> None:
        assert draft(finn)["payouts"] == 0

    def test_an_earning_is_in_one_run_only(self, owed: Person, finn: Person, fay: Person) -> None:
        assert draft(finn)["payouts"] == 1
        assert draft(fay)["payouts"] == 0

    def test_a_discarded_run_frees_its_lines(
        self, world: World, owed: Person, finn: Person, fay: Person
    ) -> None:
        first = draft(finn)
        path = f"/v1/payout-runs/{first['id']}"
        assert finn.refused("POST", f"{path}/discard", {}) == "422 invalid_request"
        discarded = finn.post(f"{path}/discard", {"reason": "wrong day"})
        assert discarded["state"] == "discarded"
        assert payout(finn, first)["state"] == "released"
        assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
        assert draft(finn)["amount_minor"] == 123

    def test_the_weekly_slot_is_drafted_once(
        self, world: World, owed: Person, finn: Person
    ) -> None:
        world.advance(8 * DAY)

        async def many() -> None:
            sweep = SWEEPS["payout_runs"]
            await asyncio.gather(*(sweep.run(world.parts) for _ in range(8)))

        world.loopback.run(many())
        (run,) = finn.get("/v1/payout-runs")["items"]
        slot = datetime.fromisoformat(run["slot_at"])
        assert (slot.weekday(), slot.hour, slot.minute) == (0, 6, 0)
        assert timedelta() <= world.now - slot <= timedelta(days=7)
        assert run["prepared_by"] is None
        world.sweep("payout_runs")
        assert len(finn.get("/v1/payout-runs")["items"]) == 1

    def test_an_empty_week_has_no_run(self, world: World, finn: Person) -> None:
        world.advance(8 * DAY)
        world.sweep("payout_runs")
        assert finn.get("/v1/payout-runs")["items"] == []


class TestApproving:
    def test_the_preparer_may_not_approve(self, owed: Person, finn: Person, fay: Person) -> None:
        run = draft(finn)
        path = f"/v1/payout-runs/{run['id']}/approve"
        assert finn.refused("POST", path) == "403 preparer_may_not_approve"
        approved = fay.post(path)
        assert (approved["state"], approved["approved_by"]) == ("approved", fay.id)
        assert fay.refused("POST", path) == "409 move_not_allowed"

    def test_nobody_decides_about_their_own_pay(
        self, world: World, owed: Person, fay: Person, finn: Person
    ) -> None:
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        path = f"/v1/payout-runs/{run['id']}/approve"
        assert owed.refused("POST", path) == "403 own_payout"
        (own,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
        for verb in ("hold", "release"):
            edit = f"/v1/payouts/{own['id']}/{verb}"
            assert owed.refused("POST", edit, {"reason": "mine"}) == "403 own_payout"
        fay.post(path)

    def test_a_run_with_a_released_payout_can_be_discarded(
        self, world: World, owed: Person, finn: Person
    ) -> None:
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        (payout,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
        finn.post(f"/v1/payouts/{payout['id']}/release", {"reason": "not this week"})
        discarded = finn.post(f"/v1/payout-runs/{run['id']}/discard", {"reason": "all of it"})
        assert discarded["state"] == "discarded"

    def test_nothing_is_sent_before_approval(
        self, world: World, owed: Person, finn: Person
    ) -> None:
        draft(finn)
        world.sweep("payouts")
        assert world.stripe.transfers() == []

    def test_a_payout_given_up_is_free_for_the_next_run(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        released = finn.post(f"{path}/release", {"reason": "Ana asked for it"})
        assert released["state"] == "released"
        world.sweep("payouts")
        assert world.stripe.transfers() == []
        assert (
            finn.refused("POST", f"{path}/release", {"reason": "again"}) == "409 move_not_allowed"
        )
        assert draft(finn)["amount_minor"] == 123

    def test_a_draft_is_approved_by_its_run_only(
        self, owed: Person, finn: Person, fay: Person
    ) -> None:
        drafted = payout(finn, draft(finn))
        path = f"/v1/payouts/{drafted['id']}/approve"
        assert finn.refused("POST", path, {"reason": "now"}) == "403 preparer_may_not_approve"
        assert fay.refused("POST", path, {"reason": "now"}) == "409 conflict"


class TestDone:
    """A run is done when nothing of it is on its way."""

    def done(self, finance: Person, run: Json) -> bool:
        found: bool = finance.get(f"/v1/payout-runs/{run['id']}")["done"]
        return found

    def test_paid_to_the_last(self, world: World, owed: Person, finn: Person, fay: Person) -> None:
        run = draft(finn)
        assert not run["done"]
        assert not fay.post(f"/v1/payout-runs/{run['id']}/approve")["done"]
        world.stripe.fault("409")
        world.sweep("payouts")
        assert not self.done(finn, run)
        world.advance(10)
        world.sweep("payouts")
        assert self.done(finn, run)

    def test_refused_for_good(self, world: World, finn: Person, approved: Json) -> None:
        run = {"id": approved["run_id"]}
        world.stripe.fault("account_restricted")
        world.sweep("payouts")
        assert self.done(finn, run)

    def test_held_it_waits_for_somebody(self, world: World, finn: Person, approved: Json) -> None:
        run = {"id": approved["run_id"]}
        world.stripe.restrict(approved["destination"])
        world.sweep("payouts")
        assert not self.done(finn, run)
        finn.post(f"/v1/payouts/{approved['id']}/release", {"reason": "Ana is gone."})
        assert self.done(finn, run)

    def test_empty(self, finn: Person, fay: Person) -> None:
        run = draft(finn)
        assert not run["done"]
        assert fay.post(f"/v1/payout-runs/{run['id']}/approve")["done"]


class TestSending:
    def test_it_is_paid(self, world: World, owed: Person, finn: Person, fay: Person) -> None:
        done = paid(world, finn, fay)
        (transfer,) = world.stripe.transfers()
        assert (done["state"], done["transfer_id"]) == ("paid", transfer["id"])
        assert transfer["transfer_group"] == f"payout-{done['id']}"
        assert transfer["metadata"] == {"payout_id": done["id"], "attempt": "1"}
        assert world.ledger("performer_payable", owed.id) == 0
        world.sweep("payouts")
        assert draft(finn)["payouts"] == 0

    def test_a_restricted_account_is_held(
        self, world: World, finn: Person, fay: Person, owed: Person, approved: Json
    ) -> None:
        world.stripe.restrict(approved["destination"])
        world.sweep("payouts")
        path = f"/v1/payouts/{approved['id']}"
        held = finn.get(path)
        assert (held["state"], held["attempts"]) == ("held", [])
        assert "restricts" in held["state_reason"]
        assert world.ledger("performer_payable", owed.id) == -123
        world.stripe.lift(approved["destination"])
        again = {"reason": "Stripe lifted it"}
        assert finn.refused("POST", f"{path}/approve", again) == "403 preparer_may_not_approve"
        fay.post(f"{path}/approve", again)
        world.sweep("payouts")
        assert finn.get(path)["state"] == "paid"

    def test_a_changed_destination_is_held(
        self, world: World, finn: Person, owed: Person, approved: Json
    ) -> None:
        another = world.performer("another performer", onboarded=True)
        theirs = world.value(
            "SELECT stripe_account_id FROM payout_account WHERE performer_id = %s", another.id
        )
        world.sql(
            "UPDATE payout_account SET stripe_account_id = 'x' WHERE performer_id = %s", another.id
        )
        world.sql(
            "UPDATE payout_account SET stripe_account_id = %s WHERE performer_id = %s",
            theirs,
            owed.id,
        )
        world.sweep("payouts")
        held = finn.get(f"/v1/payouts/{approved['id']}")
        assert held["state"] == "held"
        assert "changed" in held["state_reason"]
        assert world.stripe.transfers() == []

    def test_a_refusal_is_final_and_the_next_try_has_a_new_key(
        self, world: World, finn: Person, fay: Person, owed: Person, approved: Json
    ) -> None:
        world.stripe.fault("account_restricted")
        world.sweep("payouts")
        path = f"/v1/payouts/{approved['id']}"
        refused = finn.get(path)
        assert refused["state"] == "refused"
        assert refused["attempts"][0]["error_code"] == "insufficient_capabilities_for_transfer"
        assert world.ledger("performer_payable", owed.id) == -123
        assert world.ledger("transfers_in_flight") == 0
        world.sweep("payouts")
        assert len(finn.get(path)["attempts"]) == 1
        world.stripe.lift(approved["destination"])
        fay.post(f"{path}/approve", {"reason": "the account is repaired"})
        world.sweep("payouts")
        done = finn.get(path)
        assert done["state"] == "paid"
        keys = [attempt["idempotency_key"] for attempt in done["attempts"]]
        assert keys == [f"payout-{approved['id']}-attempt-{number}" for number in (1, 2)]
        assert len(world.stripe.transfers()) == 1

    def test_funds_that_another_sender_took_are_waited_for(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """The balance was enough a moment before."""
        world.stripe.fault("balance_insufficient")
        world.sweep("payouts")
        path = f"/v1/payouts/{approved['id']}"
        waiting = finn.get(path)
        assert waiting["state"] == "approved"
        assert waiting["state_reason"].startswith("Waits for funds")
        world.advance(HOUR)
        world.sweep("payouts")
        done = finn.get(path)
        assert (done["state"], len(done["attempts"])) == ("paid", 2)
        assert len(world.stripe.transfers()) == 1

    @pytest.mark.parametrize("fault", ["drop_before", "apply_then_drop", "409", "429"])
    def test_an_unknown_outcome_keeps_its_key(
        self, world: World, finn: Person, approved: Json, fault: str
    ) -> None:
        world.stripe.fault(fault)
        world.sweep("payouts")
        path = f"/v1/payouts/{approved['id']}"
        unknown = finn.get(path)
        assert unknown["state"] == "unknown"
        assert world.ledger("transfers_in_flight") == -123
        refused = finn.refused("POST", f"{path}/release", {"reason": "give up"})
        assert refused == "409 move_not_allowed"
        world.advance(10)
        world.sweep("payouts")
        done = finn.get(path)
        (attempt,) = done["attempts"]
        assert done["state"] == "paid"
        assert attempt["idempotency_key"] == unknown["attempts"][0]["idempotency_key"]
        assert len(world.stripe.transfers()) == 1

    def test_a_saved_server_error_is_resolved_by_looking_it_up(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """Stripe replays its 500 under the key; the transfer is there all the same."""
        world.stripe.fault("error_500_after_apply")
        world.sweep("payouts")
        path = f"/v1/payouts/{approved['id']}"
        for _ in range(3):
            world.advance(HOUR)
            world.sweep("payouts")
        assert finn.get(path)["state"] == "unknown"
        world.advance(23 * HOUR)
        world.sweep("payouts")
        done = finn.get(path)
        assert (done["state"], len(done["attempts"])) == ("paid", 1)
        assert len(world.stripe.transfers()) == 1

    def test_after_23_hours_what_is_not_found_waits_for_finance(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("drop_before")
        world.sweep("payouts")
        world.advance(23 * HOUR + 60)
        world.sweep("payouts")
        waiting = finn.get(f"/v1/payouts/{approved['id']}")
        assert waiting["state"] == "unknown"
        assert "finance decides" in waiting["state_reason"]
        world.advance(DAY)
        world.sweep("payouts")
        assert world.stripe.transfers() == []

    def test_a_look_up_that_stripe_refuses_proves_nothing(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        """The transfer was made; taken for refused, it would be made once more."""
        world.stripe.fault("apply_then_drop")
        world.sweep("payouts")
        world.advance(23 * HOUR + 60)
        world.stripe.fault("balance_insufficient", method="GET")
        world.sweep("payouts")
        waiting = finn.get(f"/v1/payouts/{approved['id']}")
        assert waiting["state"] == "unknown"
        refused = fay.refused("POST", f"/v1/payouts/{approved['id']}/absent", {"reason": "Gone."})
        assert refused == "409 not_proven_absent"
        world.advance(HOUR)
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"
        assert len(world.stripe.transfers()) == 1

    def test_finance_ends_an_unknown_outcome_once_a_look_up_found_nothing(
        self, world: World, finn: Person, fay: Person, owed: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        gone = {"reason": "Stripe's support says that the request never came in."}
        assert fay.refused("POST", f"{path}/absent", gone) == "409 move_not_allowed"
        world.stripe.fault("drop_before")
        world.sweep("payouts")
        assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"
        world.advance(23 * HOUR + 60)
        world.sweep("payouts")
        assert finn.refused("POST", f"{path}/absent", gone) == "403 preparer_may_not_approve"
        decided = fay.post(f"{path}/absent", gone)
        assert (decided["state"], decided["state_reason"]) == ("refused", gone["reason"])
        assert world.ledger("performer_payable", owed.id) == -123
        assert world.ledger("transfers_in_flight") == 0
        assert fay.refused("POST", f"{path}/absent", gone) == "409 move_not_allowed"
        fay.post(f"{path}/approve", {"reason": "Once more, then."})
        world.sweep("payouts")
        assert finn.get(path)["state"] == "paid"
        assert len(world.stripe.transfers()) == 1

    def test_a_transfer_that_shows_up_late_is_found(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """Nobody decided yet: the look-up goes on."""
        late = late_transfer(world, finn, approved)
        world.sweep("payouts")
        done = finn.get(f"/v1/payouts/{approved['id']}")
        assert (done["state"], done["transfer_id"]) == ("paid", late)

    def test_a_transfer_that_shows_up_after_the_decision_is_booked_and_no_other_is_sent(
        self, world: World, finn: Person, fay: Person, owed: Person, approved: Json
    ) -> None:
        late = late_transfer(world, finn, approved)
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/absent", {"reason": "It was not there an hour ago."})
        fay.post(f"{path}/approve", {"reason": "Once more, then."})
        world.sweep("payouts")
        done = finn.get(path)
        assert (done["state"], done["transfer_id"]) == ("paid", late)
        assert [each["outcome"] for each in done["attempts"]] == ["refused", "succeeded"]
        assert [each["id"] for each in world.stripe.transfers()] == [late]
        assert world.ledger("performer_payable", owed.id) == 0
        assert violations(world) == {}

    @pytest.mark.parametrize("late", ["before the release", "after the release"])
    def test_a_transfer_that_shows_up_late_of_a_payout_given_up_is_not_made_once_more(
        self, world: World, finn: Person, fay: Person, owed: Person, approved: Json, late: str
    ) -> None:
        """The next run pays the same earnings in another payout, under another key."""
        request = lost(world, finn, approved)
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/absent", {"reason": "It was not there an hour ago."})
        transfer = comes_in(world, request) if late == "before the release" else ""
        finn.post(f"{path}/release", {"reason": "With the next run, then."})
        transfer = transfer or comes_in(world, request)
        run = draft(finn)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts", "inbox")
        done = payout(finn, run)
        assert (done["state"], done["transfer_id"]) == ("paid", transfer)
        assert [each["id"] for each in world.stripe.transfers()] == [transfer]
        assert violations(world) == {}

    def test_what_stripe_made_otherwise_waits_until_it_is_reversed_there(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        late = late_transfer(world, finn, approved, amount_minor=124)
        path = f"/v1/payouts/{approved['id']}"
        gone = {"reason": "Reversed on Stripe's own page."}
        for _ in range(2):
            world.sweep("payouts")
            unknown = finn.get(path)
            assert unknown["state"] == "unknown"
            assert f"{late} is not what was approved" in unknown["state_reason"]
            assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"
            world.advance(HOUR)
        world.change_at_stripe("transfer", late, amount_reversed=124)
        world.sweep("payouts")
        assert fay.post(f"{path}/absent", gone)["state"] == "refused"
        fay.post(f"{path}/approve", {"reason": "Once more, then."})
        world.sweep("payouts")
        assert finn.get(path)["state"] == "paid"

    def test_a_transfer_of_its_group_that_is_not_as_approved_holds_it(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """Somebody has paid by hand."""
        by_hand = {
            "amount_minor": 100,
            "currency": "USD",
            "destination": approved["destination"],
            "transfer_group": f"payout-{approved['id']}",
            "metadata": {},
        }
        send = world.gateway.send_transfer(**by_hand, idempotency_key="by hand")
        transfer = world.loopback.run(send)
        world.sweep("payouts")
        held = finn.get(f"/v1/payouts/{approved['id']}")
        assert (held["state"], held["attempts"]) == ("held", [])
        assert transfer.id in held["state_reason"]

    def test_without_funds_it_stays_approved_and_says_so(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """The deposit is still pending at Stripe, and the platform has no money of its own."""
        ana = world.performer(onboarded=True)
        world.accepted_claim(ana, world.published_job(acme), ravi)
        waiting = paid(world, finn, fay)
        assert waiting["state"] == "approved"
        assert "Waits for funds" in waiting["state_reason"]
        world.advance(3 * DAY)
        world.sweep("funds", "payouts")
        assert finn.get(f"/v1/payouts/{waiting['id']}")["state"] == "paid"

    def test_stripe_down_only_delays(self, world: World, finn: Person, approved: Json) -> None:
        world.stripe.fault("drop_before", path="/v1/balance", method="GET")
        world.sweep("payouts")
        waiting = finn.get(f"/v1/payouts/{approved['id']}")
        assert waiting["state"] == "approved"
        assert waiting["state_reason"].startswith("Stripe could not be asked")
        world.advance(10)
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"

    def test_many_senders_send_it_once(self, world: World, finn: Person, approved: Json) -> None:
        async def many() -> None:
            await asyncio.gather(*(SWEEPS["payouts"].run(world.parts) for _ in range(6)))

        world.loopback.run(many())
        assert len(world.stripe.transfers()) == 1
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"
