"""Each invariant of `verify` catches what breaks it: planted past all guards, or done at Stripe."""

import asyncio
import dataclasses
import itertools
import json
import re
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlmodel import SQLModel

from marketplace.funding.models import ReserveCause, ReserveMove
from marketplace.funding.reserves import move_reserves
from marketplace.reports import verify
from marketplace.reports.checks import at_stripe, queues, states
from marketplace.scheduler import SWEEPS
from marketplace.stripe_api.gateway_answers import BalanceAmount
from marketplace.tables import MOVES
from tests.corrections.test_corrections import about, corrected
from tests.payouts.conftest import returned
from tests.reports.conftest import Paid, findings, lift_all_guards, program, violations
from tests.world import DAY, HOUR, Json, Person, World

# Balanced, but nothing that ever happened: {} is the kind of account that is credited.
BOOKED_FROM_NOTHING = """
    WITH header AS (
        INSERT INTO ledger_transaction (id, kind, source_type, source_id, currency, occurred_at,
            accounting_date)
        VALUES (uuidv7(), 'reserve_changed', 'nothing', uuidv7(), 'USD', now(), now()::date)
        RETURNING id
    )
    INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)
    SELECT header.id, account.id, 'USD', CASE kind WHEN '{credited}' THEN -{amount} ELSE {amount} END
    FROM header, account
    WHERE currency = 'USD' AND account.id IN (
        (SELECT id FROM account WHERE kind = '{credited}' ORDER BY id LIMIT 1),
        (SELECT id FROM account WHERE kind = '{debited}' ORDER BY id LIMIT 1)
    )
"""


def booked(credited: str, debited: str, amount: int) -> str:
    return BOOKED_FROM_NOTHING.format(credited=credited, debited=debited, amount=amount)


