"""A transfer that Stripe made after all of a payout that was called absent: it is booked, once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts import outcomes, service
from tests.corrections.test_corrections import about, corrected
from tests.payouts.conftest import ask_for, comes_in, late_transfer, lost
from tests.reports.conftest import violations
from tests.world import HOUR, Client, Json, Person, World

WHY = {"reason": "Somebody looked at it."}


def drafted(finance: Person) -> Json:
    run: Json = finance.post("/v1/payout-runs", {"currency": "USD"})
    return run


def only_payout(finance: Person, run: Json) -> Json:
    (payout,) = finance.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    found: Json = finance.get(f"/v1/payouts/{payout['id']}")
    return found


def sent(world: World, approver: Person, run: Json) -> Json:
    approver.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts", "inbox")
    return only_payout(approver, run)


def given_up(
    world: World, finn: Person, fay: Person, payout: Json, **changed: Any
) -> tuple[str, str]:
    """Lost, called absent and released; then it comes in. Answers its path and the transfer."""
    path = f"/v1/payouts/{payout['id']}"
    request = lost(world, finn, payout)
    fay.post(f"{path}/absent", WHY)
    finn.post(f"{path}/release", WHY)
    return path, comes_in(world, {**request, **changed})


def paid_once(world: World, performer: Person, payout: Json, transfer: str) -> None:
    assert (payout["state"], payout["transfer_id"]) == ("paid", transfer)
    assert [each["id"] for each in world.stripe.transfers()] == [transfer]
    assert world.ledger("performer_payable", performer.id) == 0
    assert world.ledger("transfers_in_flight") == 0
    assert violations(world) == {}


def found(finance: Person, payout: Json) -> list[tuple[str, int]]:
    """What came back of it, and nobody here asked for."""
    items = finance.get("/v1/reversals")["items"]
    return [
        (each["state"], each["amount_minor"]) for each in items if each["payout_id"] == payout["id"]
    ]


class TestGivenUp:
    def test_it_pays_the_next_payout_of_just_these_earnings(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        _, transfer = given_up(world, finn, fay, approved)
        done = sent(world, fay, drafted(finn))
        assert f"{transfer} paid it" in done["state_reason"]
        paid_once(world, owed, done, transfer)
        (total,) = owed.get("/v1/earnings")["items"]
        assert (total["paid_minor"], total["waiting_minor"]) == (123, 0)
        assert ask_for(finn, done, cause="duplicate")["transfer_id"] == transfer

    def test_beside_newer_earnings_it_is_issued_again(
        self,
        world: World,
        acme: Client,
        ravi: Person,
        owed: Person,
        finn: Person,
        fay: Person,
        approved: Json,
    ) -> None:
        path, transfer = given_up(world, finn, fay, approved)
        world.accepted_claim(owed, world.published_job(acme, title="Newer"), ravi)
        held = sent(world, fay, drafted(finn))
        assert (held["state"], held["amount_minor"]) == ("held", 246)
        assert f"Stripe has {transfer}" in held["state_reason"]
        assert f"for payout {approved['id']}" in held["state_reason"]
        assert fay.refused("POST", f"{path}/reissue") == "409 earnings_in_another_payout"
        finn.post(f"/v1/payouts/{held['id']}/release", WHY)
        again = finn.post(f"{path}/reissue")
        assert (again["state"], again["payouts"], again["amount_minor"]) == ("draft", 1, 123)
        assert finn.refused("POST", f"/v1/payout-runs/{again['id']}/approve") == (
            "403 preparer_may_not_approve"
        )
        assert fay.refused("POST", f"{path}/reissue") == "409 earnings_in_another_payout"
        done = sent(world, fay, again)
        assert (done["state"], done["transfer_id"]) == ("paid", transfer)
        rest = sent(world, fay, drafted(finn))
        assert (rest["state"], rest["amount_minor"]) == ("paid", 123)
        assert len(world.stripe.transfers()) == 2
        assert violations(world) == {}

    def test_to_an_account_that_was_retired_since(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        path, transfer = given_up(world, finn, fay, approved)
        world.replace_account(owed, finn)
        held = sent(world, fay, drafted(finn))
        assert held["state"] == "held"
        finn.post(f"/v1/payouts/{held['id']}/release", WHY)
        done = sent(world, fay, finn.post(f"{path}/reissue"))
        assert done["destination"] == approved["destination"]
        paid_once(world, owed, done, transfer)

    def test_issued_again_although_nothing_came_in_it_goes_to_no_account_that_was_retired(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        lost(world, finn, approved)
        fay.post(f"{path}/absent", WHY)
        finn.post(f"{path}/release", WHY)
        world.replace_account(owed, finn)
        held = sent(world, fay, finn.post(f"{path}/reissue"))
        assert held["state"] == "held"
        assert world.stripe.transfers() == []

    def test_of_which_a_part_came_back_people_say_what_that_is(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        _, transfer = given_up(world, finn, fay, approved)
        world.stripe.control("POST", f"transfers/{transfer}/reversals", amount=100)
        world.sweep("poll_events", "inbox")
        done = sent(world, fay, drafted(finn))
        assert (done["state"], done["transfer_id"]) == ("paid", transfer)
        assert found(finn, done) == [("found", 100)]
        assert set(violations(world)) == {"I1"}, "until somebody says what it is"
        (reversal,) = finn.get("/v1/reversals")["items"]
        said = {"cause": "wrong_destination", "reason": "It is her sister's."}
        finn.post(f"/v1/reversals/{reversal['id']}/explain", said)
        fay.post(f"/v1/reversals/{reversal['id']}/approve")
        assert world.ledger("performer_payable", owed.id) == -100
        assert violations(world) == {}

    def test_what_came_back_while_it_was_looked_at_is_found(
        self,
        world: World,
        owed: Person,
        finn: Person,
        fay: Person,
        approved: Json,
    ) -> None:
        """Stripe told of it when nothing here was paid by it yet."""
        _, transfer = given_up(world, finn, fay, approved)
        run = drafted(finn)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        sandbox, looked_at = world.judged.app, []

        def comes_back() -> None:
            world.stripe.control("POST", f"transfers/{transfer}/reversals", amount=None)
            world.sweep("poll_events", "inbox")

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            answer: list[Any] = []

            async def keep(message: Any) -> None:
                answer.append(message)

            await sandbox(scope, receive, keep)
            if scope["type"] == "http" and scope["path"] == "/v1/transfers":
                looked_at.append(scope["query_string"])
                if len(looked_at) == 2:  # for this payout's own, then for the earlier one's
                    await asyncio.to_thread(comes_back)
            for message in answer:
                await send(message)

        world.judged.app = slow
        world.sweep("payouts")
        done = only_payout(finn, run)
        assert (done["state"], done["transfer_id"]) == ("paid", transfer)
        assert found(finn, done) == [("found", 123)]
        assert world.value("SELECT count(*) FROM payout WHERE due_at IS NOT NULL") == 0

    def test_beside_a_debt_that_was_taken_off_since_it_is_issued_again(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        """The debt is taken off what is earned next."""
        path, transfer = given_up(world, finn, fay, approved)
        (claim,) = owed.get("/v1/claims")["items"]
        corrected(finn, fay, claim, 50)
        about(finn, fay, owed, "nettings", 20)
        held = sent(world, fay, drafted(finn))
        assert (held["state"], held["amount_minor"]) == ("held", 103)
        finn.post(f"/v1/payouts/{held['id']}/release", WHY)
        done = sent(world, fay, finn.post(f"{path}/reissue"))
        assert (done["state"], done["transfer_id"]) == ("paid", transfer)
        assert world.ledger("performer_payable", owed.id) == 20
        assert violations(world) == {}

    def test_who_may_and_what_there_is(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        assert finn.refused("POST", f"{path}/reissue") == "409 move_not_allowed"
        finn.post(f"{path}/release", WHY)
        assert finn.refused("POST", f"{path}/reissue") == "409 never_lost"
        again = only_payout(finn, drafted(finn))
        fay.post(f"/v1/payout-runs/{again['run_id']}/approve")
        path, _ = given_up(world, finn, fay, again)
        assert finn.refused("POST", f"{path}/reissue", key="") == "400 idempotency_key_missing"
        world.sql("INSERT INTO person_role (person_id, role) VALUES (%s, 'finance')", owed.id)
        assert owed.refused("POST", f"{path}/reissue") == "403 own_payout"
        first, same = (finn.post(f"{path}/reissue", key="once") for _ in range(2))
        assert first == same

    def test_many_issue_it_again_at_once(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        path, _ = given_up(world, finn, fay, approved)
        with ThreadPoolExecutor(6) as pool:
            answers = list(
                pool.map(
                    lambda number: (
                        finn.ask("POST", f"{path}/reissue")
                        if number % 2
                        else finn.ask("POST", "/v1/payout-runs", {"currency": "USD"})
                    ),
                    range(6),
                )
            )
        assert {each.status_code for each in answers} <= {201, 409}
        lines = "SELECT count(*) FROM payout_line WHERE released_at IS NULL"
        assert world.value(lines) == 1

    def test_it_leaves_the_reasons_of_others_as_they_are(
        self, world: World, acme: Client, ravi: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        """The run of one payout says nothing of who is in no run."""
        path, _ = given_up(world, finn, fay, approved)
        bea = world.performer("Bea")
        world.accepted_claim(bea, world.published_job(acme, title="Bea's"), ravi)
        run = drafted(finn)
        finn.post(f"/v1/payouts/{only_payout(finn, run)['id']}/release", WHY)
        finn.post(f"{path}/reissue")
        (total,) = bea.get("/v1/earnings")["items"]
        assert total["exclusion"]["reason"] == "no_account"


class TestItsLine:
    """Stripe's line of it waits for its payout: nobody books it as capital meanwhile."""

    def queue(self, world: World, finn: Person) -> list[Json]:
        world.advance(25 * HOUR)
        world.sweep("poll_deposits", "funds", "stripe_lines")
        found: list[Json] = finn.get("/v1/exceptions")["items"]
        return found

    def test_while_the_payout_is_refused_or_given_up(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        transfer = late_transfer(world, finn, approved)
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/absent", WHY)
        for state in ("refused", "released"):
            if state == "released":
                finn.post(f"{path}/release", WHY)
            (line,) = self.queue(world, finn)
            assert line["waits_for"] == f"payout {approved['id']}"
            wanted = {"booked_as": "capital", **WHY}
            booking = f"/v1/exceptions/{line['line_id']}/bookings"
            assert finn.refused("POST", booking, wanted) == "409 line_waits"
        paid_once(world, owed, sent(world, fay, finn.post(f"{path}/reissue")), transfer)
        assert self.queue(world, finn) == []

    def test_once_its_earnings_are_paid_otherwise_it_waits_for_nobody(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        path = f"/v1/payouts/{approved['id']}"
        request = lost(world, finn, approved)
        fay.post(f"{path}/absent", WHY)
        finn.post(f"{path}/release", WHY)
        assert sent(world, fay, drafted(finn))["state"] == "paid"
        comes_in(world, request)
        (line,) = self.queue(world, finn)
        assert (line["waits_for"], line["may_be_booked_as"]) == (None, ["capital"])

    def booked_otherwise(self, world: World, transfer: str) -> None:
        line = world.loopback.run(self.line_of(world, transfer))
        world.sql(
            "INSERT INTO booked_balance_transaction (id, net_minor, currency,"
            " ledger_transaction_id) SELECT %s, -123, 'USD', id FROM ledger_transaction"
            " WHERE id NOT IN (SELECT ledger_transaction_id FROM booked_balance_transaction)"
            " LIMIT 1",
            line,
        )

    async def line_of(self, world: World, transfer: str) -> str | None:
        transfers = [each async for each in world.gateway.list_transfers()]
        (line,) = (each.balance_transaction_id for each in transfers if each.id == transfer)
        return line

    def test_what_was_booked_otherwise_all_the_same_holds_the_payout(
        self, world: World, owed: Person, finn: Person, fay: Person, approved: Json
    ) -> None:
        transfer = late_transfer(world, finn, approved)
        path = f"/v1/payouts/{approved['id']}"
        fay.post(f"{path}/absent", WHY)
        self.booked_otherwise(world, transfer)
        fay.post(f"{path}/approve", WHY)
        world.sweep("payouts")
        held = finn.get(path)
        assert (held["state"], len(held["attempts"])) == ("held", 1)
        assert held["state_reason"].startswith(f"Stripe has {transfer} of it. ")
        assert held["state_reason"].endswith("is booked as something else already.")
        assert world.ledger("performer_payable", owed.id) == -123

    def test_and_one_on_its_way_stays_unknown_and_says_so(
        self, world: World, finn: Person, approved: Json
    ) -> None:
        world.stripe.fault("apply_then_drop")
        world.sweep("payouts")
        (transfer,) = world.stripe.transfers()
        self.booked_otherwise(world, transfer["id"])
        world.advance(10)
        world.sweep("payouts")
        unknown = finn.get(f"/v1/payouts/{approved['id']}")
        assert unknown["state"] == "unknown"
        assert unknown["state_reason"].startswith(f"Stripe has {transfer['id']} of it.")
        assert world.ledger("transfers_in_flight") == -123


class TestWhatFinanceIsTold:
    """Whoever asked for it gets its answer when somebody has called it absent: what to do is said."""

    def told(self, world: World, finn: Person, fay: Person, payout: Json, *verbs: str) -> str:
        path = f"/v1/payouts/{payout['id']}"
        request = lost(world, finn, payout)
        for verb in verbs:
            fay.post(f"{path}/{verb}", WHY)
        world.sweep("payouts", "inbox")
        transfer = comes_in(world, request)
        found = world.loopback.run(
            world.gateway.find_transfers(transfer_group=request["transfer_group"])
        )
        (late,) = (each for each in found if each.id == transfer)

        async def note(session: AsyncSession) -> None:
            locked = await service.find_payout(session, UUID(payout["id"]), lock=True)
            await outcomes.found_too_late(session, locked, late)

        world.transact(note)
        reason: str = finn.get(path)["state_reason"]
        assert reason.startswith(f"Stripe has {transfer} of it after all: ")
        return reason

    def test_of_one_that_was_refused(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        reason = self.told(world, finn, fay, approved, "absent")
        assert reason.endswith("approve it, and that one is booked; no other is sent.")

    def test_of_one_that_was_released(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        reason = self.told(world, finn, fay, approved, "absent", "release")
        assert reason.endswith("reissue this payout, and that one is booked; no other is sent.")

    def test_of_one_that_another_transfer_has_paid(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        reason = self.told(world, finn, fay, approved, "absent", "approve")
        assert reason.endswith("already, so reverse this one there.")

    def test_of_one_that_is_not_as_approved(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        """Nothing looks for it while it is held."""
        by_hand = {"destination": approved["destination"], "amount_minor": 100, "currency": "USD"}
        group = f"payout-{approved['id']}"
        send = world.gateway.send_transfer(
            **by_hand, transfer_group=group, metadata={}, idempotency_key="by hand"
        )
        world.loopback.run(send)
        world.sweep("payouts")
        held = finn.get(f"/v1/payouts/{approved['id']}")
        assert held["state_reason"].endswith(
            "reverse it there, then finance can approve this again."
        )


class TestAskedSlowly:
    def test_the_lease_is_renewed_between_the_questions(
        self, world: World, finn: Person, fay: Person, approved: Json
    ) -> None:
        """Each answer takes nearly as long as it may; nobody else takes the payout meanwhile."""
        given_up(world, finn, fay, approved)
        run = drafted(finn)
        fay.post(f"/v1/payout-runs/{run['id']}/approve")
        sandbox = world.judged.app
        leases = set()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/v1/transfers":
                left = world.value(
                    "SELECT due_at - marketplace_now() FROM payout WHERE due_at IS NOT NULL"
                )
                leases.add(round(left.total_seconds()))
                world.owner_sql("UPDATE clock SET offset_seconds = offset_seconds + 19")
            await sandbox(scope, receive, send)

        world.judged.app = slow
        world.sweep("payouts")
        assert leases == {60}
        assert only_payout(finn, run)["state"] == "paid"
