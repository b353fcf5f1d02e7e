"""A run that is paused, edited after its approval, or paid to a destination that changed."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from starlette.types import Receive, Scope, Send

from marketplace.scheduler import SWEEPS
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.pace import Pace
from tests.ledger.test_attacks import refused
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, STRIPE_KEY, Client, Json, Person, World

WHY = {"reason": "Ana wrote that something is wrong."}


@pytest.fixture
def both(world: World, acme: Client, ravi: Person, finn: Person, owed: Person) -> Json:
    """A draft by Finn of two payouts: Ana's and Bea's, 1.23 each."""
    bea = world.performer("Bea", onboarded=True)
    world.accepted_claim(bea, world.published_job(acme, title="Bea's"), ravi)
    run: Json = finn.post("/v1/payout-runs", {"currency": "USD"})
    assert run["payouts"] == 2
    return run


def payouts(finance: Person, run: Json) -> list[Json]:
    found: list[Json] = finance.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    return sorted(found, key=lambda each: each["id"])


def states(finance: Person, run: Json) -> list[str]:
    return [each["state"] for each in payouts(finance, run)]


class TestPaused:
    def test_nothing_new_is_begun_until_it_goes_on(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payout-runs/{approved['run_id']}"
        paused = finn.post(f"{path}/pause", WHY)
        assert (paused["state"], paused["approved_by"]) == ("paused", fay.id)
        world.sweep("payouts")
        assert world.stripe.transfers() == []
        (line,) = owed.get("/v1/earnings/lines")["items"]
        assert line["status_reason"].endswith(f"paused: {WHY['reason']}.")
        world.advance(HOUR)
        assert "I13" not in violations(world)
        assert finn.refused("POST", f"{path}/pause", WHY) == "409 move_not_allowed"
        assert finn.refused("POST", f"{path}/resume", WHY) == "403 preparer_may_not_approve"
        assert fay.post(f"{path}/resume", WHY)["state"] == "approved"
        assert fay.refused("POST", f"{path}/resume", WHY) == "409 move_not_allowed"
        world.sweep("payouts", "inbox")
        assert len(world.stripe.transfers()) == 1

    def test_what_is_on_its_way_goes_on(self, world: World, finn: Person, approved: Json) -> None:
        world.stripe.fault("apply_then_drop")
        world.sweep("payouts")
        finn.post(f"/v1/payout-runs/{approved['run_id']}/pause", WHY)
        world.advance(10)
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"

    def test_who_is_paid_by_it_does_not_let_it_go_on(
        self, world: World, owed: Person, finn: Person, fay: Person, both: Json
    ) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        finn.post(f"{path}/pause", WHY)
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        assert owed.refused("POST", f"{path}/resume", WHY) == "403 own_payout"
        assert world.finance("Finja").post(f"{path}/resume", WHY)["state"] == "approved"

    def test_who_edited_it_since_its_approval_does_not_let_it_go_on(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        """The last of its run was given up: the approval stands, of nothing that waits."""
        path = f"/v1/payout-runs/{approved['run_id']}"
        world.stripe.restrict(approved["destination"])
        world.sweep("payouts")
        finja = world.finance("Finja")
        finja.post(f"/v1/payouts/{approved['id']}/release", WHY)
        finn.post(f"{path}/pause", WHY)
        assert finja.refused("POST", f"{path}/resume", WHY) == "403 editor_may_not_approve"
        fay.post(f"{path}/resume", WHY)

    def test_edited_while_it_is_paused_it_says_so_to_who_approves_it_again(
        self, world: World, finn: Person, fay: Person, both: Json
    ) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        finn.post(f"{path}/pause", WHY)
        first, second = payouts(finn, both)
        finn.post(f"/v1/payouts/{first['id']}/hold", WHY)
        run = finn.get(path)
        assert run["state"] == "draft"
        assert run["state_reason"].endswith(f"approve it again. It was paused: {WHY['reason']}")
        world.sweep("payouts")
        assert world.stripe.transfers() == []
        assert fay.post(f"{path}/approve")["state_reason"] is None
        world.sweep("payouts", "inbox")
        assert finn.get(f"/v1/payouts/{second['id']}")["state"] == "paid"

    def test_it_is_resumed_and_not_approved(
        self, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payout-runs/{approved['run_id']}"
        finn.post(f"{path}/pause", WHY)
        assert fay.refused("POST", f"{path}/approve") == "409 move_not_allowed"
        assert fay.post(f"{path}/resume", WHY)["state"] == "approved"

    def test_a_draft_is_not_paused(self, finn: Person, fay: Person, both: Json) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        assert finn.refused("POST", f"{path}/pause", WHY) == "409 move_not_allowed"
        assert fay.refused("POST", f"{path}/resume", WHY) == "409 move_not_allowed"

    def test_an_attempt_that_begins_all_the_same(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """With the application's own login."""
        finn.post(f"/v1/payout-runs/{approved['run_id']}/pause", WHY)
        attack = (
            "INSERT INTO payout_attempt (id, payout_id, number, idempotency_key, request,"
            " in_flight_transaction_id) SELECT uuidv7(), id, 1, format('payout-%s-attempt-1', id),"
            " jsonb_build_object('amount_minor', amount_minor, 'currency', currency,"
            " 'destination', destination, 'transfer_group', format('payout-%s', id), 'metadata',"
            " jsonb_build_object('payout_id', id, 'attempt', '1')),"
            " (SELECT id FROM ledger_transaction LIMIT 1) FROM payout"
        )
        with world.connection(actor="mallory") as mallory:
            refused(mallory, "payout_run_approved", attack)

    def test_paused_while_it_is_sent(
        self, world: World, finn: Person, both: Json, fay: Person
    ) -> None:
        """Each payout is paid whole or waits; what was begun ends."""
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")

        async def many() -> None:
            await asyncio.gather(*(SWEEPS["payouts"].run(world.parts) for _ in range(3)))

        with ThreadPoolExecutor(1) as pool:
            pausing = pool.submit(finn.ask, "POST", f"{path}/pause", WHY)
            world.loopback.run(many())
        assert pausing.result().status_code == 200
        assert set(states(finn, both)) <= {"paid", "approved"}
        fay.post(f"{path}/resume", WHY)
        world.advance(61)
        world.sweep("payouts", "inbox")
        assert states(finn, both) == ["paid", "paid"]
        assert len(world.stripe.transfers()) == 2
        assert violations(world) == {}