# Invariant → (what is done to the rows, what it says). One after the other in one database.
PLANTED: dict[str, list[tuple[str, str]]] = {
    "I1": [
        (
            (
                "INSERT INTO payout SELECT uuidv7(), run_id, performer_id, currency, amount_minor,"
                " destination, 'paid', NULL, NULL, 0, 'tr_never' FROM payout"
            ),
            "is paid, but Stripe has no transfer of it",
        ),
        ("UPDATE payout SET amount_minor = 124", "moved 123 USD"),
        ("UPDATE payout SET amount_minor = 123, destination = 'acct_other'", "'acct_other')"),
        ("UPDATE payout SET state = 'refused' WHERE transfer_id <> 'tr_never'", "is refused, but"),
        ("UPDATE payout SET transfer_id = left(transfer_id, 8)", "names tr_"),
        ("UPDATE payout SET transfer_id = 'tr_other'", "names tr_other"),
        ("DELETE FROM payout", "belong to no payout of ours"),
    ],
    "I2": [
        (
            (
                "INSERT INTO pay_decision (id, claim_id, performer_id, number, outcome, seconds,"
                "  rate_id, rate_minor_per_hour, fee_basis_points, currency, pay_minor, fee_minor)"
                " SELECT uuidv7(), claim_id, performer_id, 2, outcome, seconds, rate_id,"
                "  rate_minor_per_hour, fee_basis_points, currency, pay_minor, fee_minor"
                " FROM pay_decision"
            ),
            "was paid 246 in 2 decisions, its 60 seconds earn 123",
        ),
        ("DELETE FROM pay_decision WHERE number = 2", ""),
        ("UPDATE pay_decision SET pay_minor = 124", "pays 124, its performer's payable got 123"),
        (
            "UPDATE pay_decision SET pay_minor = 123, performer_id = uuidv7()",
            "pays 123, its performer's payable got 0",
        ),
        (
            "UPDATE pay_decision SET pay_minor = 125, ledger_transaction_id = NULL",
            "pays 125, its performer's payable got 0",
        ),
        (
            (
                "INSERT INTO payout_line SELECT uuidv7(), payout_id, ledger_entry_id, amount_minor, NULL"
                " FROM payout_line"
            ),
            "is in 2 payouts at once",
        ),
        (
            "DELETE FROM payout_line WHERE id = (SELECT id FROM payout_line ORDER BY id DESC LIMIT 1)",
            "",
        ),
        ("UPDATE payout SET amount_minor = 122", "of 122 has lines of 123"),
        (
            booked("performer_payable", "platform_capital", 50),
            "is owed 50 USD by the ledger, 0 by their earnings",
        ),
    ],
    "I3": [
        (
            (
                "UPDATE account_balance SET balance_minor = balance_minor + 1"
                " WHERE account_id = (SELECT id FROM account WHERE kind = 'client_wallet')"
            ),
            "client_wallet of",
        ),
        (
            (
                "UPDATE ledger_entry SET amount_minor = amount_minor + 1"
                " WHERE id = (SELECT id FROM ledger_entry ORDER BY id LIMIT 1)"
            ),
            "sums to 1",
        ),
        (
            (
                "DELETE FROM ledger_entry WHERE transaction_id = (SELECT id FROM ledger_transaction"
                " WHERE kind = 'claim_paid')"
            ),
            "has no entries",
        ),
        (
            (
                "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
                " SELECT uuidv7(), account_id('platform_capital', NULL, 'EUR'), 'EUR', -7"
            ),
            "EUR sums to -7",
        ),
    ],
    "I4": [
        (
            (
                "UPDATE booked_balance_transaction SET net_minor = net_minor - 1"
                " WHERE net_minor = 500000"
            ),
            "nets 500000 USD at Stripe, 499999 USD in the ledger",
        ),
        (
            (
                "UPDATE booked_balance_transaction SET net_minor = 500000, currency = 'EUR'"
                " WHERE net_minor = 499999"
            ),
            "nets 500000 USD at Stripe, 500000 EUR in the ledger",
        ),
        ("UPDATE booked_balance_transaction SET currency = 'USD' WHERE currency = 'EUR'", ""),
        (
            booked("platform_capital", "stripe_available", 7),
            "its booked balance transactions",
        ),
        (
            (
                "INSERT INTO booked_balance_transaction (id, net_minor, currency,"
                " ledger_transaction_id) VALUES ('txn_never', 7, 'USD', uuidv7())"
            ),
            "txn_never is booked, but Stripe does not know it",
        ),
    ],
    "I5": [
        (
            "UPDATE pay_decision SET fee_minor = 19",
            "has -18 USD on platform_fees in 1 entries, its row says -19",
        ),
        ("UPDATE pay_decision SET fee_minor = 18", ""),
        (
            (
                "UPDATE ledger_entry SET account_id = account_id('job_reserve', reservation_id, 'USD')"
                " FROM role WHERE role.state = 'open' AND amount_minor = 141"
            ),
            "has 141 USD on job_reserve",
        ),
        (
            (
                "UPDATE ledger_entry SET account_id = account_id('platform_capital', NULL, 'USD')"
                " WHERE amount_minor = 141"
            ),
            "has 141 USD on platform_capital in 1 entries, its row says 0 in 0",
        ),
        ("UPDATE deposit SET client_id = uuidv7()", "has -100000 USD on client_wallet"),
        (
            "UPDATE reserve_move SET amount_minor = 12625 WHERE cause = 'left_over'",
            "its row says -12625",
        ),
        (
            "UPDATE reserve_move SET to_reservation_id = uuidv7() WHERE cause = 'published'",
            "in 0 entries, its row says -12765",
        ),
        (
            "UPDATE payout SET amount_minor = 122",
            "has -123 USD on transfers_in_flight in 1 entries, its row says -122",
        ),
        (
            (
                "INSERT INTO audition (id, performer_id, state, brief, rate_id, lineage_id, currency,"
                "  rate_minor_per_hour, seconds_cap, pay_minor)"
                " SELECT uuidv7(), performer_id, 'passed', '', rate_id, lineage_id, currency, 7400,"
                "  60, 99 FROM claim"
            ),
            "the ledger has 0 USD on platform_expense in 0 entries, its row says 99",
        ),
        (
            (
                "UPDATE ledger_entry SET amount_minor = -499000 WHERE amount_minor = -500000;"
                "INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)"
                " SELECT transaction_id, account_id, currency, -1000 FROM ledger_entry"
                " WHERE amount_minor = -499000"
            ),
            "has -500000 USD on platform_capital in 2 entries, its row says -500000 in 1",
        ),
        (
            booked("platform_capital", "stripe_available", 7),
            "(reserve_changed) has no source nothing",
        ),
        (
            "UPDATE time_entry SET ended_at = ended_at - interval '1 second'",
            "was decided on 60 seconds, its entries have 59",
        ),
        (
            "UPDATE claim SET claimed_at = claimed_at + interval '30 seconds'",
            "seconds of wall time",
        ),
        ("UPDATE rate SET effective_from = effective_from + interval '1 day'", "was in force"),
        (
            "UPDATE job SET lineage_id = uuidv7()",
            "was made in another lineage than its job",
        ),
        (
            "UPDATE payout_attempt SET conclusion_transaction_id = NULL",
            "is paid, but no attempt of it succeeded",
        ),
        ("DELETE FROM payout_attempt", "(transfer_sent) has no source payout_attempt"),
        ("DELETE FROM pay_decision", "ended with time on it, but no decision is made or due"),
        ("DELETE FROM reserve_move", "(reserve_changed) has no source reserve_move"),
        ("DELETE FROM deposit", "(deposit_credited) has no source deposit"),
        ("DELETE FROM topup", "(topup_succeeded) has no source topup"),
        (
            (
                "UPDATE reservation SET subject_id = (SELECT id FROM job);"
                "UPDATE job SET state = 'closed'"
            ),
            "are still set aside for it",
        ),
    ],
    "I6": [
        (
            (
                "UPDATE account_balance SET balance_minor = balance_minor - 1 WHERE account_id ="
                " (SELECT account_id('job_reserve', reservation_id, 'USD') FROM role"
                "  WHERE state = 'open')"
            ),
            "its worst case costs 12765",
        ),
        ("UPDATE performer SET live_claims = 1", "has a counter of 1 and 0 live claims"),
        ("UPDATE role SET state = 'held' WHERE state = 'open'", "is held with 0 live claims"),
        ("UPDATE claim SET state = 'active'", "is done with 1 live claims"),
    ],
    "I9": [
        (
            (
                "INSERT INTO stripe_event (id, type, object_id, created, payload, tries, received_at)"
                " VALUES ('evt_late', 'topup.succeeded', 'tu_1', now(), '{}', 3,"
                "  marketplace_now() - interval '25 hours')"
            ),
            "event evt_late waits since",
        ),
        (
            "DELETE FROM booked_balance_transaction WHERE net_minor = 500000",
            "is succeeded, but it is booked 0 times",
        ),
        (
            "UPDATE deposit SET state = 'awaiting_payment'",
            "is awaiting_payment, but its charge is booked 1 times",
        ),
    ],
    "I11": [
        (
            "UPDATE role SET state = 'withdrawn' WHERE state = 'open'",
            "is withdrawn, but its last recorded move was to open",
        ),
        (
            "UPDATE audit_event SET to_state = 'expired' WHERE to_state = 'settled'",
            "moved from submitted to expired",
        ),
        (
            "DELETE FROM audit_event WHERE subject_type = 'payout' AND to_state = 'sending'",
            "moved from sending to paid",
        ),
        (
            "DELETE FROM audit_event WHERE subject_type = 'topup'",
            "its last recorded move was to nothing",
        ),
    ],
    "I14": [
        (
            (
                "DELETE FROM ledger_entry WHERE transaction_id = (SELECT id FROM ledger_transaction"
                " WHERE kind = 'transfer_confirmed');"
                "UPDATE ledger_transaction SET booked_at = booked_at - interval '25 hours'"
                " WHERE kind = 'transfer_sent'"
            ),
            "transfers_in_flight -123 of payout_attempt",
        ),
    ],
    "I15": [
        (
            (
                "INSERT INTO withdrawal (id, currency, amount_minor, reason, requested_by, state,"
                " stripe_payout_id) SELECT uuidv7(), 'USD', 700, 'never', id, 'arrived', 'po_never'"
                " FROM person LIMIT 1"
            ),
            "names po_never, which Stripe does not have",
        ),
    ],
    "coverage": [
        (booked("client_wallet", "platform_capital", 600_000), "699859 are owed"),
    ],
}


