"""What a bank takes back: set aside, given back, or borne in order; once, in whatever order it comes."""

import dataclasses
import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from marketplace.funding import disputes
from marketplace.jobs import unfunding
from marketplace.jobs.unfunding import give_up_open_roles
from marketplace.reports import explain
from marketplace.shared import audit
from marketplace.stripe_api.gateway_answers import Dispute
from tests.reports.conftest import lift_all_guards, violations
from tests.world import HOUR, Client, Json, Person, World

PATH = "/v1/disputes"
REFUND = {"amount_minor": 1_000, "currency": "USD"}
ROLE_MINOR = 12_765
FEE_MINOR = 1_500


@pytest.fixture
def acme(world: World, settled: Client, finn: Person) -> Client:
    """The platform has enough to bear a lost payment until somebody makes it good."""
    world.capital(finn, 200_000)
    return settled


def dispute_at_stripe(world: World, acme: Client, **how: Any) -> str:
    payment = world.value(
        "SELECT payment_intent_id FROM deposit WHERE client_id = %s ORDER BY id LIMIT 1", acme.id
    )
    made: Json = world.stripe.control("POST", "disputes", payment_intent=payment, **how)
    id_: str = made["id"]
    return id_


def becomes(world: World, dispute: str, to: str) -> None:
    world.stripe.control("PUT", f"disputes/{dispute}", to=to)


def told(world: World) -> None:
    world.sweep("poll_events", "inbox")


def opened(world: World, acme: Client, **how: Any) -> str:
    dispute = dispute_at_stripe(world, acme, **how)
    told(world)
    return dispute


def only(acme: Client) -> Json:
    (dispute,) = acme.get(PATH)["items"]
    found: Json = dispute
    return found


def balances(world: World, acme: Client) -> dict[str, int]:
    """As what we owe (wallets) or are owed (receivables)."""
    return {
        "wallet": acme.wallet_minor,
        "disputed": -world.ledger("wallet_disputed", acme.id),
        "at_stripe": world.ledger("disputes_receivable"),
        "owed": world.ledger("client_receivable", acme.id),
        "fees": world.ledger("dispute_fees"),
    }


