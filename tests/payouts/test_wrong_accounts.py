"""A payout account that is not the performer's, or that Stripe gave up: how they are paid again."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from marketplace.performers import payout_accounts
from tests.payouts.conftest import ask_for, returned
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World

WHY = {"reason": "It is her sister's account."}


def retired(finance: Person, performer: Person) -> Json:
    path = f"/v1/performers/{performer.id}/payout-account/retire"
    account: Json = finance.post(path, WHY)
    return account


def drafted(finance: Person) -> Json:
    run: Json = finance.post("/v1/payout-runs", {"currency": "USD"})
    return run


def only_payout(finance: Person, run: Json) -> Json:
    (payout,) = finance.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    found: Json = finance.get(f"/v1/payouts/{payout['id']}")
    return found


def sent(world: World, finn: Person, fay: Person) -> Json:
    run = drafted(finn)
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts", "funds", "inbox")
    return only_payout(finn, run)


def account_of(world: World, performer: Person) -> str | None:
    found: str | None = world.value(
        "SELECT stripe_account_id FROM payout_account WHERE performer_id = %s", performer.id
    )
    return found


class TestWrongDestination:
    def test_what_came_back_goes_to_another_account_or_nowhere(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        returned(world, finn, fay, paid, "wrong_destination")
        run = drafted(finn)
        assert (run["payouts"], run["excluded_minor"]) == (0, 123)
        (excluded,) = finn.get(f"/v1/payout-runs/{run['id']}/exclusions")["items"]
        assert excluded["reason"] == "wrong_destination"
        (total,) = owed.get("/v1/earnings")["items"]
        assert total["exclusion"]["reason"] == "wrong_destination"
        assert "open another one" in total["exclusion"]["remedy"]
        (line,) = finn.get("/v1/reports/liabilities")["lines"]
        assert line["reason"] == "wrong_destination"
        retired(finn, owed)
        assert drafted(finn)["payouts"] == 0
        (total,) = owed.get("/v1/earnings")["items"]
        assert total["exclusion"]["reason"] == "no_account"
        another = world.onboard(owed)
        assert another != paid["destination"]
        (total,) = owed.get("/v1/earnings")["items"]
        assert total["exclusion"] is None
        held = sent(world, finn, fay)
        assert (held["state"], held["destination"]) == ("held", another)
        assert held["state_reason"].startswith("destination_cooling")
        world.advance(3 * DAY)
        fay.post(f"/v1/payouts/{held['id']}/approve", WHY)
        world.sweep("payouts", "funds", "inbox")
        assert finn.get(f"/v1/payouts/{held['id']}")["state"] == "paid"
        assert violations(world) == {}

    def test_approved_before_it_was_known_it_is_held(
        self,
        world: World,
        acme: Client,
        ravi: Person,
        owed: Person,
        finn: Person,
        fay: Person,
        paid: Json,
    ) -> None:
        world.accepted_claim(owed, world.published_job(acme, title="Once more"), ravi)
        run = drafted(finn)
        asked = ask_for(finn, paid)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        fay.post(f"/v1/reversals/{asked['id']}/approve")
        world.sweep("payouts")
        held = only_payout(finn, run)
        assert held["state"] == "held"
        assert held["state_reason"].startswith("wrong_destination: ")

    @pytest.mark.parametrize("verb", ["asked", "rejected"])
    def test_one_alone_stops_nobodys_pay(
        self,
        world: World,
        acme: Client,
        ravi: Person,
        owed: Person,
        finn: Person,
        fay: Person,
        paid: Json,
        verb: str,
    ) -> None:
        asked = ask_for(finn, paid)
        if verb == "rejected":
            fay.post(f"/v1/reversals/{asked['id']}/reject", WHY)
        world.accepted_claim(owed, world.published_job(acme, title="Once more"), ravi)
        assert drafted(finn)["payouts"] == 1


class TestRetired:
    def test_the_performer_opens_another_one(
        self, world: World, owed: Person, finn: Person
    ) -> None:
        before = account_of(world, owed)
        account = retired(finn, owed)
        assert (account["transfers"], account["seen_at"]) == ("unrequested", None)
        assert account_of(world, owed) is None
        (event,) = world.sql("SELECT * FROM audit_event WHERE action = 'account_retired'")
        assert (event["actor"], event["reason"]) == (finn.id, WHY["reason"])
        assert event["detail"] == {"stripe_account_id": before}
        world.advance(9 * DAY)
        assert world.onboard(owed) not in {before, None}
        changed = world.value("SELECT destination_changed_at FROM payout_account")
        assert world.now - changed < timedelta(hours=1)
        deeds = world.finance("Finja").get("/v1/reports/duties")["deeds"]
        (deed,) = (each for each in deeds if each["subject_type"] == "payout_account")
        assert (deed["deed"], deed["actor"], deed["run_id"]) == ("account_retired", finn.id, None)

    def test_what_stripe_tells_of_the_old_one_changes_nothing(
        self, world: World, owed: Person, finn: Person
    ) -> None:
        before = account_of(world, owed)
        assert before is not None
        seen = world.loopback.run(
            payout_accounts.look_at(world.parts.sessions, world.gateway, before)
        )
        retired(finn, owed)
        world.transact(lambda session: payout_accounts.note_seen(session, seen))
        world.stripe.lift(before)
        world.sweep("poll_events", "inbox", "poll_accounts")
        account = owed.get("/v1/payout-account")
        assert (account["transfers"], account["seen_at"]) == ("unrequested", None)

    @pytest.mark.parametrize("when", ["drafted", "approved"])
    def test_what_waits_to_be_paid_there_is_held_and_the_next_run_pays_the_other(
        self, world: World, owed: Person, finn: Person, fay: Person, when: str
    ) -> None:
        run = drafted(finn)
        if when == "drafted":
            retired(finn, owed)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        if when == "approved":
            retired(finn, owed)
        another = world.onboard(owed)
        world.sweep("payouts")
        held = only_payout(finn, run)
        assert held["state"] == "held"
        assert "release this payout" in held["state_reason"]
        finn.post(f"/v1/payouts/{held['id']}/release", WHY)
        world.advance(3 * DAY)
        done = sent(world, finn, fay)
        assert (done["state"], done["destination"]) == ("paid", another)
        assert violations(world) == {}

    def test_who_may_and_what_there_is(self, world: World, owed: Person, finn: Person) -> None:
        path = f"/v1/performers/{owed.id}/payout-account/retire"
        assert owed.refused("POST", path, WHY) == "403 forbidden"
        assert finn.refused("POST", path, {}) == "422 invalid_request"
        assert finn.refused("POST", path, WHY, key="") == "400 idempotency_key_missing"
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        assert owed.refused("POST", path, WHY) == "403 own_payout_account"
        first = finn.post(path, WHY, key="once")
        world.onboard(owed)
        assert finn.post(path, WHY, key="once") == first
        assert account_of(world, owed) is not None
        bea = world.performer("Bea")
        nobody = f"/v1/performers/{bea.id}/payout-account/retire"
        assert finn.refused("POST", nobody, WHY) == "404 not_found"

    def test_many_retire_it_at_once(self, world: World, owed: Person, finn: Person) -> None:
        path = f"/v1/performers/{owed.id}/payout-account/retire"
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: finn.ask("POST", path, WHY), range(4)))
        assert sorted(each.status_code for each in answers) == [200, 404, 404, 404]
        assert world.value("SELECT key_number FROM payout_account") == 2

    def test_an_answer_that_comes_after_it_was_retired_does_not_bring_it_back(
        self, world: World, finn: Person
    ) -> None:
        """Asked twice at once: by now the other answer was kept, and that account is retired."""
        bea = world.performer("Bea")
        body = {"return_url": "https://app.example/paid"}
        world.stripe.fault("slow", path="/v1/accounts$", seconds=1)
        asked = "SELECT count(*) FROM payout_account WHERE asked_country IS NOT NULL"
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(bea.refused, "POST", "/v1/payout-account", body)
            while not answer.done() and not world.value(asked):
                time.sleep(0.01)
            world.sql("UPDATE payout_account SET key_number = 2, asked_country = NULL")
            assert answer.result() == "409 account_retired"
        assert account_of(world, bea) is None
        assert world.onboard(bea) is not None


class TestGoneAtStripe:
    def test_an_account_that_stripe_does_not_show_any_more_reaches_a_person(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        world.forget_at_stripe(approved["destination"])
        world.sweep("payouts")
        held = finn.get(f"/v1/payouts/{approved['id']}")
        assert (held["state"], held["attempts"]) == ("held", [])
        assert held["state_reason"].startswith("Stripe shows us no such account any more")
        retired(finn, owed)
        finn.post(f"/v1/payouts/{approved['id']}/release", WHY)
        world.onboard(owed)
        world.advance(3 * DAY + HOUR)
        assert sent(world, finn, fay)["state"] == "paid"
        assert violations(world) == {}
