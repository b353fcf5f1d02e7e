"""Paying out: runs that two people make, transfers that Stripe makes, refuses, or never answers."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model import asking
from tests.money_model.asking import FOUND, MADE, NO_FUNDS, REFUSED, WAITS_SECONDS, Key
from tests.money_model.books import AVAILABLE, IN_FLIGHT, PLATFORM, payable
from tests.money_model.claims import Claims, Earning
from tests.money_model.stage import ANY, picked
from tests.world import Json, Person

MINIMUM_MINOR = 100
COOLS = timedelta(hours=72)
KEY_SERVES = timedelta(hours=23) - timedelta(seconds=60)
WHY = {"reason": "Somebody looked at it."}

FAULTS = (*asking.FAULTS, "balance_insufficient", "account_restricted")


@dataclass
class Payout:
    id: str
    performer: Person
    amount_minor: int
    destination: str
    state: str = "draft"
    attempts: list[Key] = field(default_factory=list)


@dataclass
class Run:
    id: str
    payouts: list[Payout]
    state: str = "draft"


class Payouts(Claims):
    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []
        self.restricted: set[str] = set()
        # Two people said that they are somebody else's.
        self.wrong: set[str] = set()
        self.cool_until: dict[str, datetime] = {}

    def payouts_in(self, *states: str) -> list[Payout]:
        found = (payout for run in self.runs for payout in run.payouts)
        return [payout for payout in found if payout.state in states]

    def account(self, performer: Person) -> str | None:
        return self.cast.accounts.get(performer.id)

    # accounts at Stripe

    @precondition(lambda self: self.without_account())
    @rule()
    def somebody_opens_an_account(self) -> None:
        self.steady()
        performer = self.without_account()[0]
        opened_at = self.world.now
        self.cast.accounts[performer.id] = self.world.onboard(performer)
        if performer.id in self.cool_until:
            self.cool_until[performer.id] = opened_at + COOLS
        self.steady()

    @precondition(lambda self: self.wrong & {*self.cast.accounts.values()})
    @rule(account=ANY)
    def a_wrong_account_is_retired(self, account: int) -> None:
        self.steady()
        holders = {held: performer for performer, held in self.cast.accounts.items()}
        performer = holders[picked(sorted(self.wrong & holders.keys()), account)]
        self.cast.finn.post(f"/v1/performers/{performer}/payout-account/retire", WHY)
        del self.cast.accounts[performer]
        self.cool_until[performer] = self.world.now + COOLS

    def without_account(self) -> list[Person]:
        return [each for each in self.cast.performers if each.id not in self.cast.accounts]

    @precondition(lambda self: self.earnings)
    @rule(performer=ANY)
    def stripe_changes_its_mind(self, performer: int) -> None:
        """An account is restricted, or free again; we hear of it later."""
        self.steady()
        account = picked(list(self.cast.accounts.values()), performer)
        if account in self.restricted:
            self.world.stripe.lift(account)
        else:
            self.world.stripe.restrict(account)
        self.restricted ^= {account}

    def is_known_as_active(self, performer: Person) -> bool:
        """As far as we were told: Stripe is asked again only when money is sent."""
        if performer.id not in self.cast.accounts:
            return False
        told: str = performer.get("/v1/payout-account")["transfers"]
        return told == "active"

    # runs

    def free_earnings(self) -> dict[str, list[Earning]]:
        """What is in no payout yet, by performer."""
        found = defaultdict(list)
        for earning in self.earnings:
            if earning.payout_id is None:
                found[earning.performer.id].append(earning)
        return found

    def payable_now(self) -> dict[str, list[Earning]]:
        return {
            performer_id: earnings
            for performer_id, earnings in self.free_earnings().items()
            if sum(earning.amount_minor for earning in earnings) >= MINIMUM_MINOR
            and self.is_known_as_active(earnings[0].performer)
            and self.account(earnings[0].performer) not in self.wrong
        }

    @precondition(lambda self: self.free_earnings())
    @rule()
    def a_run_is_drafted(self) -> None:
        self.steady()
        due = self.payable_now()
        run: Json = self.cast.finn.post("/v1/payout-runs", {"currency": "USD"})
        assert run["payouts"] == len(due)
        assert run["excluded"] == len(self.free_earnings()) - len(due)
        listed = self.cast.finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
        payouts = [self.drafted(made, due[made["performer_id"]]) for made in listed]
        self.runs.append(Run(run["id"], payouts))

    def drafted(self, made: Json, earnings: list[Earning]) -> Payout:
        assert made["amount_minor"] == sum(earning.amount_minor for earning in earnings)
        assert made["destination"] == self.account(earnings[0].performer)
        for earning in earnings:
            earning.payout_id = made["id"]
        performer, minor = earnings[0].performer, made["amount_minor"]
        return Payout(made["id"], performer, minor, made["destination"])

    def drafts(self) -> list[Run]:
        return [run for run in self.runs if run.state == "draft"]

    @precondition(lambda self: self.drafts())
    @rule(run=ANY, approved=st.sampled_from([True, True, True, False]))
    def a_run_is_decided(self, run: int, approved: bool) -> None:
        self.steady()
        decided = picked(self.drafts(), run)
        path = f"/v1/payout-runs/{decided.id}"
        own = self.cast.finn.refused("POST", f"{path}/approve")
        assert own == "403 preparer_may_not_approve"
        if approved:
            self.cast.fay.post(f"{path}/approve")
        else:
            self.cast.fay.post(f"{path}/discard", WHY)
        decided.state = "approved" if approved else "discarded"
        for payout in decided.payouts:
            if payout.state == "draft":
                payout.state = "approved" if approved else "released"
                if not approved:
                    self.free(payout)

    def free(self, payout: Payout) -> None:
        for earning in self.earnings:
            if earning.payout_id == payout.id:
                earning.payout_id = None

    @precondition(lambda self: self.free_earnings())
    @rule(fault=st.sampled_from([None, *FAULTS]))
    def it_is_payday(self, fault: str | None) -> None:
        """From what is owed to Stripe in one go."""
        self.a_run_is_drafted()
        self.a_run_is_decided(-1, approved=True)
        if self.payouts_in("approved", "unknown"):
            self.payouts_are_sent(fault)

    # sending

    @precondition(lambda self: self.payouts_in("approved", "unknown"))
    @rule(fault=st.sampled_from([None, None, None, *FAULTS]))
    def payouts_are_sent(self, fault: str | None) -> None:
        """All that wait for an hour or less are due; the first request for a transfer may fail."""
        self.world.advance(WAITS_SECONDS)
        waiting = len(self.payouts_in("approved", "unknown"))
        assert self.send_payouts(fault) == waiting
        self.states_agree()

    def send_payouts(self, fault: str | None = None) -> int:
        """Those that are due; answers how many."""
        due, now = self.swept_in_order("payouts", "payout", fault, "/v1/transfers$")
        waiting = {payout.id: payout for payout in self.payouts_in("approved", "unknown")}
        for payout_id in due:
            fault = self.looked_at(waiting[payout_id], fault, now)
        return len(due)

    def look_once_more(self) -> None:
        super().look_once_more()
        self.send_payouts()

    def looked_at(self, payout: Payout, fault: str | None, now: datetime) -> str | None:
        """One payout in its turn; answers the fault if it still waits for a request."""
        if payout.state == "approved":
            if self.is_held(payout, now):
                payout.state = "held"
                return fault
            if self.stripe.available(now) < payout.amount_minor:
                return fault
            payout.attempts.append(Key(now, KEY_SERVES))
            payout.state = "unknown"
            self.books.book(payout.amount_minor, payable(payout.performer.id), IN_FLIGHT)
        key = payout.attempts[-1]
        learned = key.ask(fault, now, lambda: self.transferred(payout, fault, now))
        if learned in {MADE, FOUND}:
            payout.state = "paid"
            self.books.book(payout.amount_minor, IN_FLIGHT, AVAILABLE)
        elif learned is not None:
            self.owed_again(payout)
            payout.state = "approved" if learned == NO_FUNDS else "refused"
        return None if key.takes_fault(now) else fault

    def is_held(self, payout: Payout, now: datetime) -> bool:
        cool_until = self.cool_until.get(payout.performer.id, now)
        is_changed = self.account(payout.performer) != payout.destination
        return is_changed or cool_until > now or payout.destination in self.restricted | self.wrong

    def transferred(self, payout: Payout, fault: str | None, now: datetime) -> str:
        """What Stripe does."""
        account = payout.destination
        if fault == "account_restricted":
            self.restricted.add(account)
        if fault == "balance_insufficient":
            return NO_FUNDS
        if account in self.restricted:
            return REFUSED
        if self.stripe.available(now) < payout.amount_minor:
            return NO_FUNDS
        self.stripe.add(PLATFORM, -payout.amount_minor, now)
        self.stripe.add(account, payout.amount_minor, now)
        return MADE

    def owed_again(self, payout: Payout) -> None:
        self.books.book(payout.amount_minor, IN_FLIGHT, payable(payout.performer.id))

    def states_agree(self) -> None:
        for run in self.runs:
            told = self.cast.finn.get(f"/v1/payout-runs/{run.id}/payouts")["items"]
            assert {each["id"]: each["state"] for each in told} == {
                payout.id: payout.state for payout in run.payouts
            }

    # what finance may do with a single one

    @precondition(lambda self: self.payouts_in("held", "refused"))
    @rule(payout=ANY)
    def one_is_approved_again(self, payout: int) -> None:
        self.steady()
        again = picked(self.payouts_in("held", "refused"), payout)
        self.cast.fay.post(f"/v1/payouts/{again.id}/approve", WHY)
        again.state = "approved"

    @precondition(lambda self: self.payouts_in("approved", "held", "refused"))
    @rule(payout=ANY)
    def one_is_given_up(self, payout: int) -> None:
        """What it would have paid is free for the next run."""
        self.steady()
        given_up = picked(self.payouts_in("approved", "held", "refused"), payout)
        self.cast.fay.post(f"/v1/payouts/{given_up.id}/release", WHY)
        given_up.state = "released"
        self.free(given_up)

    @precondition(lambda self: self.payouts_in("unknown"))
    @rule(payout=ANY)
    def one_is_called_absent(self, payout: int) -> None:
        """Only after Stripe was looked through, too late for the key."""
        self.steady()
        absent = picked(self.payouts_in("unknown"), payout)
        path = f"/v1/payouts/{absent.id}/absent"
        if not absent.attempts[-1].looked_up_in_vain:
            assert self.cast.fay.refused("POST", path, WHY) == "409 not_proven_absent"
            return
        self.cast.fay.post(path, WHY)
        absent.state = "refused"
        self.owed_again(absent)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        yield from self.cool_until.values()
        for payout in self.payouts_in("unknown"):
            yield payout.attempts[-1].serves_until

    def rest(self) -> None:
        """Nothing stays in flight: Stripe is asked, then looked through, then somebody decides."""
        super().rest()
        for performer in self.cast.performers:
            if account := self.account(performer):
                assert self.is_known_as_active(performer) is (account not in self.restricted)
        if self.free_earnings():
            self.it_is_payday(None)
        for _ in range(2):
            if self.payouts_in("approved", "unknown"):
                self.payouts_are_sent(None)
        while self.payouts_in("unknown"):
            self.one_is_called_absent(0)
        assert self.books.owed(IN_FLIGHT) == 0