# Likewise, after Ana's 1.23 came back: 1.00 owed again, 0.23 a debt that is paid.
PLANTED_IN_REVERSALS: dict[str, list[tuple[str, str]]] = {
    "I1": [
        (
            "UPDATE transfer_reversal SET amount_minor = 99 WHERE cause = 'wrong_destination'",
            "123 USD came back at Stripe, our reversals say 122",
        ),
        ("DELETE FROM transfer_reversal", "our reversals say 0"),
    ],
    "I2": [
        (
            "UPDATE ledger_transaction SET kind = 'x' WHERE kind = 'transfer_reversed'",
            "is owed 100 USD by the ledger, 0 by their earnings",
        ),
    ],
    "I5": [
        (
            "UPDATE transfer_reversal SET cause = 'wrong_destination'",
            "the ledger has -23 USD on performer_receivable",
        ),
        ("UPDATE payout SET state = 'paid'", "of 123 is paid, but 123 of it came back"),
        ("UPDATE payout SET state = 'partly_reversed'", "is partly_reversed, but 123 of it"),
        ("DELETE FROM payout_attempt", "is paid, but no attempt of it succeeded"),
        (
            "DELETE FROM transfer_reversal",
            "(transfer_reversed) has no source transfer_reversal",
        ),
    ],
    "I9": [
        (
            "DELETE FROM booked_balance_transaction WHERE net_minor = 23",
            "is reversed, but it is booked 0 times",
        ),
    ],
    "I11": [
        (
            "UPDATE transfer_reversal SET state = 'refused' WHERE cause = 'fraud'",
            "is refused, but its last recorded move was to reversed",
        ),
    ],
    "coverage": [
        # A debt that was paid before anybody found it is owed to somebody.
        (booked("performer_receivable", "platform_capital", 600_000), "are owed"),
    ],
}


