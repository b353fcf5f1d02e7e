"""What was booked and is not right is corrected by two people, to the cent and only by new rows."""

import itertools
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from fractions import Fraction

import pytest

from tests.reports.conftest import violations
from tests.world import Client, Json, Person, World

WHY = "The recording shows ten seconds more."


@pytest.fixture
def claim(owed: Person) -> Json:
    """Ana's minute at 74.00 an hour: 1.23, and a fee of 0.18, out of a role that is done."""
    found: Json = owed.get("/v1/claims")["items"][0]
    return found


def propose(finance: Person, claim: Json, seconds: int) -> Json:
    path = f"/v1/claims/{claim['id']}/corrections"
    made: Json = finance.post(path, {"seconds": seconds, "reason": WHY})
    return made


def corrected(asker: Person, approver: Person, claim: Json, seconds: int) -> Json:
    made = propose(asker, claim, seconds)
    done: Json = approver.post(f"/v1/corrections/{made['id']}/approve")
    return done


def about(asker: Person, approver: Person, performer: Person, what: str, amount_minor: int) -> Json:
    wanted = {"amount_minor": amount_minor, "currency": "USD", "reason": WHY}
    made = asker.post(f"/v1/performers/{performer.id}/{what}", wanted)
    done: Json = approver.post(f"/v1/corrections/{made['id']}/approve")
    return done


def run(world: World, finn: Person, fay: Person) -> Json:
    made = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{made['id']}/approve")
    world.sweep("payouts", "inbox")
    found: Json = finn.get(f"/v1/payout-runs/{made['id']}")
    return found


