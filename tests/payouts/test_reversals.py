"""What was paid may come back: asked for by one, approved by another, booked by its cause."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from marketplace.scheduler import SWEEPS
from tests.payouts.conftest import ask_for, late_transfer, returned
from tests.reports.conftest import findings, violations
from tests.world import DAY, HOUR, Json, Person, World

REVERSALS = "/v1/transfers/[^/]+/reversals"
WRONG = {"amount_minor": 123, "cause": "wrong_destination", "reason": "It is her sister's account."}


def reversals_at_stripe(world: World) -> int:
    count: int = world.stripe.control("GET", "state")["objects"].get("transfer_reversal", 0)
    return count


def balance(world: World, account: str) -> int:
    found: int = world.stripe.control("GET", "state")["balances"][account]["usd"]["available_minor"]
    return found


def payout_of(finance: Person, payout: Json) -> Json:
    found: Json = finance.get(f"/v1/payouts/{payout['id']}")
    return found


class TestWhatComesBack:
    def test_from_a_wrong_destination_it_is_paid_again(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        at_stripe = world.stripe.platform_minor
        asked = finn.post(f"/v1/payouts/{paid['id']}/reversals", WRONG)
        assert (asked["state"], asked["asked_by"]) == ("asked", finn.id)
        world.sweep("reversals")
        assert reversals_at_stripe(world) == 0
        path = f"/v1/reversals/{asked['id']}"
        assert fay.post(f"{path}/approve")["state"] == "approved"
        world.sweep("reversals", "inbox")
        done = finn.get(path)
        assert (done["state"], done["decided_by"]) == ("reversed", fay.id)
        assert done["idempotency_key"] == f"reversal-{asked['id']}"
        assert world.stripe.platform_minor == at_stripe + 123
        assert balance(world, paid["destination"]) == 0
        payout = payout_of(finn, paid)
        assert payout["state"] == "reversed"
        assert payout["state_reason"] == f"Came back (wrong_destination): {WRONG['reason']}"
        assert world.ledger("performer_payable", owed.id) == -123
        booked = world.sql(
            "SELECT net_minor FROM booked_balance_transaction WHERE id = %s",
            done["balance_transaction_id"],
        )
        assert booked == [{"net_minor": 123}]
        assert violations(world) == {}
        world.replace_account(owed, finn)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        assert (run["payouts"], run["amount_minor"]) == (1, 123)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts", "inbox")
        assert world.ledger("performer_payable", owed.id) == 0
        assert violations(world) == {}

    @pytest.mark.parametrize("cause", ["duplicate", "fraud"])
    def test_what_was_no_earning_pays_a_debt_and_is_not_owed_again(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json, cause: str
    ) -> None:
        done = returned(world, finn, fay, paid, cause)
        assert done["state"] == "reversed"
        assert world.ledger("performer_payable", owed.id) == 0
        assert world.ledger("performer_receivable", owed.id) == -123
        assert finn.post("/v1/payout-runs", {"currency": "USD"})["payouts"] == 0
        assert violations(world) == {}

    def test_in_two_parts(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        returned(world, finn, fay, paid, "wrong_destination", 100)
        assert payout_of(finn, paid)["state"] == "partly_reversed"
        assert violations(world) == {}
        run = finn.get(f"/v1/payout-runs/{paid['run_id']}")
        assert (run["paid_minor"], run["reversed_minor"], run["done"]) == (23, 100, True)
        returned(world, finn, fay, paid, "fraud", 23)
        assert payout_of(finn, paid)["state"] == "reversed"
        run = finn.get(f"/v1/payout-runs/{paid['run_id']}")
        assert (run["paid_minor"], run["reversed_minor"], run["done"]) == (0, 123, True)
        assert world.ledger("performer_payable", owed.id) == -100
        assert violations(world) == {}

    def test_what_was_paid_again_can_come_back_again(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        returned(world, finn, fay, paid, "wrong_destination")
        world.replace_account(owed, finn)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts", "inbox")
        (again,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
        returned(world, finn, fay, again, "wrong_destination")
        assert violations(world) == {}
        world.replace_account(owed, finn)
        assert finn.post("/v1/payout-runs", {"currency": "USD"})["amount_minor"] == 123


class TestTwoPeople:
    def test_who_asked_does_not_decide(self, finn: Person, fay: Person, paid: Json) -> None:
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        no = {"reason": "Look again."}
        assert finn.refused("POST", f"{path}/approve") == "403 asker_may_not_approve"
        assert finn.refused("POST", f"{path}/reject", no) == "403 asker_may_not_approve"
        rejected = fay.post(f"{path}/reject", no)
        assert (rejected["state"], rejected["state_reason"]) == ("rejected", "Look again.")
        assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
        assert ask_for(finn, paid)["state"] == "asked"

    def test_nobody_decides_about_their_own_money(
        self, world: World, owed: Person, finn: Person, paid: Json
    ) -> None:
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        path = f"/v1/payouts/{paid['id']}/reversals"
        assert owed.refused("POST", path, WRONG) == "403 own_payout"
        asked = finn.post(path, WRONG)
        assert owed.refused("POST", f"/v1/reversals/{asked['id']}/approve") == "403 own_payout"

    def test_never_more_than_was_paid(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        path = f"/v1/payouts/{paid['id']}/reversals"
        assert finn.refused("POST", path, WRONG | {"amount_minor": 124}) == "409 more_than_was_paid"
        returned(world, finn, fay, paid, "fraud", 100)
        assert finn.refused("POST", path, WRONG | {"amount_minor": 24}) == "409 more_than_was_paid"
        finn.post(path, WRONG | {"amount_minor": 23})

    def test_one_after_the_other(self, finn: Person, fay: Person, paid: Json) -> None:
        path = f"/v1/payouts/{paid['id']}/reversals"
        ask_for(finn, paid, 1)
        assert fay.refused("POST", path, WRONG | {"amount_minor": 1}) == "409 reversal_at_work"

    def test_only_what_was_paid(self, finn: Person, approved: Json) -> None:
        path = f"/v1/payouts/{approved['id']}/reversals"
        assert finn.refused("POST", path, WRONG) == "409 move_not_allowed"

    @pytest.mark.parametrize(
        "wrong", [{"amount_minor": 0}, {"amount_minor": "1"}, {"cause": "mood"}, {"reason": ""}]
    )
    def test_nonsense(self, finn: Person, paid: Json, wrong: Json) -> None:
        path = f"/v1/payouts/{paid['id']}/reversals"
        assert finn.refused("POST", path, WRONG | wrong) == "422 invalid_request"

    def test_a_key_is_needed_and_a_repeat_changes_nothing(self, finn: Person, paid: Json) -> None:
        path = f"/v1/payouts/{paid['id']}/reversals"
        assert finn.refused("POST", path, WRONG, key="") == "400 idempotency_key_missing"
        first, again = (finn.post(path, WRONG, key="once") for _ in range(2))
        assert first == again

    def test_many_ask_at_once(self, finn: Person, fay: Person, paid: Json) -> None:
        path = f"/v1/payouts/{paid['id']}/reversals"
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(
                lambda number: (finn, fay)[number % 2].ask("POST", path, WRONG), range(8)
            )
        counted = Counter(answer.status_code for answer in answers)
        assert counted == {201: 1, 409: 7}

    def test_yes_and_no_at_once(self, world: World, finn: Person, fay: Person, paid: Json) -> None:
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        finja = world.finance("Finja")
        no = {"reason": "Look again."}
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(fay.ask, "POST", f"{path}/approve") for _ in range(3)]
            answers += [pool.submit(finja.ask, "POST", f"{path}/reject", no) for _ in range(3)]
        assert Counter(each.result().status_code for each in answers) == {200: 1, 409: 5}


class TestAskingStripe:
    @pytest.mark.parametrize("fault", ["drop_before", "apply_then_drop", "409", "429"])
    def test_without_an_answer_the_same_key_asks_again(
        self, world: World, finn: Person, fay: Person, paid: Json, fault: str
    ) -> None:
        world.stripe.fault(fault, path=REVERSALS)
        unknown = returned(world, finn, fay, paid, "wrong_destination")
        assert world.stripe.faults_fired() == 1
        assert unknown["state"] == "unknown"
        world.advance(10)
        world.sweep("reversals")
        done = finn.get(f"/v1/reversals/{unknown['id']}")
        assert (done["state"], reversals_at_stripe(world)) == ("reversed", 1)
        assert violations(world) == {}

    def test_what_the_account_does_not_cover_is_refused_and_may_be_asked_for_anew(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        """Stripe reverses only what the performer's balance there covers."""
        world.stripe.fault("balance_insufficient", path=REVERSALS)
        refused = returned(world, finn, fay, paid, "wrong_destination")
        assert refused["state"] == "refused"
        assert refused["error_code"] == "balance_insufficient"
        assert refused["state_reason"].startswith("Stripe refused it (balance_insufficient)")
        assert payout_of(finn, paid)["state"] == "paid"
        assert violations(world) == {}
        done = returned(world, finn, fay, paid, "wrong_destination")
        assert done["state"] == "reversed"
        assert done["idempotency_key"] != refused["idempotency_key"]
        assert violations(world) == {}

    def test_a_saved_server_error_is_resolved_by_looking_it_up(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        world.stripe.fault("error_500_after_apply", path=REVERSALS)
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        fay.post(f"{path}/approve")
        for _ in range(22):
            world.sweep("reversals")
            assert finn.get(path)["state"] == "unknown"
            assert "I1" not in violations(world)
            world.advance(HOUR)
        world.advance(HOUR)
        world.sweep("reversals")
        assert finn.get(path)["state"] == "reversed"
        assert reversals_at_stripe(world) == 1
        assert violations(world) == {}

    def test_finance_ends_it_once_a_look_up_found_nothing(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        gone = {"reason": "Stripe's support says that the request never came in."}
        world.stripe.fault("drop_before", path=REVERSALS)
        reversal = returned(world, finn, fay, paid, "wrong_destination")
        path = f"/v1/reversals/{reversal['id']}"
        assert reversal["state"] == "unknown"
        assert fay.refused("POST", f"{path}/absent", gone) == "409 not_proven_absent"
        world.advance(23 * HOUR + 60)
        world.sweep("reversals")
        assert "finance decides" in finn.get(path)["state_reason"]
        assert finn.refused("POST", f"{path}/absent", gone) == "403 asker_may_not_approve"
        assert fay.post(f"{path}/absent", gone)["state"] == "refused"
        assert fay.refused("POST", f"{path}/absent", gone) == "409 move_not_allowed"
        assert reversals_at_stripe(world) == 0
        assert returned(world, finn, fay, paid, "wrong_destination")["state"] == "reversed"
        assert reversals_at_stripe(world) == 1
        assert violations(world) == {}

    def test_the_event_may_be_faster_than_the_sender(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        world.stripe.fault("apply_then_drop", path=REVERSALS)
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        fay.post(f"{path}/approve")
        world.sweep("reversals")
        assert finn.get(path)["state"] == "unknown"
        world.sweep("poll_events", "inbox")
        assert finn.get(path)["state"] == "reversed"
        world.advance(10)
        world.sweep("reversals")
        assert violations(world) == {}

    def test_many_senders_send_it_once(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        fay.post(f"{path}/approve")

        async def many() -> None:
            await asyncio.gather(*(SWEEPS["reversals"].run(world.parts) for _ in range(6)))

        world.loopback.run(many())
        assert finn.get(path)["state"] == "reversed"
        assert reversals_at_stripe(world) == 1


class TestByHand:
    """Somebody reverses it on Stripe's own pages."""

    def by_hand(self, world: World, payout: Json, amount: int | None = None) -> str:
        path = f"transfers/{payout['transfer_id']}/reversals"
        made: str = world.stripe.control("POST", path, amount=amount)["id"]
        return made

    def test_it_is_named_and_booked_only_when_two_people_say_what_it_is(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        made = self.by_hand(world, paid, 100)
        (line,) = violations(world)["I1"]
        assert line.startswith(f"of {paid['transfer_id']} 100 USD came back at Stripe")
        world.sweep("poll_events", "inbox")
        (found,) = finn.get("/v1/reversals", state="found")["items"]
        assert (found["reversal_id"], found["amount_minor"]) == (made, 100)
        assert f"Stripe has {made}" in found["state_reason"]
        (line,) = violations(world)["I1"]
        assert line.endswith(f"our reversals say 0; nobody asked for {made}")
        world.sweep("stripe_lines")
        (unmatched,) = finn.get("/v1/reports/reconciliation")["unmatched"]
        assert (unmatched["type"], unmatched["reason"]) == ("transfer_refund", "on_its_way")
        path = f"/v1/reversals/{found['id']}"
        assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
        why = {"cause": "fraud", "reason": "Somebody clicked."}
        finn.post(f"{path}/explain", why)
        assert finn.refused("POST", f"{path}/approve") == "403 asker_may_not_approve"
        again = fay.post(f"{path}/reject", {"reason": "It was the wrong account."})
        assert (again["state"], again["cause"]) == ("found", None)
        finn.post(f"{path}/explain", why | {"cause": "wrong_destination"})
        assert finn.refused("POST", f"{path}/explain", why) == "409 move_not_allowed"
        done = fay.post(f"{path}/approve")
        assert (done["state"], done["cause"]) == ("reversed", "wrong_destination")
        assert payout_of(finn, paid)["state"] == "partly_reversed"
        assert world.ledger("performer_payable", owed.id) == -100
        assert violations(world) == {}
        assert finn.get("/v1/reports/reconciliation")["reconciled"]

    def test_what_finance_has_booked_otherwise_is_not_booked_once_more(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        self.by_hand(world, paid, 100)
        world.sweep("poll_events", "inbox", "stripe_lines")
        world.advance(25 * HOUR)
        (found,) = finn.get("/v1/reversals", state="found")["items"]
        world.sql(
            "INSERT INTO booked_balance_transaction (id, net_minor, currency,"
            " ledger_transaction_id) SELECT %s, 100, 'USD', id FROM ledger_transaction"
            " WHERE id NOT IN (SELECT ledger_transaction_id FROM booked_balance_transaction)"
            " LIMIT 1",
            found["balance_transaction_id"],
        )
        path = f"/v1/reversals/{found['id']}"
        finn.post(f"{path}/explain", {"cause": "fraud", "reason": "Somebody clicked."})
        assert fay.refused("POST", f"{path}/approve") == "409 line_booked_otherwise"
        assert payout_of(finn, paid)["state"] == "paid"

    def test_told_twice_it_is_found_once(self, world: World, finn: Person, paid: Json) -> None:
        self.by_hand(world, paid, 100)
        self.by_hand(world, paid)
        world.sweep("poll_events")

        async def many() -> None:
            await asyncio.gather(*(SWEEPS["inbox"].run(world.parts) for _ in range(4)))

        world.loopback.run(many())
        world.sweep("inbox")
        found = finn.get("/v1/reversals")["items"]
        assert [each["amount_minor"] for each in found] == [23, 100]

    def test_what_came_back_otherwise_is_not_asked_for_once_more(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        path = f"/v1/reversals/{ask_for(finn, paid)['id']}"
        fay.post(f"{path}/approve")
        self.by_hand(world, paid)
        world.sweep("poll_events", "inbox", "reversals")
        assert reversals_at_stripe(world) == 1
        refused = finn.get(path)
        assert refused["state"] == "refused"
        assert refused["state_reason"].startswith("More would come back than was paid")

    def test_of_a_payout_whose_transfer_we_have_not_seen_it_waits(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("apply_then_drop")
        world.sweep("payouts")
        (transfer,) = world.stripe.transfers()
        self.by_hand(world, {"transfer_id": transfer["id"]})
        world.sweep("poll_events", "inbox")
        assert finn.get("/v1/reversals")["items"] == []
        world.advance(10)
        world.sweep("payouts", "inbox")
        assert payout_of(finn, approved)["state"] == "paid"
        assert len(finn.get("/v1/reversals")["items"]) == 1

    def test_of_a_transfer_that_came_in_late_it_waits_until_that_one_is_booked(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        late = late_transfer(world, finn, approved)
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/absent", {"reason": "It was not there an hour ago."})
        self.by_hand(world, {"transfer_id": late}, 100)
        world.sweep("poll_events", "inbox")
        assert finn.get("/v1/reversals")["items"] == []
        fay.post(f"{path}/approve", {"reason": "Once more, then."})
        world.sweep("payouts")
        assert finn.get(path)["transfer_id"] == late
        world.advance(HOUR)
        world.sweep("inbox")
        (found,) = finn.get("/v1/reversals", state="found")["items"]
        assert (found["transfer_id"], found["amount_minor"]) == (late, 100)

    def test_one_that_was_called_absent_is_found_after_all(
        self, world: World, finn: Person, fay: Person, paid: Json
    ) -> None:
        world.stripe.fault("drop_before", path=REVERSALS)
        lost = returned(world, finn, fay, paid, "wrong_destination", 100)
        world.advance(23 * HOUR + 60)
        world.sweep("reversals")
        fay.post(f"/v1/reversals/{lost['id']}/absent", {"reason": "It was not there."})
        late = finn.get(f"/v1/reversals/{lost['id']}")
        request = {
            "transfer_id": paid["transfer_id"],
            "amount_minor": 100,
            "metadata": {"reversal_id": late["id"]},
        }
        made = world.loopback.run(world.gateway.reverse_transfer(**request, idempotency_key="late"))
        world.sweep("poll_events", "inbox")
        (found,) = finn.get("/v1/reversals", state="found")["items"]
        assert found["reversal_id"] == made.id


class TestWhatIsSaidOfIt:
    def test_to_the_performer(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        returned(world, finn, fay, paid, "wrong_destination", 100)
        returned(world, finn, fay, paid, "fraud", 23)
        (total,) = owed.get("/v1/earnings")["items"]
        parts = ("earned_minor", "waiting_minor", "paid_minor", "taken_back_minor")
        assert [total[part] for part in parts] == [123, 100, 0, 23]
        again, first = owed.get("/v1/earnings/lines")["items"]
        assert (again["source_type"], again["pay_minor"], again["status"]) == (
            "reversal",
            100,
            "waiting",
        )
        assert first["status"] == "reversed"
        assert first["status_reason"] == "Came back (fraud): It is not hers."

    def test_in_the_payout_report(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        before = world.now
        world.advance(60)
        done = returned(world, finn, fay, paid, "wrong_destination", 100)
        path = f"/v1/reports/payout-runs/{paid['run_id']}"
        report = finn.get(path)
        assert (report["totals"]["paid_minor"], report["totals"]["reversed_minor"]) == (23, 100)
        (line,) = report["lines"]
        assert (line["status"], line["transfer_id"]) == ("partly_reversed", paid["transfer_id"])
        (reversal,) = report["reversals"]
        assert (reversal["reversal_id"], reversal["cause"]) == (
            done["reversal_id"],
            "wrong_destination",
        )
        earlier = finn.get(path, as_of=before.isoformat())
        assert (earlier["totals"]["paid_minor"], earlier["reversals"]) == (123, [])
        world.replace_account(owed, finn)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        (line,) = finn.get(f"/v1/reports/payout-runs/{run['id']}")["lines"]
        assert (line["seconds"], line["gross_minor"], line["adjustments_minor"]) == (0, 0, 100)
        assert line["reversal_id"] == done["id"]

    def test_in_the_liabilities(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        """It is as old as the work it paid."""
        world.advance(26 * DAY)
        world.sweep("funds")
        done = returned(world, finn, fay, paid, "wrong_destination")
        (line,) = finn.get("/v1/reports/liabilities")["lines"]
        assert (line["source_type"], line["source_id"]) == ("reversal", done["id"])
        assert (line["amount_minor"], line["alarm"]) == (123, True)
        since = "2026-01-01T00:00:00Z"
        (rolled,) = finn.get("/v1/reports/roll-forward", since=since)["lines"]
        parts = ("earned_minor", "sent_minor", "returned_minor", "adjusted_minor", "closing_minor")
        assert [rolled[part] for part in parts] == [123, 123, 123, 0, 123]

    def test_what_is_owed_again_has_a_date(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        done = returned(world, finn, fay, paid, "wrong_destination")
        world.replace_account(owed, finn)
        world.advance(7 * DAY)
        world.sweep("funds", "inbox")
        (line,) = violations(world)["pay-by"]
        assert line.startswith(f"reversal {done['id']} should have been paid by")
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts", "inbox")
        world.advance(8 * DAY)
        found = findings(world)["pay-by"]
        assert (found.violations, found.notes != []) == ([], True)