# Likewise, after Ana's minute was corrected to 70 s and then to 50 s, and her debt netted.
PLANTED_IN_CORRECTIONS: dict[str, list[tuple[str, str]]] = {
    "I2": [
        (
            "UPDATE correction SET client_minor = 0, platform_minor = 20 WHERE seconds = 70",
            "pays 20, its performer's payable got 21",
        ),
        (
            "UPDATE correction SET fee_minor = fee_minor + 1 WHERE seconds = 50",
            "has bookings of 102 and a fee of 16",
        ),
        (
            (
                "DELETE FROM correction WHERE kind = 'receivable_netted';"
                "UPDATE ledger_transaction SET kind = 'x' WHERE kind = 'receivable_netted'"
            ),
            "is owed 103 USD by the ledger, 144 by their earnings",
        ),
    ],
    "I5": [
        (
            "UPDATE correction SET platform_minor = -20, client_minor = -21 WHERE seconds = 50",
            "has -21 USD on platform_expense",
        ),
        (
            "UPDATE correction SET amount_minor = 40 WHERE kind = 'receivable_netted'",
            "has -41 USD on performer_receivable",
        ),
        ("DELETE FROM correction", "(receivable_netted) has no source correction"),
    ],
    "I11": [
        (
            "UPDATE correction SET state = 'rejected' WHERE seconds = 70",
            "is rejected, but its last recorded move was to approved",
        ),
    ],
}


def said(world: World, invariant: str, text: str) -> bool:
    return any(text in line for line in violations(world).get(invariant, []))


def test_a_payout_that_went_well_violates_nothing(world: World, paid: Paid) -> None:
    assert violations(world) == {}


@pytest.mark.parametrize("invariant", PLANTED)
def test_planted_violations_are_caught(world: World, paid: Paid, invariant: str) -> None:
    assert violations(world) == {}
    lift_all_guards(world)
    for statements, text in PLANTED[invariant]:
        assert not text or not said(world, invariant, text), statements
        for statement in statements.split(";"):
            world.owner_sql(statement)
        assert not text or said(world, invariant, text), (text, violations(world))


@pytest.mark.parametrize("invariant", PLANTED_IN_REVERSALS)
def test_planted_violations_of_reversals_are_caught(
    world: World, paid: Paid, invariant: str
) -> None:
    for amount_minor, cause in ((100, "wrong_destination"), (23, "fraud")):
        returned(world, paid.finn, paid.fay, paid.payout, cause, amount_minor)
    assert violations(world) == {}
    lift_all_guards(world)
    for statement, text in PLANTED_IN_REVERSALS[invariant]:
        assert not said(world, invariant, text), statement
        world.owner_sql(statement)
        assert said(world, invariant, text), (text, violations(world))


@pytest.mark.parametrize("invariant", PLANTED_IN_CORRECTIONS)
def test_planted_violations_of_corrections_are_caught(
    world: World, paid: Paid, ravi: Person, invariant: str
) -> None:
    bea = world.performer("Bea", onboarded=True)
    claim = world.accepted_claim(bea, paid.job, ravi)
    corrected(paid.finn, paid.fay, claim, 70)
    corrected(paid.finn, paid.fay, claim, 50)
    about(paid.finn, paid.fay, bea, "nettings", 41)
    assert violations(world) == {}
    lift_all_guards(world)
    for statements, text in PLANTED_IN_CORRECTIONS[invariant]:
        assert not said(world, invariant, text), statements
        for statement in statements.split(";"):
            world.owner_sql(statement)
        assert said(world, invariant, text), (text, violations(world))


def test_every_invariant_has_a_planted_violation() -> None:
    natural = {"pay-by", "I10", "I13"}  # time alone breaks these: see TestOverdue
    elsewhere = {"I12"}  # see tests/seals
    assert set(PLANTED) | natural | elsewhere == set(verify.CHECKS)