class TestMorePay:
    def test_the_platform_pays_what_nothing_is_set_aside_for(
        self, world: World, acme: Client, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        wallet = acme.wallet_minor
        done = corrected(finn, fay, claim, 70)
        assert (done["pay_minor"], done["booked_minor"], done["amount_minor"]) == (144, 123, 21)
        assert (done["client_minor"], done["platform_minor"], done["fee_minor"]) == (0, 21, 0)
        assert (done["state"], done["decided_by"]) == ("approved", fay.id)
        assert world.ledger("performer_payable", owed.id) == -144
        assert world.ledger("platform_expense") == 21
        assert world.ledger("platform_fees") == -18
        assert acme.wallet_minor == wallet
        assert violations(world) == {}
        assert run(world, finn, fay)["paid_minor"] == 144
        assert violations(world) == {}

    def test_what_is_still_set_aside_pays_first(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """Withheld, and the appeal is won: the money waits in the claim's own reserve."""
        world.capital(finn, 500_000)
        ana = world.performer("Ana")
        claim = world.claim(ana, world.published_job(acme, title="Withheld"))
        world.work(ana, claim, "perform", 60)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        proposal = {"ground": "no_work", "reason": "an hour of silence"}
        proposed = ravi.post(f"/v1/claims/{claim['id']}/withholdings", proposal)
        word = {"confirm": True, "reason": "heard it all"}
        world.reviewer("Rosa").post(f"/v1/withholdings/{proposed['id']}/decision", word)
        done = corrected(finn, fay, claim, 60)
        assert (done["client_minor"], done["platform_minor"], done["fee_minor"]) == (123, 0, 18)
        assert world.ledger("performer_payable", ana.id) == -123
        assert world.ledger("platform_fees") == -18
        assert world.ledger("platform_expense") == 0
        assert violations(world) == {}

    def test_a_second_correction_starts_from_the_first(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        corrected(finn, fay, claim, 70)
        done = corrected(fay, finn, claim, 80)
        assert (done["booked_minor"], done["pay_minor"], done["amount_minor"]) == (144, 164, 20)
        assert violations(world) == {}
        assert run(world, finn, fay)["paid_minor"] == 164


class TestLessPay:
    def test_it_becomes_a_debt_and_the_client_gets_pay_and_fee_back(
        self, world: World, acme: Client, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        wallet = acme.wallet_minor
        done = corrected(finn, fay, claim, 50)
        # 50 s make 1.03 and 0.15.
        assert (done["client_minor"], done["fee_minor"]) == (-20, -3)
        assert acme.wallet_minor == wallet + 23
        assert world.ledger("performer_payable", owed.id) == -123
        assert world.ledger("performer_receivable", owed.id) == 20
        assert world.ledger("platform_fees") == -15
        assert violations(world) == {}
        (total,) = owed.get("/v1/earnings")["items"]
        assert (total["earned_minor"], total["owed_back_minor"]) == (123, 20)
        (debt,) = finn.get("/v1/reports/liabilities")["receivables"]
        assert (debt["performer_id"], debt["amount_minor"]) == (owed.id, 20)

    def test_the_platforms_part_goes_back_first(
        self, world: World, acme: Client, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        wallet = acme.wallet_minor
        corrected(finn, fay, claim, 70)
        done = corrected(finn, fay, claim, 50)
        assert (done["platform_minor"], done["client_minor"], done["fee_minor"]) == (-21, -20, -3)
        assert world.ledger("platform_expense") == 0
        assert acme.wallet_minor == wallet + 23
        assert violations(world) == {}

    def test_to_nothing_at_all(
        self, world: World, acme: Client, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        done = corrected(finn, fay, claim, 0)
        assert (done["pay_minor"], done["amount_minor"], done["fee_minor"]) == (0, 123, -18)
        assert world.ledger("platform_fees") == 0
        assert violations(world) == {}

    def test_up_and_back_to_where_it_was_leaves_nothing(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        before = finn.get("/v1/reports/trial-balance")["accounts"]
        for seconds in (61, 3_000, 62, 60):
            corrected(finn, fay, claim, seconds)
        kinds = ("platform_fees", "platform_expense", "client_wallet")
        for kind in kinds:
            was = sum(each["balance_minor"] for each in before if each["kind"] == kind)
            now = finn.get("/v1/reports/trial-balance")["accounts"]
            assert sum(each["balance_minor"] for each in now if each["kind"] == kind) == was
        payable = -world.ledger("performer_payable", owed.id)
        assert payable - world.ledger("performer_receivable", owed.id) == 123
        assert violations(world) == {}

    def test_what_went_back_to_the_client_is_not_fetched_again(
        self, world: World, acme: Client, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        corrected(finn, fay, claim, 50)
        wallet = acme.wallet_minor
        done = corrected(finn, fay, claim, 60)
        assert (done["platform_minor"], done["client_minor"]) == (20, 0)
        assert acme.wallet_minor == wallet
        assert violations(world) == {}

    def test_any_way_ends_at_the_exact_total(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        """Half up, once, whatever the steps: against fractions."""
        chance = random.Random(20261126)  # noqa: S311 - no secret
        for seconds in (chance.randrange(1, 5_400) for _ in range(6)):
            corrected(finn, fay, claim, seconds)
            exact = int(Fraction(seconds * 7_400, 3_600) + Fraction(1, 2))
            payable = -world.ledger("performer_payable", owed.id)
            assert payable - world.ledger("performer_receivable", owed.id) == exact
        assert violations(world) == {}


class TestDebts:
    @pytest.fixture
    def debtor(self, owed: Person, finn: Person, fay: Person, claim: Json) -> Person:
        """Ana owes 0.20 and is owed 1.23, in no run yet."""
        corrected(finn, fay, claim, 50)
        return owed

    def test_netted_it_is_taken_off_the_next_payout(
        self, world: World, debtor: Person, finn: Person, fay: Person
    ) -> None:
        about(finn, fay, debtor, "nettings", 20)
        assert world.ledger("performer_payable", debtor.id) == -103
        assert world.ledger("performer_receivable", debtor.id) == 0
        assert violations(world) == {}
        (total,) = debtor.get("/v1/earnings")["items"]
        parts = ("earned_minor", "waiting_minor", "taken_back_minor", "owed_back_minor")
        assert [total[part] for part in parts] == [123, 103, 20, 0]
        lines = debtor.get("/v1/earnings/lines")["items"]
        assert [(line["source_type"], line["pay_minor"], line["reason"]) for line in lines] == [
            ("netting", -20, WHY),
            ("claim", 123, None),
        ]
        liabilities = finn.get("/v1/reports/liabilities")
        assert [line["amount_minor"] for line in liabilities["lines"]] == [123, -20]
        paid = run(world, finn, fay)
        assert (paid["amount_minor"], paid["paid_minor"]) == (103, 103)
        report = finn.get(f"/v1/reports/payout-runs/{paid['id']}")
        assert report["totals"]["gross_minor"] == 123
        assert report["totals"]["adjustments_minor"] == -20
        assert report["totals"]["net_minor"] == 103
        assert world.ledger("performer_payable", debtor.id) == 0
        assert violations(world) == {}
        (rolled,) = finn.get("/v1/reports/roll-forward", since="2026-01-01T00:00:00Z")["lines"]
        parts = ("earned_minor", "sent_minor", "adjusted_minor", "closing_minor")
        assert [rolled[part] for part in parts] == [123, 103, -20, 0]

    def test_a_released_payout_frees_the_netting_too(
        self, world: World, debtor: Person, finn: Person, fay: Person
    ) -> None:
        about(finn, fay, debtor, "nettings", 20)
        made = finn.post("/v1/payout-runs", {"currency": "USD"})
        finn.post(f"/v1/payout-runs/{made['id']}/discard", {"reason": "wrong day"})
        assert run(world, finn, fay)["paid_minor"] == 103
        assert violations(world) == {}

    def test_what_is_netted_to_nothing_is_in_no_run(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        corrected(finn, fay, claim, 0)
        about(finn, fay, owed, "nettings", 123)
        made = finn.post("/v1/payout-runs", {"currency": "USD"})
        assert (made["payouts"], made["excluded"]) == (0, 0)
        assert violations(world) == {}
        world.advance_to(datetime.fromisoformat(claim["pay_by"]) + timedelta(seconds=1))
        assert "pay-by" not in violations(world)
        runs = len(finn.get("/v1/payout-runs")["items"])
        world.sweep("payout_runs")
        assert len(finn.get("/v1/payout-runs")["items"]) == runs
        assert "I10" not in violations(world)

    def test_never_more_than_is_owed_or_free(
        self, world: World, debtor: Person, finn: Person, fay: Person
    ) -> None:
        path = f"/v1/performers/{debtor.id}"
        wanted = {"amount_minor": 21, "currency": "USD", "reason": WHY}
        for what in ("nettings", "write-offs"):
            assert finn.refused("POST", f"{path}/{what}", wanted) == "409 not_that_much_owed"
        first, second = (
            finn.post(f"{path}/{what}", wanted | {"amount_minor": 15})
            for what in ("nettings", "write-offs")
        )
        fay.post(f"/v1/corrections/{first['id']}/approve")
        late = f"/v1/corrections/{second['id']}/approve"
        assert fay.refused("POST", late) == "409 not_that_much_owed"
        finn.post("/v1/payout-runs", {"currency": "USD"})
        wanted |= {"amount_minor": 5}
        assert finn.refused("POST", f"{path}/nettings", wanted) == "409 not_that_much_payable"
        about(finn, fay, debtor, "write-offs", 5)
        assert world.ledger("bad_debt") == 5
        assert world.ledger("performer_receivable", debtor.id) == 0
        assert violations(world) == {}

    def test_netted_while_a_run_is_drafted(
        self, world: World, debtor: Person, finn: Person, fay: Person
    ) -> None:
        """Either the run pays less, or the netting comes too late; never both whole."""
        wanted = {"amount_minor": 20, "currency": "USD", "reason": WHY}
        made = finn.post(f"/v1/performers/{debtor.id}/nettings", wanted)
        path = f"/v1/corrections/{made['id']}/approve"
        with ThreadPoolExecutor(4) as pool:
            drafts = [
                pool.submit(finn.ask, "POST", "/v1/payout-runs", {"currency": "USD"})
                for _ in range(2)
            ]
            netting = pool.submit(fay.ask, "POST", path)
        drafted = sum(each.result().json()["amount_minor"] for each in drafts)
        netted = netting.result().status_code == 200
        assert drafted == (103 if netted else 123)
        assert violations(world) == {}

    def test_a_recovery_from_the_account_pays_the_debt(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json, claim: Json
    ) -> None:
        """Paid out, then found too much: the debt, and the reversal that pays it."""
        corrected(finn, fay, claim, 50)
        wanted = {"amount_minor": 20, "cause": "duplicate", "reason": "Counted twice."}
        asked = finn.post(f"/v1/payouts/{paid['id']}/reversals", wanted)
        fay.post(f"/v1/reversals/{asked['id']}/approve")
        world.sweep("reversals", "inbox")
        assert world.ledger("performer_receivable", owed.id) == 0
        assert violations(world) == {}


class TestAdjustments:
    def test_the_platform_pays_something_more(
        self, world: World, owed: Person, finn: Person, fay: Person
    ) -> None:
        about(finn, fay, owed, "adjustments", 500)
        assert world.ledger("platform_expense") == 500
        first, _ = owed.get("/v1/earnings/lines")["items"]
        assert (first["source_type"], first["pay_minor"], first["reason"]) == (
            "correction",
            500,
            WHY,
        )
        paid = run(world, finn, fay)
        assert paid["paid_minor"] == 623
        report = finn.get(f"/v1/reports/payout-runs/{paid['id']}")
        assert report["totals"]["adjustments_minor"] == 500
        assert violations(world) == {}


class TestTwoPeople:
    def test_who_proposed_does_not_decide(self, finn: Person, fay: Person, claim: Json) -> None:
        path = f"/v1/corrections/{propose(finn, claim, 70)['id']}"
        no = {"reason": "Listen again."}
        assert finn.refused("POST", f"{path}/approve") == "403 second_person_needed"
        assert finn.refused("POST", f"{path}/reject", no) == "403 second_person_needed"
        rejected = fay.post(f"{path}/reject", no)
        assert (rejected["state"], rejected["state_reason"]) == ("rejected", "Listen again.")
        assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
        propose(finn, claim, 71)

    def test_nobody_corrects_their_own_pay(
        self, world: World, owed: Person, finn: Person, claim: Json
    ) -> None:
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 70, "reason": WHY}
        assert owed.refused("POST", path, wanted) == "403 second_person_needed"
        made = finn.post(path, wanted)
        refused = owed.refused("POST", f"/v1/corrections/{made['id']}/approve")
        assert refused == "403 second_person_needed"
        own = {"amount_minor": 1, "currency": "USD", "reason": WHY}
        path = f"/v1/performers/{owed.id}/adjustments"
        assert owed.refused("POST", path, own) == "403 second_person_needed"

    def test_nobody_who_acts_for_the_client(
        self, world: World, acme: Client, finn: Person, claim: Json
    ) -> None:
        world.sql(
            "INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", acme.member.id
        )
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 50, "reason": WHY}
        assert acme.member.refused("POST", path, wanted) == "403 acts_for_the_client"
        made = finn.post(path, wanted)
        path = f"/v1/corrections/{made['id']}/approve"
        assert acme.member.refused("POST", path) == "403 acts_for_the_client"
        path = f"/v1/corrections/{made['id']}/reject"
        assert acme.member.refused("POST", path, {"reason": WHY}) == "403 acts_for_the_client"

    def test_leaving_the_client_for_it_helps_nobody(
        self, world: World, acme: Client, finn: Person, fay: Person, claim: Json
    ) -> None:
        code = acme.member.post("/v1/client/invites")["code"]
        fay.post("/v1/invites/accept", {"code": code})
        path = f"/v1/claims/{claim['id']}/corrections"
        unseen = {"seconds": 50, "reason": "\u200b\u202e\u200b"}
        assert finn.refused("POST", path, unseen) == "422 invalid_request"
        made = finn.post(path, {"seconds": 50, "reason": WHY})
        assert fay.ask("DELETE", f"/v1/client/members/{fay.id}").status_code == 204
        path = f"/v1/corrections/{made['id']}/approve"
        assert fay.refused("POST", path) == "403 acts_for_the_client"
        assert world.finance("Fay").post(path)["state"] == "approved"

    def test_one_proposal_per_claim(self, finn: Person, fay: Person, claim: Json) -> None:
        propose(finn, claim, 70)
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 80, "reason": WHY}
        assert fay.refused("POST", path, wanted) == "409 correction_proposed"

    def test_what_is_right_is_not_corrected(self, finn: Person, claim: Json) -> None:
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 60, "reason": WHY}
        assert finn.refused("POST", path, wanted) == "409 nothing_to_correct"

    def test_what_is_not_decided_is_not_corrected(
        self, world: World, acme: Client, finn: Person
    ) -> None:
        claim = world.claim(world.performer("Bea"), world.published_job(acme, title="Open"))
        path = f"/v1/claims/{claim['id']}/corrections"
        assert finn.refused("POST", path, {"seconds": 60, "reason": WHY}) == "409 pay_not_decided"

    @pytest.mark.parametrize("wrong", [{"seconds": -1}, {"seconds": "60"}, {"reason": ""}])
    def test_nonsense(self, finn: Person, claim: Json, wrong: Json) -> None:
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 70, "reason": WHY} | wrong
        assert finn.refused("POST", path, wanted) == "422 invalid_request"

    def test_a_repeat_changes_nothing(
        self, world: World, finn: Person, fay: Person, claim: Json
    ) -> None:
        path = f"/v1/claims/{claim['id']}/corrections"
        wanted = {"seconds": 70, "reason": WHY}
        assert finn.refused("POST", path, wanted, key="") == "400 idempotency_key_missing"
        first, again = (finn.post(path, wanted, key="once") for _ in range(2))
        assert first == again
        path = f"/v1/corrections/{first['id']}/approve"
        done, replayed = (fay.post(path, key="yes") for _ in range(2))
        assert done == replayed
        assert world.ledger("platform_expense") == 21

    def test_many_decide_at_once(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        path = f"/v1/corrections/{propose(finn, claim, 70)['id']}"
        others = [fay, world.finance("Finja")]
        with ThreadPoolExecutor(8) as pool:
            answers = [
                pool.submit(
                    others[number % 2].ask,
                    "POST",
                    f"{path}/{'reject' if number % 4 == 3 else 'approve'}",
                    {"reason": WHY} if number % 4 == 3 else None,
                )
                for number in range(8)
            ]
        assert Counter(each.result().status_code for each in answers) == {200: 1, 409: 7}
        assert violations(world) == {}

    def test_many_net_at_once(
        self, world: World, owed: Person, finn: Person, fay: Person, claim: Json
    ) -> None:
        """Each is covered alone; together only one is."""
        corrected(finn, fay, claim, 50)
        wanted = {"amount_minor": 15, "currency": "USD", "reason": WHY}
        kinds = itertools.islice(itertools.cycle(("nettings", "write-offs")), 6)
        made = [finn.post(f"/v1/performers/{owed.id}/{kind}", wanted) for kind in kinds]
        with ThreadPoolExecutor(6) as pool:
            answers = [
                pool.submit(fay.ask, "POST", f"/v1/corrections/{each['id']}/approve")
                for each in made
            ]
        assert Counter(each.result().status_code for each in answers) == {200: 1, 409: 5}
        assert world.ledger("performer_receivable", owed.id) == 5
        assert violations(world) == {}