class TestOpened:
    def test_what_the_wallet_has_is_set_aside(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme, amount=40_000)
        assert balances(world, acme) == {
            "wallet": 60_000,
            "disputed": 40_000,
            "at_stripe": 40_000,
            "owed": 0,
            "fees": FEE_MINOR,
        }
        seen = only(acme)
        assert (seen["stripe_dispute_id"], seen["state"]) == (dispute, "open")
        assert (seen["withdrawn_minor"], seen["fee_minor"], seen["held_minor"]) == (
            *(40_000, FEE_MINOR, 40_000),
        )
        wallet = acme.get("/v1/wallet")
        assert (wallet["disputed_minor"], wallet["owed_minor"]) == (40_000, 0)
        assert violations(world) == {}

    def test_as_much_as_it_has(self, world: World, acme: Client) -> None:
        world.published_job(acme, tasks=3)
        opened(world, acme)
        assert balances(world, acme) == {
            "wallet": 0,
            "disputed": 100_000 - 3 * ROLE_MINOR,
            "at_stripe": 100_000,
            "owed": 0,
            "fees": FEE_MINOR,
        }
        assert violations(world) == {}

    def test_refunds_stop(self, world: World, acme: Client, finn: Person) -> None:
        dispute = opened(world, acme, amount=40_000)
        assert acme.refused("POST", "/v1/refunds", REFUND) == "409 refunds_paused"
        for_acme = {**REFUND, "client_id": acme.id}
        assert finn.refused("POST", "/v1/refunds", for_acme) == "409 refunds_paused"
        becomes(world, dispute, "won")
        told(world)
        acme.post("/v1/refunds", REFUND)

    def test_new_claims_pause_and_live_ones_are_paid(
        self, world: World, acme: Client, ravi: Person
    ) -> None:
        ana, bea = world.performer("Ana"), world.performer("Bea")
        job = world.published_job(acme, tasks=2)
        held = world.claim(ana, job)
        (free,) = [role for role in world.roles(job) if role != held["role_id"]]
        dispute = opened(world, acme)
        assert bea.get("/v1/board")["items"] == []
        assert bea.refused("POST", "/v1/claims", {"role_id": free}) == "409 claims_paused"
        world.work(ana, held, "perform", 60)
        world.hand_in(ana, held, world.take(ana, held))
        assert world.ledger("performer_payable", ana.id) == 0
        world.judge(ravi, {"verdict": "accept", "scores": SCORES})
        assert world.ledger("performer_payable", ana.id) == -123
        becomes(world, dispute, "won")
        told(world)
        assert len(bea.get("/v1/board")["items"]) == 1
        world.claim(bea, job)
        assert violations(world) == {}

    def test_another_clients_work_goes_on(self, world: World, acme: Client) -> None:
        other = world.client("Other Lab", deposit_minor=50_000)
        job = world.published_job(other)
        opened(world, acme)
        world.claim(world.performer("Ana"), job)
        assert other.get(PATH)["items"] == []
        assert other.refused("GET", f"{PATH}/{only(acme)['id']}") == "404 not_found"

    def test_the_money_may_leave_later(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme, withdraws=False)
        assert (only(acme)["state"], only(acme)["held_minor"]) == ("open", None)
        assert acme.wallet_minor == 100_000
        assert acme.refused("POST", "/v1/refunds", REFUND) == "409 refunds_paused"
        becomes(world, dispute, "withdrawn")
        told(world)
        assert balances(world, acme)["disputed"] == 100_000

    def test_without_any_event_the_poller_finds_it(self, world: World, acme: Client) -> None:
        dispute = dispute_at_stripe(world, acme)
        world.sweep("disputes")
        assert balances(world, acme)["disputed"] == 100_000
        becomes(world, dispute, "won")
        world.advance(HOUR)
        world.sweep("disputes")
        assert only(acme)["state"] == "won"
        told(world)
        assert acme.wallet_minor == 100_000
        assert violations(world) == {}

    def test_one_of_a_deposit_from_before_payments_were_kept(
        self, world: World, acme: Client
    ) -> None:
        dispute = dispute_at_stripe(world, acme)
        world.owner_sql("ALTER TABLE deposit DISABLE TRIGGER kept_payment")
        world.owner_sql("UPDATE deposit SET payment_intent_id = NULL")
        told(world)
        assert only(acme)["stripe_dispute_id"] == dispute

    def test_one_of_a_payment_that_is_not_ours_waits_with_its_error(
        self, world: World, acme: Client
    ) -> None:
        world.paid_at_stripe(acme, 5_000)
        (page,) = world.sql(
            "SELECT checkout_session_id FROM deposit WHERE state = 'awaiting_payment'"
        )
        paid = world.loopback.run(world.gateway.retrieve_deposit(page["checkout_session_id"]))
        world.stripe.control("POST", "disputes", payment_intent=paid.payment_intent_id)
        world.sweep("poll_events", "inbox")
        errors = world.sql("SELECT last_error FROM stripe_event WHERE last_error IS NOT NULL")
        # Its deposit is credited first, and then the dispute is known.
        assert errors
        assert all("DisputeNotOurs" in row["last_error"] for row in errors)
        world.advance(60)
        world.sweep("poll_deposits", "inbox")
        assert len(acme.get(PATH)["items"]) == 1


SCORES = {
    "brief_followed": 4,
    "emotion_conveyed": 3,
    "naturalness": 3,
    "listening": 3,
    "listenability": 4,
}