class TestEdited:
    @pytest.mark.parametrize("edit", ["release", "hold"])
    def test_an_edit_after_approval_voids_it(
        self, world: World, finn: Person, fay: Person, both: Json, edit: str
    ) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        first, second = payouts(finn, both)
        finja = world.finance("Finja")
        finja.post(f"/v1/payouts/{first['id']}/{edit}", WHY)
        run = finn.get(path)
        assert (run["state"], run["approved_by"], run["edited_by"]) == ("draft", None, [finja.id])
        assert finn.get(f"/v1/payouts/{second['id']}")["state"] == "draft"
        world.sweep("payouts")
        assert world.stripe.transfers() == []
        assert finn.refused("POST", f"{path}/approve") == "403 preparer_may_not_approve"
        assert finja.refused("POST", f"{path}/approve") == "403 editor_may_not_approve"
        again = f"/v1/payouts/{first['id']}/approve"
        expected = "run_not_approved" if edit == "hold" else "move_not_allowed"
        assert fay.refused("POST", again, WHY) == f"409 {expected}"
        assert fay.post(f"{path}/approve")["approved_by"] == fay.id
        world.sweep("payouts", "inbox")
        assert finn.get(f"/v1/payouts/{second['id']}")["state"] == "paid"
        assert len(world.stripe.transfers()) == 1
        assert violations(world) == {}

    def test_who_held_a_payout_does_not_approve_it_again(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/hold", WHY)
        assert fay.refused("POST", f"{path}/approve", WHY) == "403 editor_may_not_approve"
        assert world.finance("Finja").post(f"{path}/approve", WHY)["state"] == "approved"
        world.sweep("payouts", "inbox")
        assert finn.get(path)["state"] == "paid"
        assert violations(world) == {}

    def test_an_unknown_outcome_ends_although_its_run_was_edited(
        self, world: World, finn: Person, fay: Person, both: Json
    ) -> None:
        """Two people are all of finance; one prepared the run, the other held another payout."""
        fay.post(f"/v1/payout-runs/{both['id']}/approve")
        world.stripe.fault("drop_before")
        world.stripe.fault("drop_before", path="/v1/balance", method="GET", nth=2)
        world.sweep("payouts")
        lost, waiting = sorted(payouts(finn, both), key=lambda each: each["state"] == "approved")
        assert (lost["state"], waiting["state"]) == ("unknown", "approved")
        fay.post(f"/v1/payouts/{waiting['id']}/hold", WHY)
        world.advance(23 * HOUR + 60)
        world.sweep("payouts")
        path = f"/v1/payouts/{lost['id']}"
        assert finn.refused("POST", f"{path}/absent", WHY) == "403 preparer_may_not_approve"
        assert fay.post(f"{path}/absent", WHY)["state"] == "refused"
        assert fay.refused("POST", f"{path}/approve", WHY) == "403 editor_may_not_approve"
        for each in (lost, waiting):
            finn.post(f"/v1/payouts/{each['id']}/release", WHY)
        following = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{following['id']}/approve")
        world.sweep("payouts", "inbox")
        assert states(finn, following) == ["paid", "paid"]
        assert violations(world) == {}

    def test_what_is_sent_stays(self, world: World, finn: Person, fay: Person, both: Json) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        world.stripe.fault("drop_before", path="/v1/balance", method="GET", nth=2)
        world.sweep("payouts")
        (waiting,) = (each for each in payouts(finn, both) if each["state"] == "approved")
        finn.post(f"/v1/payouts/{waiting['id']}/release", WHY)
        run = finn.get(path)
        assert (run["state"], run["done"], run["paid_minor"]) == ("approved", True, 123)
        assert violations(world) == {}

    def test_the_editor_of_a_draft_does_not_approve_it_either(
        self, finn: Person, fay: Person, both: Json
    ) -> None:
        first, _ = payouts(finn, both)
        fay.post(f"/v1/payouts/{first['id']}/release", WHY)
        refusal = fay.refused("POST", f"/v1/payout-runs/{both['id']}/approve")
        assert refusal == "403 editor_may_not_approve"

    def test_partly_sent_it_is_not_discarded_and_the_rest_is_released(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person, both: Json
    ) -> None:
        """No third person is there who could approve what is left."""
        finn.post(f"/v1/payout-runs/{both['id']}/discard", WHY)
        cleo = world.performer("Cleo", onboarded=True)
        world.accepted_claim(cleo, world.published_job(acme, title="Cleo's"), ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        path = f"/v1/payout-runs/{run['id']}"
        fay.post(f"{path}/approve")
        for nth in (2, 3):
            world.stripe.fault("drop_before", path="/v1/balance", method="GET", nth=nth)
        world.sweep("payouts", "inbox")
        held, left = (each for each in payouts(finn, run) if each["state"] == "approved")
        fay.post(f"/v1/payouts/{held['id']}/hold", WHY)
        assert finn.refused("POST", f"{path}/approve") == "403 preparer_may_not_approve"
        assert fay.refused("POST", f"{path}/approve") == "403 editor_may_not_approve"
        for each in (held, left):
            assert finn.refused("POST", f"{path}/discard", WHY) == "409 partly_sent"
            assert not finn.get(path)["done"]
            finn.post(f"/v1/payouts/{each['id']}/release", WHY)
        assert finn.refused("POST", f"{path}/discard", WHY) == "409 partly_sent"
        run = finn.get(path)
        assert (run["state"], run["done"], run["paid_minor"]) == ("draft", True, 123)
        following = fay.post("/v1/payout-runs", {"currency": "USD"})
        finn.post(f"/v1/payout-runs/{following['id']}/approve")
        world.sweep("payouts", "inbox")
        assert states(finn, following) == ["paid", "paid"]
        assert len(world.stripe.transfers()) == 3
        assert violations(world) == {}

    def test_an_approval_ends_what_was_edited_before_it(
        self, world: World, owed: Person, finn: Person, fay: Person, acme: Client, ravi: Person
    ) -> None:
        """Each of the two has edited once; neither approves a change of their own."""
        for name in ("Bea", "Cleo"):
            performer = world.performer(name, onboarded=True)
            world.accepted_claim(performer, world.published_job(acme, title=name), ravi)
        world.advance_to(world.value("SELECT next_run_at(marketplace_now())"))
        world.sweep("payout_runs")
        (run,) = finn.get("/v1/payout-runs")["items"]
        path = f"/v1/payout-runs/{run['id']}"
        first, second, third = payouts(finn, run)
        finn.post(f"/v1/payouts/{first['id']}/release", WHY)
        fay.post(f"{path}/approve")
        fay.post(f"/v1/payouts/{second['id']}/release", WHY)
        assert fay.refused("POST", f"{path}/approve") == "403 editor_may_not_approve"
        finn.post(f"{path}/approve")
        world.sweep("payouts", "inbox")
        assert finn.get(f"/v1/payouts/{third['id']}")["state"] == "paid"

    def test_refused_for_want_of_funds_while_the_approval_fell(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person, both: Json
    ) -> None:
        """It does not wait for funds by an approval that is void."""
        finn.post(f"/v1/payout-runs/{both['id']}/discard", WHY)
        cleo = world.performer("Cleo", onboarded=True)
        world.accepted_claim(cleo, world.published_job(acme, title="Cleo's"), ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.stripe.fault("drop_before")
        for nth in (2, 3):
            world.stripe.fault("drop_before", path="/v1/balance", method="GET", nth=nth)
        world.sweep("payouts")
        assert sorted(states(finn, run)) == ["approved", "approved", "unknown"]
        first = next(each for each in payouts(finn, run) if each["state"] == "approved")
        finn.post(f"/v1/payouts/{first['id']}/hold", WHY)
        world.stripe.fault("balance_insufficient")
        world.advance(10)
        world.sweep("payouts")
        assert sorted(states(finn, run)) == ["draft", "held", "refused"]
        refused = next(each for each in payouts(finn, run) if each["state"] == "refused")
        path = f"/v1/payouts/{refused['id']}/approve"
        assert fay.refused("POST", path, WHY) == "409 run_not_approved"
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        fay.post(path, WHY)
        world.advance(10)
        world.sweep("payouts", "inbox")
        assert sorted(states(finn, run)) == ["held", "paid", "paid"]

    def test_refused_for_want_of_funds_at_the_moment_the_approval_falls(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        """The outcome waits for the edit, and does not wait for funds by what it voids."""
        world.stripe.fault("drop_before")
        world.sweep("payouts")
        world.stripe.fault("balance_insufficient")
        world.advance(10)
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with world.connection(actor=finn.id) as edit, ThreadPoolExecutor(1) as pool:
            edit.execute(
                "UPDATE payout_run SET state = 'draft', approved_by = NULL, approved_at = NULL"
            )
            sweep = pool.submit(world.sweep, "payouts")
            while not sweep.done() and not world.value(waits):
                time.sleep(0.05)
            edit.commit()
            sweep.result()
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "refused"

    @pytest.mark.parametrize(
        ("attack", "named"),
        [
            ("SET approved_by = edited_by[1]", "set_once"),
            ("SET approved_by = NULL", "set_once"),
            ("SET edited_by = '{}'", "payout_run_editors_kept"),
            ("SET edited_by = ARRAY[approved_by]", "payout_run_editors_kept"),
            (
                "SET state = 'draft', edited_by = '{}', approved_by = NULL",
                "payout_run_editors_kept",
            ),
        ],
    )
    def test_the_database_is_the_referee(
        self, world: World, finn: Person, fay: Person, both: Json, attack: str, named: str
    ) -> None:
        fay.post(f"/v1/payout-runs/{both['id']}/approve")
        world.sweep("payouts", "inbox")
        world.sql("UPDATE payout_run SET edited_by = ARRAY[prepared_by]")
        with world.connection(actor="mallory") as mallory:
            refused(mallory, named, f"UPDATE payout_run {attack}")

    @pytest.mark.parametrize(
        "attack",
        ["approved_by = edited_by[1]", "approved_by = %s", "approved_by = %s, edited_by = '{%s}'"],
    )
    def test_the_database_is_the_referee_of_an_approval(
        self, world: World, finn: Person, fay: Person, both: Json, attack: str
    ) -> None:
        """Not by an editor, and it takes none of the editors along."""
        first, _ = payouts(finn, both)
        finn.post(f"/v1/payouts/{first['id']}/release", WHY)
        attack = attack.replace("'{%s}'", f"'{{{finn.id}}}'").replace("%s", f"'{fay.id}'")
        with world.connection(actor="mallory") as mallory:
            refused(
                mallory,
                "payout_run_not_its_editor",
                f"UPDATE payout_run SET state = 'approved', approved_at = now(), {attack}",
            )

    def test_who_approved_it_may_edit_it(
        self, world: World, finn: Person, fay: Person, both: Json
    ) -> None:
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        first, second = payouts(finn, both)
        assert fay.post(f"/v1/payouts/{first['id']}/hold", WHY)["state"] == "held"
        run = finn.get(path)
        assert (run["state"], run["approved_by"], run["edited_by"]) == ("draft", None, [fay.id])
        assert fay.refused("POST", f"{path}/approve") == "403 editor_may_not_approve"
        assert world.finance("Finja").post(f"{path}/approve")["edited_by"] == []
        world.sweep("payouts", "inbox")
        assert finn.get(f"/v1/payouts/{second['id']}")["state"] == "paid"
        assert fay.post(f"/v1/payouts/{first['id']}/release", WHY)["state"] == "released"
        assert violations(world) == {}

    def test_who_approved_it_may_release_what_stripe_restricts(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        """The last of its run: the approval stands, of nothing that waits."""
        world.stripe.restrict(approved["destination"])
        world.sweep("payouts")
        assert fay.post(f"/v1/payouts/{approved['id']}/release", WHY)["state"] == "released"
        run = finn.get(f"/v1/payout-runs/{approved['run_id']}")
        assert (run["state"], run["approved_by"], run["edited_by"]) == (
            "approved",
            fay.id,
            [fay.id],
        )
        assert run["done"]
        assert violations(world) == {}

    def test_edited_and_sent_at_once(
        self, world: World, finn: Person, fay: Person, both: Json
    ) -> None:
        """Whoever comes first: nothing is paid by an approval that fell."""
        path = f"/v1/payout-runs/{both['id']}"
        fay.post(f"{path}/approve")
        first, _ = payouts(finn, both)

        async def many() -> None:
            await asyncio.gather(*(SWEEPS["payouts"].run(world.parts) for _ in range(3)))

        with ThreadPoolExecutor(1) as pool:
            edit = pool.submit(finn.ask, "POST", f"/v1/payouts/{first['id']}/release", WHY)
            world.loopback.run(many())
        assert edit.result().status_code in {200, 409}
        world.advance(61)
        world.sweep("payouts", "inbox")
        found = states(finn, both)
        assert set(found) <= {"paid", "draft", "released"}
        assert len(world.stripe.transfers()) == found.count("paid")
        assert violations(world) == {}


class TestCooling:
    def change(self, world: World, performer: Person, to: str | None) -> None:
        world.sql(
            "UPDATE payout_account SET stripe_account_id = %s WHERE performer_id = %s",
            to,
            performer.id,
        )

    def test_a_changed_destination_waits_for_three_days(
        self, world: World, owed: Person, finn: Person, fay: Person
    ) -> None:
        spare = world.performer("Nobody", onboarded=True)
        account = world.value(
            "SELECT stripe_account_id FROM payout_account WHERE performer_id = %s", spare.id
        )
        self.change(world, spare, "acct_given_up")
        self.change(world, owed, account)
        changed = world.now
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts")
        (held,) = payouts(finn, run)
        assert held["state"] == "held"
        assert held["state_reason"].startswith("destination_cooling: the payout account changed")
        until = changed + timedelta(days=3)
        assert f"from {until:%Y-%m-%d}" in held["state_reason"]
        (line,) = owed.get("/v1/earnings/lines")["items"]
        assert line["status_reason"] == held["state_reason"]
        fay.post(f"/v1/payouts/{held['id']}/approve", WHY)
        world.sweep("payouts")
        assert payouts(finn, run)[0]["state"] == "held"
        world.advance(3 * DAY)
        fay.post(f"/v1/payouts/{held['id']}/approve", WHY)
        world.sweep("payouts", "funds", "inbox")
        assert payouts(finn, run)[0]["state"] == "paid"

    def test_the_first_destination_does_not_cool(
        self, world: World, owed: Person, finn: Person, approved: Json
    ) -> None:
        changed = "SELECT destination_changed_at FROM payout_account WHERE performer_id = %s"
        assert world.value(changed, owed.id) is None
        world.sweep("payouts")
        assert finn.get(f"/v1/payouts/{approved['id']}")["state"] == "paid"

    def test_one_that_was_taken_away_meanwhile_cools_from_the_moment_it_is_back(
        self, world: World, owed: Person
    ) -> None:
        self.change(world, owed, None)
        world.advance(7 * DAY)
        self.change(world, owed, "acct_other")
        changed = world.value("SELECT destination_changed_at FROM payout_account")
        assert changed > world.now - timedelta(days=1)

    def test_nobody_dates_it_back(self, world: World, owed: Person) -> None:
        with world.connection(actor="mallory") as mallory:
            refused(mallory, "42501", "UPDATE payout_account SET destination_changed_at = NULL")
        self.change(world, owed, "acct_other")
        self.change(world, owed, "acct_other")
        assert world.value("SELECT destination_changed_at FROM payout_account") is not None


class TestDuties:
    def test_who_could_and_who_did(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'operator')", fay.id)
        world.sweep("payouts")
        report = finn.get("/v1/reports/duties")
        conflicts = {each["person_id"]: each["conflicts"] for each in report["people"]}
        assert conflicts == {finn.id: [], fay.id: ["grants_roles"], owed.id: ["is_paid"]}
        deeds = [
            (each["subject_type"], each["deed"], each["actor"])
            for each in report["deeds"]
            if each["run_id"] == approved["run_id"]
        ]
        assert deeds == [
            ("payout_run", "draft", finn.id),
            ("payout", "draft", finn.id),
            ("payout_run", "approved", fay.id),
            ("payout", "approved", fay.id),
        ]

    def test_what_somebody_was_is_told_as_of_the_moment(
        self, world: World, acme: Client, owed: Person, finn: Person
    ) -> None:
        """A role taken back, given again and taken back; a member of a client who left."""
        olga, fay = world.operator(), world.finance("Fay")
        member = acme.member
        for person, role in ((fay, "operator"), (member, "finance")):
            world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, %s)", person.id, role)
        world.sql(
            "INSERT INTO client_member (person_id, client_id) VALUES (%s, %s)", fay.id, acme.id
        )
        told = []

        def tell(*, is_operator: bool) -> None:
            world.advance(10)
            report = finn.get("/v1/reports/duties")
            (found,) = (each for each in report["people"] if each["person_id"] == fay.id)
            assert ("grants_roles" in found["conflicts"]) is is_operator
            told.append(report)
            world.advance(10)

        role = f"/v1/people/{fay.id}/roles/operator"
        take_back = {"reason": "She approves payouts."}
        tell(is_operator=True)
        assert olga.ask("DELETE", role, query=take_back).is_success
        tell(is_operator=False)
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'operator')", fay.id)
        tell(is_operator=True)
        assert olga.ask("DELETE", role, query=take_back).is_success
        assert member.ask("DELETE", f"/v1/client/members/{fay.id}").is_success
        tell(is_operator=False)
        assert [len(report["people"]) for report in told] == [3, 3, 3, 3]
        for report in told:
            assert finn.get("/v1/reports/duties", as_of=report["as_of"]) == report


class TestAccumulating:
    def test_without_an_account_for_months_it_accumulates_and_says_why(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person
    ) -> None:
        world.capital(finn, 500_000)
        bea = world.performer("Bea")
        job = world.published_job(acme, title="Months", tasks=4)
        for month in range(1, 4):
            world.accepted_claim(bea, job, ravi)
            world.advance_to(world.value("SELECT next_run_at(marketplace_now())"))
            world.advance(60)
            world.sweep("payout_runs", "funds", "inbox", "poll_events")
            (total,) = bea.get("/v1/earnings")["items"]
            assert total["waiting_minor"] == total["earned_minor"] == month * 123
            assert total["exclusion"]["reason"] == "no_account"
            assert total["exclusion"]["amount_minor"] == month * 123
            assert "payout account" in total["exclusion"]["remedy"]
            monday = datetime.fromisoformat(total["exclusion"]["next_run_at"])
            assert (monday.weekday(), monday.hour, monday.tzinfo) == (0, 6, UTC)
            world.advance(20 * DAY)
        # Finn's phone has to sign in again by now.
        later = world.finance("Finja")
        lines = later.get("/v1/reports/liabilities")["lines"]
        assert {line["reason"] for line in lines} == {"no_account"}
        assert any(line["alarm"] for line in lines)
        world.onboard(bea)
        run = later.post("/v1/payout-runs", {"currency": "USD"})
        assert run["amount_minor"] == 3 * 123


class TestPace:
    """However slow the machine is: a question may come later than its turn, never earlier."""

    PER_SECOND = 5

    def test_stripe_never_hears_more_in_a_second(self, world: World) -> None:
        heard: list[float] = []
        sandbox = world.judged.app

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/v1/balance":
                heard.append(time.monotonic())
            await sandbox(scope, receive, send)

        async def many() -> float:
            pace = Pace(self.PER_SECOND)
            base = world.settings.stripe_api_base
            began = time.monotonic()
            async with StripeGateway(api_key=STRIPE_KEY, api_base=base, pace=pace) as gateway:
                await asyncio.gather(*(gateway.balance() for _ in range(3 * self.PER_SECOND)))
            return began

        world.judged.app = counted
        began = world.loopback.run(many())
        assert len(heard) == 3 * self.PER_SECOND
        for number, at in enumerate(sorted(heard)):
            assert at - began >= number // self.PER_SECOND

    def test_first_come_first_served(self) -> None:
        now = 0.0
        begun: list[tuple[int, float]] = []

        async def sleep(seconds: float) -> None:
            """A clock that only waiting moves."""
            nonlocal now
            until = now + seconds
            await asyncio.sleep(0)
            now = max(now, until)

        async def one(number: int, pace: Pace) -> None:
            await pace.turn()
            begun.append((number, now))

        async def many() -> None:
            pace = Pace(self.PER_SECOND, now=lambda: now, sleep=sleep)
            await asyncio.gather(*(one(number, pace) for number in range(4 * self.PER_SECOND)))

        asyncio.run(many())
        assert sorted(number for number, _ in begun) == list(range(4 * self.PER_SECOND))
        assert {number: number // self.PER_SECOND for number, _ in begun} == {
            number: int(at) for number, at in begun
        }


class TestApprovedAgain:
    """Whoever lets a held or refused payout be tried again is named, and is a second person."""

    AGAIN = "UPDATE payout SET state = 'approved', due_at = now()"

    @pytest.fixture
    def held(self, world: World, finn: Person, approved: Json) -> Json:
        world.stripe.restrict(approved["destination"])
        world.sweep("payouts")
        world.stripe.lift(approved["destination"])
        found: Json = finn.get(f"/v1/payouts/{approved['id']}")
        assert (found["state"], found["approved_again_by"]) == ("held", None)
        return found

    def test_it_says_by_whom_until_it_is_held_anew(
        self, world: World, finn: Person, fay: Person, held: Json
    ) -> None:
        path = f"/v1/payouts/{held['id']}"
        assert fay.post(f"{path}/approve", WHY)["approved_again_by"] == fay.id
        world.stripe.restrict(held["destination"])
        world.sweep("payouts")
        assert finn.get(path)["approved_again_by"] is None
        world.stripe.lift(held["destination"])
        fay.post(f"{path}/approve", WHY)
        world.stripe.fault("account_restricted")
        world.sweep("payouts")
        refused = finn.get(path)
        assert (refused["state"], refused["approved_again_by"]) == ("refused", None)
        world.stripe.lift(held["destination"])
        fay.post(f"{path}/approve", WHY)
        world.sweep("payouts", "inbox")
        done = finn.get(path)
        assert (done["state"], done["approved_again_by"]) == ("paid", fay.id)
        assert violations(world) == {}

    def test_that_approval_stands_while_funds_are_waited_for(
        self, world: World, finn: Person, fay: Person, held: Json
    ) -> None:
        path = f"/v1/payouts/{held['id']}"
        fay.post(f"{path}/approve", WHY)
        world.stripe.fault("balance_insufficient")
        world.sweep("payouts")
        waiting = finn.get(path)
        assert (waiting["state"], waiting["approved_again_by"]) == ("approved", fay.id)
        world.advance(HOUR)
        world.sweep("payouts", "inbox")
        assert finn.get(path)["state"] == "paid"

    def test_the_database_is_the_referee(
        self, world: World, finn: Person, fay: Person, owed: Person, held: Json
    ) -> None:
        editor = world.finance("Finja")
        world.sql("UPDATE payout_run SET edited_by = ARRAY[%s::uuid]", editor.id)
        with world.connection(actor="mallory") as mallory:
            refused(mallory, "payout_second_person", self.AGAIN)
            for nobody in (finn, editor, owed):
                again = (f"{self.AGAIN}, approved_again_by = %s", [nobody.id])
                refused(mallory, "payout_second_person", again)
            fay.post(f"/v1/payouts/{held['id']}/approve", WHY)
            for somebody in (f"'{finn.id}'", "NULL"):
                refused(mallory, "set_once", f"UPDATE payout SET approved_again_by = {somebody}")
