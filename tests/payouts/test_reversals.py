"""What was paid may come back: asked for by one, approved by another, by its cause."""

import pytest

from tests.payouts.conftest import returned
from tests.reports.conftest import violations
from tests.world import DAY, HOUR, Client, Json, Person, World

WRONG = {"amount_minor": 123, "cause": "wrong_destination", "reason": "It is her sister's account."}


class TestAsking:
    def test_two_people_and_the_next_run_pays_it_again(
        self, world: World, owed: Person, finn: Person, fay: Person, paid: Json
    ) -> None:
        asked = finn.post(f"/v1/payouts/{paid['id']}/reversals", WRONG)
        assert (asked["state"], asked["asked_by"]) == ("asked", finn.id)
        world.sweep("reversals")
        assert world.stripe.control("GET", "state")["objects"].get("transfer_reversal") is None
        path = f"/v1/reversals/{asked['id']}"
        assert finn.refused("POST", f"{path}/approve") == "403 asker_may_not_approve"
        assert fay.post(f"{path}/approve")["state"] == "approved"
        world.sweep("reversals")
        done = finn.get(path)
        assert (done["state"], done["decided_by"]) == ("reversed", fay.id)
        assert done["reversal_id"].startswith("trr_")
        payout = finn.get(f"/v1/payouts/{paid['id']}")
        assert payout["state"] == "reversed"
        assert (
            payout["state_reason"] == "Came back (wrong_destination): It is her sister's account."
        )
        assert world.ledger("performer_payable", owed.id) == -123
        assert violations(world) == {}
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        assert (run["payouts"], run["amount_minor"]) == (1, 123)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.sweep("payouts", "inbox")
        assert world.ledger("performer_payable", owed.id) == 0
        assert violations(world) == {}