class TestWon:
    def test_everything_is_as_before_but_the_fee(self, world: World, acme: Client) -> None:
        before = world.stripe.platform_minor
        dispute = opened(world, acme)
        becomes(world, dispute, "won")
        for _ in range(2):
            told(world)
            world.sweep("disputes")
        assert balances(world, acme) == {
            "wallet": 100_000,
            "disputed": 0,
            "at_stripe": 0,
            "owed": 0,
            "fees": FEE_MINOR,
        }
        assert world.stripe.platform_minor == before - FEE_MINOR
        assert only(acme)["state"] == "won"
        assert violations(world) == {}

    def test_one_of_which_nothing_was_taken(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme, withdraws=False)
        becomes(world, dispute, "won")
        told(world)
        assert only(acme)["state"] == "closed"
        assert balances(world, acme)["wallet"] == 100_000
        assert violations(world) == {}


class TestLost:
    def test_out_of_what_was_set_aside(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme)
        becomes(world, dispute, "lost")
        for _ in range(2):
            told(world)
        assert balances(world, acme) == {
            "wallet": 0,
            "disputed": 0,
            "at_stripe": 0,
            "owed": 0,
            "fees": FEE_MINOR,
        }
        assert violations(world) == {}

    def test_then_out_of_open_roles_and_the_rest_is_owed(
        self, world: World, acme: Client, ana: Person, ravi: Person
    ) -> None:
        """Three roles: one is held, two give their money up; what the held one has is owed."""
        job = world.published_job(acme, tasks=3)
        claim = world.claim(ana, job)
        dispute = opened(world, acme)
        becomes(world, dispute, "lost")
        told(world)
        seen = only(acme)
        assert (seen["held_minor"], seen["from_reserves_minor"]) == (
            *(100_000 - 3 * ROLE_MINOR, 2 * ROLE_MINOR),
        )
        assert balances(world, acme) == {
            "wallet": 0,
            "disputed": 0,
            "at_stripe": 0,
            "owed": ROLE_MINOR,
            "fees": FEE_MINOR,
        }
        states = world.sql("SELECT state, state_reason FROM role ORDER BY state, id")
        assert [row["state"] for row in states] == ["held", "unfunded", "unfunded"]
        assert states[1]["state_reason"].startswith("A payment was taken back")
        world.work(ana, claim, "perform", 60)
        world.hand_in(ana, claim, world.take(ana, claim))
        world.judge(ravi, {"verdict": "accept", "scores": SCORES})
        assert world.ledger("performer_payable", ana.id) == -123
        assert acme.get("/v1/wallet")["owed_minor"] == ROLE_MINOR
        assert violations(world) == {}

    def test_roles_are_looked_through_until_it_is_enough(
        self, world: World, acme: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One look does not find enough of them; the money moves after the last one, at once."""
        monkeypatch.setattr(unfunding, "ROLES_AT_ONCE", 1)
        world.published_job(acme, tasks=3)
        dispute = opened(world, acme, amount=acme.wallet_minor + ROLE_MINOR + 500)
        becomes(world, dispute, "lost")
        told(world)
        assert balances(world, acme)["wallet"] == ROLE_MINOR - 500
        states = world.sql("SELECT state FROM role ORDER BY id")
        assert [row["state"] for row in states] == ["unfunded", "unfunded", "open"]
        assert violations(world) == {}

    def test_no_more_roles_than_it_takes(self, world: World, acme: Client) -> None:
        """5.00 are missing: one role gives up its 127.65, of which the rest is in the wallet."""
        world.published_job(acme, tasks=3)
        left = acme.wallet_minor
        dispute = opened(world, acme, amount=left + 500)
        becomes(world, dispute, "lost")
        told(world)
        assert balances(world, acme) == {
            "wallet": ROLE_MINOR - 500,
            "disputed": 0,
            "at_stripe": 0,
            "owed": 0,
            "fees": FEE_MINOR,
        }
        states = world.sql("SELECT state FROM role ORDER BY id")
        assert [row["state"] for row in states] == ["unfunded", "open", "open"]
        assert violations(world) == {}

    def test_a_first_look_that_finds_it_lost_waits_for_no_role(
        self, world: World, acme: Client
    ) -> None:
        """It has locked the wallet, and whoever publishes locks roles before wallets."""
        world.published_job(acme, tasks=3)
        dispute = dispute_at_stripe(world, acme)
        becomes(world, dispute, "lost")
        seen = world.loopback.run(world.gateway.retrieve_dispute(dispute))
        with world.connection() as publisher:
            publisher.execute("SELECT FROM role ORDER BY id FOR NO KEY UPDATE")
            world.transact(
                lambda session: disputes.settle(session, seen, give_up=give_up_open_roles)
            )
            assert (only(acme)["state"], only(acme)["from_reserves_minor"]) == ("open", None)
        world.sweep("disputes")
        assert (only(acme)["state"], only(acme)["from_reserves_minor"]) == ("lost", 3 * ROLE_MINOR)
        assert violations(world) == {}

    def test_what_was_lost_is_not_refunded_as_well(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme, amount=40_000)
        becomes(world, dispute, "lost")
        told(world)
        assert acme.wallet_minor == 60_000
        world.deposit(acme, 10_000)
        refund = acme.post("/v1/refunds", {"amount_minor": 70_000, "currency": "USD"})
        assert [part["amount_minor"] for part in refund["refunds"]] == [10_000, 60_000]

    def test_claims_and_refunds_go_on(self, world: World, acme: Client, ana: Person) -> None:
        job = world.published_job(acme)
        dispute = opened(world, acme, amount=10_000)
        becomes(world, dispute, "lost")
        told(world)
        world.claim(ana, job)
        acme.post("/v1/refunds", REFUND)


class TestLines:
    """Stripe's own lines of a dispute, as they seldom are."""

    def extra_fee(self, world: World, dispute: str) -> None:
        """Its fee as a line of its own, listed before what was withdrawn."""
        (line,) = self.lines(world, dispute)
        fee = {**line, "id": "txn_fee", "amount": -700, "fee": 0, "fee_details": [], "net": -700}
        world.change_at_stripe("dispute", dispute, balance_transactions=[fee, line])

    def lines(self, world: World, dispute: str) -> list[Json]:
        answer = world.http.get(
            f"{world.stripe.url}/v1/disputes/{dispute}",
            headers={"Authorization": "Bearer sk_test_sandbox"},
        )
        found: list[Json] = answer.json()["balance_transactions"]
        return found

    def test_the_largest_is_what_was_withdrawn(self, world: World, acme: Client) -> None:
        dispute = dispute_at_stripe(world, acme, amount=40_000)
        self.extra_fee(world, dispute)
        told(world)
        assert balances(world, acme)["disputed"] == 40_000
        assert only(acme)["fee_minor"] == FEE_MINOR

    @pytest.mark.parametrize("ends", ["won", "lost"])
    def test_one_that_is_booked_by_hand_ends_with_the_dispute(
        self, world: World, acme: Client, finn: Person, fay: Person, ends: str
    ) -> None:
        """Finance was first: nothing of it is booked twice, and no event of it fails for ever."""
        dispute = dispute_at_stripe(world, acme, amount=40_000)
        (line,) = self.lines(world, dispute)
        world.sweep("stripe_lines")
        world.advance(25 * HOUR)
        path = f"/v1/exceptions/{line['id']}/bookings"
        booking = finn.post(path, {"booked_as": "capital", "reason": "No event came."})
        fay.post(f"/v1/line-bookings/{booking['id']}/approve")
        told(world)
        assert only(acme)["state"] == "open"
        assert (
            only(acme)["state_reason"]
            == f"Finance must look: {line['id']} is booked by hand already."
        )
        becomes(world, dispute, ends)
        told(world)
        assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0
        if ends == "lost":
            world.sweep("disputes")
            assert only(acme)["state"] == "open"
            self.charge(finn, fay, only(acme))
        assert only(acme)["state"] == "closed"
        assert balances(world, acme)["wallet"] == 100_000 - (40_000 if ends == "lost" else 0)
        assert violations(world) == {}

    def charge(self, finn: Person, fay: Person, dispute: Json) -> None:
        wanted = {
            "deposit_id": dispute["deposit_id"],
            "dispute_id": dispute["id"],
            "amount_minor": 40_000,
            "currency": "USD",
            "reason": "The bank took it.",
        }
        charge = finn.post("/v1/client-charges", wanted)
        sure = {"confirm": True, "reason": "I saw it at Stripe."}
        fay.post(f"/v1/client-charges/{charge['id']}/decision", sure)


class TestInquiry:
    def test_it_moves_nothing(self, world: World, acme: Client, ana: Person) -> None:
        job = world.published_job(acme)
        dispute = opened(world, acme, inquiry=True)
        before = balances(world, acme)
        assert only(acme)["state"] == "inquiry"
        world.claim(ana, job)
        becomes(world, dispute, "under_review")
        becomes(world, dispute, "warning_closed")
        told(world)
        assert only(acme)["state"] == "closed"
        assert balances(world, acme) == before
        acme.post("/v1/refunds", REFUND)
        assert violations(world) == {}

    def test_it_may_become_a_dispute(self, world: World, acme: Client) -> None:
        dispute = opened(world, acme, inquiry=True)
        becomes(world, dispute, "escalated")
        told(world)
        assert only(acme)["state"] == "open"
        assert balances(world, acme)["disputed"] == 100_000


class TestOrder:
    """Each event fetches the object anew; and even looks that are stale end at the same."""

    EVENTS = ("created", "funds_withdrawn", "updated", "closed", "funds_reinstated")

    @pytest.mark.parametrize("ends", ["won", "lost"])
    def test_all_orders_of_five_looks_end_at_one_state(
        self, world: World, acme: Client, ends: str
    ) -> None:
        looks = self.looks(world, acme, ends)
        orders = list(itertools.permutations(looks))
        assert len(orders) == 120
        ended = {self.end_of(world, order) for order in orders}
        assert len(ended) == 1, ended
        ((state, *_),) = ended
        assert state == ends

    def looks(self, world: World, acme: Client, ends: str) -> list[Dispute]:
        """The dispute as it was at each of its five events."""
        world.published_job(acme, tasks=3)
        seen = []

        def look(dispute: str) -> None:
            seen.append(world.loopback.run(world.gateway.retrieve_dispute(dispute)))

        dispute = dispute_at_stripe(world, acme, withdraws=False)
        look(dispute)
        for change in ("withdrawn", "under_review", ends):
            becomes(world, dispute, change)
            look(dispute)
        look(dispute)
        # Closed, but the line of what came back is not there yet.
        seen[3] = dataclasses.replace(seen[3], reinstated=None)
        return seen

    def end_of(self, world: World, order: tuple[Dispute, ...]) -> tuple[Any, ...]:
        """In a world of its own: all of it in one transaction that is taken back."""

        async def play() -> tuple[Any, ...]:
            async with world.parts.sessions() as session:
                await audit.act_as(session, "test bed")
                for seen in order:
                    async with session.begin_nested():
                        await disputes.settle(session, seen, give_up=give_up_open_roles)
                ended = await session.execute(ENDED)
                found = tuple(tuple(row) for row in ended)
                # The deferred guards, too.
                await session.execute(CHECKED)
                await session.rollback()
                return (found[0][0], *sorted(map(str, found[1:])), found[0])

        return world.loopback.run(play())

    @pytest.mark.parametrize("ends", ["won", "lost"])
    def test_the_events_themselves_change_nothing_twice(
        self, world: World, acme: Client, ends: str
    ) -> None:
        """In every tenth of the 120 orders, over the inbox, which fetches the object each time."""
        dispute = dispute_at_stripe(world, acme)
        becomes(world, dispute, "under_review")
        becomes(world, dispute, ends)
        world.sweep("poll_events")
        (object_id,) = world.sql(
            "SELECT DISTINCT object_id FROM stripe_event WHERE type LIKE 'charge.dispute%%'"
        )
        assert object_id["object_id"] == dispute
        for number, order in enumerate(list(itertools.permutations(self.EVENTS))[::10]):
            for place, event in enumerate(order):
                world.sql(
                    "INSERT INTO stripe_event (id, type, object_id, created, payload, tries, due_at)"
                    " VALUES (%s, %s, %s, now(), '{}', 0, marketplace_now() - interval '1 day'"
                    "  + make_interval(secs => %s))",
                    *(f"evt_{number}_{event}", f"charge.dispute.{event}", dispute, place),
                )
        while world.sweep("inbox"):
            pass
        assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0
        kinds = world.sql(
            "SELECT kind, count(*) AS times FROM ledger_transaction"
            " WHERE kind LIKE 'dispute%%' GROUP BY kind ORDER BY kind DESC"
        )
        assert sorted(row["kind"] for row in kinds) == sorted(["dispute_opened", f"dispute_{ends}"])
        assert {row["times"] for row in kinds} == {1}
        assert only(acme)["state"] == ends
        assert violations(world) == {}


ENDED = sa.text(
    "SELECT state, held_minor, withdrawn_minor, from_reserves_minor, fee_minor FROM dispute"
    " UNION ALL SELECT account.kind, sum(amount_minor), count(*), NULL, NULL"
    " FROM ledger_entry JOIN account ON account.id = account_id GROUP BY account.kind"
    " UNION ALL SELECT state, count(*), NULL, NULL, NULL FROM role GROUP BY state"
)
CHECKED = sa.text("SET CONSTRAINTS ALL IMMEDIATE")


PLANTED = [
    ("I5", "UPDATE dispute SET held_minor = 39999", "its row says 39999"),
    ("I5", "", "set aside for disputes, its open ones 39999"),
    ("I5", "UPDATE dispute SET held_minor = 40000, fee_minor = 1400", "its row says 1400"),
    ("I5", "UPDATE dispute SET fee_minor = 1500, client_id = uuidv7()", "on client_wallet"),
    ("I9", "UPDATE dispute SET state = 'won'", "is won, but its lines are booked 1 times"),
    ("I11", "", "is won, but its last recorded move was to open"),
    (
        "I5",
        "UPDATE dispute SET state = 'open', opened_transaction_id = NULL",
        "(dispute_opened) has no source dispute",
    ),
    ("I9", "", "is open, but its lines are booked 1 times"),
    ("I13", "UPDATE dispute SET due_at = marketplace_now() - interval '1 hour'", "rows of dispute"),
    ("I5", "DELETE FROM dispute", "(dispute_opened) has no source dispute"),
]


def test_planted_violations_are_caught(world: World, acme: Client) -> None:
    opened(world, acme, amount=40_000)
    assert violations(world) == {}
    lift_all_guards(world)
    for invariant, statement, text in PLANTED:
        if statement:
            world.owner_sql(statement)
        found = violations(world).get(invariant, [])
        assert any(text in line for line in found), (statement, found)


def test_a_dispute_leads_to_its_deposit_and_to_stripes_lines(world: World, acme: Client) -> None:
    dispute = opened(world, acme, amount=40_000)
    becomes(world, dispute, "won")
    told(world)

    async def ask() -> explain.Node | None:
        async with world.parts.sessions() as session:
            return await explain.explain(session, dispute)

    found = world.loopback.run(ask())
    assert found is not None
    text = "\n".join(explain.lines(found))
    assert found.complete, text
    assert "deposit " in text
    assert text.count("booked_balance_transaction") == 2


def test_the_books_agree_with_stripes_lines(world: World, acme: Client, finn: Person) -> None:
    dispute = opened(world, acme)
    becomes(world, dispute, "won")
    told(world)
    world.sweep("stripe_lines")
    world.advance(1)
    assert finn.get("/v1/reports/reconciliation")["reconciled"]
    fees = finn.get("/v1/reports/fees", since="2020-01-01T00:00:00Z")
    costs = {(each["kind"], each["client_id"]): each["amount_minor"] for each in fees["lines"]}
    assert costs[("dispute_opened", acme.id)] == FEE_MINOR