def test_the_state_of_all_that_moves_is_compared_with_its_moves() -> None:
    compared = re.findall(r"SELECT '(\w+)'(?: AS subject_type)?, \w+, state FROM \1\n", states.I11)
    assert set(compared) == set(MOVES)


class TestAtStripe:
    """What happened there, whatever the ledger says."""

    def send(self, world: World, paid: Paid, **changes: Any) -> None:
        asked: Json = {
            "amount_minor": 123,
            "currency": "USD",
            "destination": paid.payout["destination"],
            "transfer_group": f"payout-{paid.payout['id']}",
            "metadata": {"payout_id": paid.payout["id"], "attempt": "1"},
            "idempotency_key": "a new key after an unknown outcome",
        }
        world.loopback.run(world.gateway.send_transfer(**(asked | changes)))

    def test_a_second_transfer(self, world: World, paid: Paid) -> None:
        """The ledger balances, and every payout says paid: only Stripe knows."""
        self.send(world, paid)
        found = violations(world)
        assert set(found) == {"I1"}
        assert "has 2 transfers at Stripe" in found["I1"][0]

    def test_a_transfer_of_nothing(self, world: World, paid: Paid) -> None:
        self.send(world, paid, metadata={}, transfer_group="somebody's own")
        (line,) = violations(world)["I1"]
        assert "belong to no payout of ours" in line

    def test_a_line_that_nobody_booked_for_a_day(self, world: World, paid: Paid) -> None:
        self.send(world, paid)
        assert "I4" not in violations(world)
        (note,) = findings(world)["I4"].notes
        assert note.startswith("txn_")
        assert note.endswith("(transfer, -123 USD) is not booked yet")
        assert f"     note: {note}" in verify.lines(findings(world))
        world.advance(25 * HOUR)
        (line,) = violations(world)["I4"]
        assert f"{line} yet" == note
        assert findings(world)["I4"].notes == []

    def test_a_balance_in_a_currency_without_lines(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = world.gateway.balance

        async def with_euros() -> dict[str, BalanceAmount]:
            return await told() | {"EUR": BalanceAmount(available_minor=1)}

        monkeypatch.setattr(world.gateway, "balance", with_euros)
        (line,) = violations(world)["I4"]
        assert line == "Stripe's balance is 1 EUR, its lines sum to 0"

    def test_a_balance_that_never_stands_still(
        self, world: World, paid: Paid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On payday: what needs one moment is not judged; the rest is, as always."""
        moving = itertools.count(1)

        async def moved() -> dict[str, BalanceAmount]:
            return {"USD": BalanceAmount(available_minor=next(moving))}

        monkeypatch.setattr(world.gateway, "balance", moved)
        found = findings(world)
        assert {name for name, finding in found.items() if not finding.holds} == {"I4", "coverage"}
        assert verify.exit_code(found) == 3
        assert verify.summary(found)["I4"] == at_stripe.MOVED
        lines = verify.lines(found)
        at = lines.index("?    I4        Stripe's balance equals the ledger's, line by line")
        assert lines[at + 1] == f"     {at_stripe.MOVED}"
        self.send(world, paid)
        found = findings(world)
        assert found["I1"].violations
        assert verify.exit_code(found) == 1

    def test_a_balance_that_its_own_lines_do_not_explain(
        self, world: World, paid: Paid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stripe would have to contradict itself, so its answer is changed on the way."""
        told = world.gateway.balance

        async def a_cent_more() -> dict[str, BalanceAmount]:
            amount = (await told())["USD"]
            return {"USD": dataclasses.replace(amount, available_minor=amount.available_minor + 1)}

        monkeypatch.setattr(world.gateway, "balance", a_cent_more)
        (line,) = violations(world)["I4"]
        assert "its lines sum to" in line


class TestOverdue:
    """Nothing is planted here but time."""

    def test_a_transfer_in_flight_for_a_day(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        world.accepted_claim(world.performer("Bea", onboarded=True), paid.job, ravi)
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        world.stripe.fault("drop_before")
        world.sweep("payouts")
        world.advance(23 * HOUR)
        assert "I14" not in violations(world)
        world.advance(2 * HOUR)
        (line,) = violations(world)["I14"]
        assert line.startswith("transfers_in_flight -123 of payout_attempt")

    def test_funds_that_stay_pending(self, world: World, paid: Paid) -> None:
        world.advance(2 * DAY)
        assert "I14" not in violations(world)
        world.advance(2 * DAY)
        (line,) = violations(world)["I14"]
        assert line.startswith("stripe_pending 97070 of deposit")
        world.sweep("funds")
        assert "I14" not in violations(world)

    def test_a_claim_that_is_in_no_run(self, world: World, paid: Paid, ravi: Person) -> None:
        bea = world.performer("Bea", onboarded=True)
        claim = world.accepted_claim(bea, paid.job, ravi)
        world.advance_to(datetime.fromisoformat(claim["pay_by"]) - timedelta(seconds=2))
        world.sweep("funds", "inbox")
        assert "pay-by" not in violations(world)
        world.advance(3)
        (line,) = violations(world)["pay-by"]
        assert line.startswith(f"claim {claim['id']} should have been paid by")
        assert line.endswith("in no payout")

    def pay(self, finn: Person, fay: Person) -> None:
        run = finn.post("/v1/payout-runs", {"currency": "USD"})
        fay.post(f"/v1/payout-runs/{run['id']}/approve")

    def late(self, world: World, claim: Json) -> None:
        world.advance_to(datetime.fromisoformat(claim["pay_by"]) + timedelta(seconds=1))
        world.sweep("funds", "inbox")

    def test_a_claim_that_was_paid_late(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """Named for a week, when nobody can mend it any more; noted ever after."""
        claim = world.accepted_claim(world.performer("Bea", onboarded=True), paid.job, ravi)
        self.late(world, claim)
        self.pay(finn, fay)
        world.sweep("payouts", "inbox")
        (line,) = violations(world)["pay-by"]
        assert line.startswith(f"claim {claim['id']} should have been paid by")
        assert f": paid {world.now:%Y-%m-%d}" in line
        world.advance(8 * DAY)
        found = findings(world)["pay-by"]
        assert (found.violations, found.notes) == ([], [line])

    def test_a_claim_that_waited_for_a_reason(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        """The payout says why, before its time and after, though the reason is gone by then."""
        claim = world.accepted_claim(world.performer("Bea", onboarded=True), paid.job, ravi)
        self.pay(finn, fay)
        world.stripe.fault("drop_before", path="/v1/balance", method="GET")
        world.sweep("payouts")
        self.late(world, claim)
        assert "pay-by" not in violations(world)
        world.sweep("payouts", "inbox")
        assert world.value("SELECT count(*) FROM payout WHERE state = 'paid'") == 2
        assert "pay-by" not in violations(world)

    def test_a_performer_left_out_and_paid_later(
        self, world: World, paid: Paid, ravi: Person, finn: Person, fay: Person
    ) -> None:
        bea = world.performer("Bea")
        claim = world.accepted_claim(bea, paid.job, ravi)
        self.pay(finn, fay)
        self.late(world, claim)
        assert "pay-by" not in violations(world)
        world.onboard(bea)
        self.pay(finn, fay)
        world.sweep("payouts", "inbox")
        assert "pay-by" not in violations(world)

    @pytest.mark.parametrize("confirm", [True, False])
    def test_time_that_two_people_disagreed_about(
        self, world: World, paid: Paid, ravi: Person, confirm: bool
    ) -> None:
        bea = world.performer("Bea", onboarded=True)
        claim = world.claim(bea, paid.job)
        world.work(bea, claim, "perform", 60)
        bea.post(f"/v1/claims/{claim['id']}/release", {})
        proposal = {"ground": "no_work", "reason": "an hour of silence"}
        proposed = ravi.post(f"/v1/claims/{claim['id']}/withholdings", proposal)
        soon = world.now + timedelta(seconds=30)
        world.sql("UPDATE claim SET pay_by = %s WHERE id = %s", soon, claim["id"])
        world.advance(60)
        assert "pay-by" not in violations(world)
        word = {"confirm": confirm, "reason": "heard it all"}
        path = f"/v1/withholdings/{proposed['id']}/decision"
        world.reviewer("Rosa").post(path, word)
        assert "pay-by" not in violations(world)
        world.advance(9 * DAY)
        world.sweep("funds", "inbox")
        assert ("pay-by" in violations(world)) is not confirm

    def test_a_performer_left_out_for_a_reason(
        self, world: World, paid: Paid, ravi: Person
    ) -> None:
        claim = world.accepted_claim(world.performer("Bea"), paid.job, ravi)
        world.advance_to(datetime.fromisoformat(claim["pay_by"]) + timedelta(seconds=1))
        world.sweep("funds", "payout_runs")
        assert "pay-by" not in violations(world)

    def test_a_claim_that_nobody_decided(self, world: World, paid: Paid) -> None:
        bea = world.performer("Bea")
        claim = world.claim(bea, paid.job)
        world.work(bea, claim, "prep", 60)
        world.advance_to(datetime.fromisoformat(claim["pay_by"]) + timedelta(seconds=1))
        world.sweep("funds")
        (line,) = violations(world)["pay-by"]
        assert line.startswith(f"claim {claim['id']}")
        assert line.endswith("is not even decided")

    def test_work_that_nobody_came_for(self, world: World, paid: Paid) -> None:
        bea = world.performer("Bea")
        claim = world.claim(bea, paid.job)
        world.advance_to(datetime.fromisoformat(claim["deadline"]) + timedelta(minutes=4))
        assert "I13" not in violations(world)
        world.advance(61)
        (line,) = (line for line in violations(world)["I13"] if "claim_deadline" in line)
        assert line.startswith("1 of 1 rows of claim_deadline are late")
        world.sweep("expiry", "funds")
        assert violations(world) == {}

    def test_a_scheduled_run_that_is_missing(self, world: World, paid: Paid, ravi: Person) -> None:
        world.accepted_claim(world.performer("Bea"), paid.job, ravi)
        monday = world.value("SELECT next_run_at(marketplace_now())")
        world.advance_to(monday + timedelta(minutes=4))
        assert "I10" not in violations(world)
        world.advance(61)
        (line,) = violations(world)["I10"]
        assert line.startswith(
            f"no payout run of {monday:%Y-%m-%d} 06:00:00+00 was drafted, but 123"
        )
        world.sweep("payout_runs", "funds")
        assert violations(world) == {}


def test_a_claims_reserve_that_went_back_to_the_wallet(world: World, paid: Paid) -> None:
    """By a move like any other: each book of it agrees with the next."""
    bea = world.performer("Bea")
    claim = world.claim(bea, paid.job)
    assert violations(world) == {}
    (role,) = world.sql("SELECT * FROM role WHERE id = %s", claim["role_id"])
    taken = ReserveMove(
        id=uuid.uuid4(),
        client_id=uuid.UUID(paid.acme.id),
        currency="USD",
        from_reservation_id=role["reservation_id"],
        to_reservation_id=None,
        amount_minor=12_765,
        cause=ReserveCause.LEFT_OVER,
    )
    world.transact(lambda session: move_reserves(session, [taken]))
    assert violations(world) == {
        "I6": [f"claim {claim['id']} is active with 0 reserved, its worst case costs 12765"]
    }


DUE = re.compile("(?:.*_)?due_at|deadline")


PLANTED_IN_TIME = [
    # Of two claims of one performer: each has its own seconds, and its own wall time.
    (
        (
            "time_entry SET (started_at, ended_at) = (SELECT max(started_at) + interval '30 seconds',"
            " max(ended_at) + interval '30 seconds' FROM time_entry)"
            " WHERE id = (SELECT id FROM time_entry ORDER BY started_at LIMIT 1)"
        ),
        "worked twice at once",
    ),
    ("claim SET deadline = deadline - interval '10 days'", "lasted from"),
    ("claim SET claimed_at = claimed_at + interval '1 day'", "lasted from"),
    ("role SET perform_seconds_cap = 59", "has 60 seconds of perform, its cap is 59"),
    (
        "time_entry SET activity = 'wait', ended_at = started_at + interval '601 seconds'",
        "has 601 seconds of preparation, its cap is 600",
    ),
    (
        "time_entry SET activity = 'retake', retake_number = 2",
        "has 60 seconds of retake 2, its cap is 0",
    ),
]


@pytest.mark.parametrize(("change", "text"), PLANTED_IN_TIME)
def test_time_that_the_database_would_refuse(
    world: World, paid: Paid, ravi: Person, change: str, text: str
) -> None:
    world.accepted_claim(paid.ana, world.published_job(paid.acme, title="Another"), ravi)
    assert violations(world) == {}
    lift_all_guards(world)
    world.owner_sql(f"UPDATE {change}")
    assert said(world, "I5", text), violations(world)


def test_whatever_falls_due_is_a_queue() -> None:
    columns = {
        (table.name, column.name)
        for table in SQLModel.metadata.tables.values()
        for column in table.columns
        if DUE.fullmatch(column.name)
    }
    watched = {
        (where.split()[0], queues.DUE_COLUMNS.get(queue, "due_at"))
        for queue, where in queues.QUEUES.items()
    }
    assert columns == watched
    assert set(queues.LOOKS) < set(queues.QUEUES)


def test_an_account_that_nobody_looks_at_shows_in_the_metrics(world: World, paid: Paid) -> None:
    """An event tells of it, and Stripe is asked again before it is paid: nothing waits."""
    world.sweep("poll_accounts", "poll_bank_payouts")
    late = f"SELECT queue FROM ({queues.WAITING}) AS queues WHERE late > 0"
    assert not {row["queue"] for row in world.sql(late)} & set(queues.LOOKS)
    world.advance(13 * HOUR)
    assert {row["queue"] for row in world.sql(late)} >= set(queues.LOOKS)
    assert "I13" not in violations(world)


class TestTheSweep:
    """Once an hour of UTC, whoever ticks."""

    def tick(self, world: World, times: int = 1) -> list[int]:
        async def at_once() -> list[int]:
            sweep = SWEEPS["verify"]
            return await asyncio.gather(*(sweep.run(world.parts) for _ in range(times)))

        return world.loopback.run(at_once())

    def test_each_violation_is_an_error_in_the_log(
        self, world: World, paid: Paid, caplog: pytest.LogCaptureFixture
    ) -> None:
        lift_all_guards(world)
        world.owner_sql("UPDATE performer SET live_claims = 1")
        assert self.tick(world) == [1]
        (logged,) = caplog.records
        assert logged.levelname == "ERROR"
        assert re.match(r"I6 is violated: performer \S+ has a counter of 1", logged.getMessage())

    def test_one_process_looks_in_each_hour(
        self, world: World, paid: Paid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[None] = []
        look = verify.verify

        async def counted(*parts: Any) -> verify.Findings:
            looks.append(None)
            return await look(*parts)

        monkeypatch.setattr(verify, "verify", counted)
        world.advance_to(world.now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
        self.tick(world, times=5)
        world.advance(HOUR - 60)
        self.tick(world, times=5)
        assert len(looks) == 1
        world.advance(60)
        self.tick(world, times=5)
        assert len(looks) == 2
        slots = world.sql("SELECT slot_at FROM sweep_slot WHERE sweep = 'verify' ORDER BY slot_at")
        assert [(slot["slot_at"].minute, slot["slot_at"].second) for slot in slots] == [(0, 0)] * 2

    def test_a_look_that_failed_is_tried_again(
        self, world: World, paid: Paid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.advance_to(world.now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
        lift_all_guards(world)
        world.owner_sql("UPDATE performer SET live_claims = 1")
        with monkeypatch.context() as broken:
            broken.setattr(world.gateway, "list_transfers", None)
            with pytest.raises(TypeError):
                self.tick(world)
        assert self.tick(world) == [0], "not at once"
        world.advance(600)
        assert self.tick(world, times=3).count(1) == 1
        world.advance(600)
        assert self.tick(world) == [0], "this hour is done"

    def test_what_is_not_checked_is_a_warning(
        self,
        world: World,
        paid: Paid,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        moving = itertools.count(1)

        async def moved() -> dict[str, BalanceAmount]:
            return {"USD": BalanceAmount(available_minor=next(moving))}

        monkeypatch.setattr(world.gateway, "balance", moved)
        assert self.tick(world) == [0]
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


class TestTheCommand:
    def test_all_is_well(self, world: World, paid: Paid) -> None:
        code, out = program(world, "verify")
        assert code == 0, out
        assert [line[:4] for line in out.splitlines()] == ["ok  "] * len(verify.CHECKS)

    def test_one_violation_is_enough(self, world: World, paid: Paid) -> None:
        lift_all_guards(world)
        world.owner_sql("UPDATE performer SET live_claims = 1")
        code, out = program(world, "verify", "--json")
        found = json.loads(out)
        assert code == 1
        assert [name for name, text in found.items() if text != "ok"] == ["I6"]


def test_what_nobody_here_asked_for_covers_nothing(world: World, paid: Paid) -> None:
    """A transfer of somebody else at Stripe is gone, whatever its line's type."""
    world.loopback.run(
        world.gateway.send_transfer(
            amount_minor=499_800,
            currency="USD",
            destination=paid.payout["destination"],
            transfer_group="by hand",
            metadata={},
            idempotency_key="by hand",
        )
    )
    (said,) = violations(world)["coverage"]
    assert "are owed" in said


def test_what_is_in_flight_covers_what_is_owed(world: World, paid: Paid) -> None:
    world.stripe.fault("apply_then_drop", path="/v1/refunds")
    paid.acme.post("/v1/refunds", {"amount_minor": 50_000, "currency": "USD"})
    world.sweep("refunds")
    assert violations(world) == {}
