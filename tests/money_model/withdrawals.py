"""The platform's own money out to its bank: never more than is nobody else's."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model import asking
from tests.money_model.asking import FOUND, MADE, REFUSED, WAITS_SECONDS, Key
from tests.money_model.books import AVAILABLE, CAPITAL, PENDING, PLATFORM, TO_THE_BANK
from tests.money_model.stage import ANY, Stage, picked
from tests.world import Json

KEY_SERVES = timedelta(hours=23) - timedelta(seconds=60)
WHY = {"reason": "Somebody looked at it."}
FAULTS = (*asking.FAULTS, "balance_insufficient")


@dataclass
class Withdrawal:
    id: str
    amount_minor: int
    # requested, discarded, approved, unknown, out, returned, refused: as far as we know.
    state: str = "requested"
    key: Key | None = None
    # At Stripe, in the end.
    has_failed: bool = False


class Withdrawals(Stage):
    def __init__(self) -> None:
        super().__init__()
        self.withdrawals: list[Withdrawal] = []

    def withdrawals_in(self, *states: str) -> list[Withdrawal]:
        return [each for each in self.withdrawals if each.state in states]

    def own_money(self) -> int:
        """At Stripe by the books, beyond all that is owed or on its way."""
        at_stripe = self.books.held(PENDING) + self.books.held(AVAILABLE)
        return at_stripe - self.books.all_owed() - self.books.set_aside()

    @precondition(lambda self: self.own_money() > 0)
    @rule(per_mille=st.sampled_from([1, 500, 1_000, 1_001]))
    def one_asks_for_own_money(self, per_mille: int) -> None:
        self.steady()
        free = self.own_money()
        wanted = free + 1 if per_mille > 1_000 else free * per_mille // 1_000 or 1
        body = {"amount_minor": wanted, "currency": "USD", **WHY}
        if wanted > free:
            refused = self.cast.finn.refused("POST", "/v1/withdrawals", body)
            assert refused == "409 withdrawal_not_covered"
            return
        made: Json = self.cast.finn.post("/v1/withdrawals", body)
        self.withdrawals.append(Withdrawal(made["id"], wanted))

    @precondition(lambda self: self.withdrawals_in("requested"))
    @rule(withdrawal=ANY, approved=st.sampled_from([True, True, True, False]))
    def another_decides_about_own_money(self, withdrawal: int, approved: bool) -> None:
        self.steady()
        asked = picked(self.withdrawals_in("requested"), withdrawal)
        path = f"/v1/withdrawals/{asked.id}"
        if not approved:
            self.cast.fay.post(f"{path}/discard", WHY)
            asked.state = "discarded"
        elif asked.amount_minor > self.own_money():
            refused = self.cast.fay.refused("POST", f"{path}/approve")
            assert refused == "409 withdrawal_not_covered"
        else:
            self.cast.fay.post(f"{path}/approve")
            asked.state = "approved"

    @precondition(lambda self: self.withdrawals_in("approved", "unknown"))
    @rule(fault=st.sampled_from([None, None, None, *FAULTS]))
    def own_money_is_sent(self, fault: str | None) -> None:
        self.world.advance(WAITS_SECONDS)
        waiting = len(self.withdrawals_in("approved", "unknown"))
        assert self.send_own_money(fault) == waiting

    def send_own_money(self, fault: str | None = None) -> int:
        """Those that are due, and a look at those that are out; answers how many were sent."""
        due, now = self.swept_in_order("withdrawals", "withdrawal", fault, "/v1/payouts$")
        known = {each.id: each for each in self.withdrawals}
        sent = sum(known[each].state != "out" for each in due)
        for withdrawal_id in due:
            fault = self.withdrawal_looked_at(known[withdrawal_id], fault, now)
        return sent

    def look_once_more(self) -> None:
        super().look_once_more()
        self.send_own_money()

    def withdrawal_looked_at(
        self, withdrawal: Withdrawal, fault: str | None, now: datetime
    ) -> str | None:
        if withdrawal.state == "out":
            self.withdrawal_seen(withdrawal)
            return fault
        if withdrawal.state == "approved":
            if not self.is_covered(withdrawal, now):
                return fault
            withdrawal.key = Key(now, KEY_SERVES)
            withdrawal.state = "unknown"
            self.books.book(withdrawal.amount_minor, CAPITAL, TO_THE_BANK)
        key = withdrawal.key
        assert key
        learned = key.ask(fault, now, lambda: self.paid_out(withdrawal, fault, now))
        if learned in {MADE, FOUND}:
            self.withdrawal_seen(withdrawal, as_it_is=learned == FOUND)
        elif learned is not None:
            self.not_withdrawn(withdrawal)
        return None if key.takes_fault(now) else fault

    def is_covered(self, withdrawal: Withdrawal, now: datetime) -> bool:
        """By Stripe's own balance and by the books, whichever is less."""
        booked = self.books.held(PENDING) + self.books.held(AVAILABLE)
        free = self.own_money()
        least = min(free, free + self.stripe.total() - booked, self.stripe.available(now))
        return least >= withdrawal.amount_minor

    def paid_out(self, withdrawal: Withdrawal, fault: str | None, now: datetime) -> str:
        short = self.stripe.available(now) < withdrawal.amount_minor
        if fault == "balance_insufficient" or short:
            return REFUSED
        self.stripe.add(PLATFORM, -withdrawal.amount_minor, now)
        return MADE

    def withdrawal_seen(self, withdrawal: Withdrawal, *, as_it_is: bool = True) -> None:
        """We learn what Stripe has of it: by its answer, by an event, by a look."""
        if withdrawal.state == "unknown":
            withdrawal.state = "out"
            self.books.book(withdrawal.amount_minor, TO_THE_BANK, AVAILABLE)
        if withdrawal.state == "out" and withdrawal.has_failed and as_it_is:
            withdrawal.state = "returned"
            self.books.book(withdrawal.amount_minor, AVAILABLE, CAPITAL)

    def not_withdrawn(self, withdrawal: Withdrawal) -> None:
        withdrawal.state = "refused"
        self.books.book(withdrawal.amount_minor, TO_THE_BANK, CAPITAL)

    def at_the_bank(self) -> list[Withdrawal]:
        return [
            each
            for each in self.withdrawals
            if each.key and each.key.is_made and not each.has_failed
        ]

    @precondition(lambda self: self.at_the_bank())
    @rule(withdrawal=ANY, told=st.booleans())
    def the_bank_sends_own_money_back(self, withdrawal: int, told: bool) -> None:
        now = self.steady()
        failed = picked(self.at_the_bank(), withdrawal)
        stripes = self.bank_payout_of(failed)
        self.world.stripe.control("PUT", f"payouts/{stripes}", status="failed")
        failed.has_failed = True
        self.stripe.add(PLATFORM, failed.amount_minor, now)
        if told:
            self.swept(("poll_events", "inbox"))

    def bank_payout_of(self, withdrawal: Withdrawal) -> str:
        listed = self.world.http.get(
            f"{self.world.stripe.url}/v1/payouts?limit=100",
            headers={"Authorization": "Bearer sk_test_sandbox"},
        ).json()["data"]
        ours = {"withdrawal_id": withdrawal.id}
        (found,) = (each["id"] for each in listed if each["metadata"] == ours)
        identity: str = found
        return identity

    @precondition(lambda self: self.withdrawals_in("unknown"))
    @rule(withdrawal=ANY)
    def a_withdrawal_is_called_absent(self, withdrawal: int) -> None:
        self.steady()
        absent = picked(self.withdrawals_in("unknown"), withdrawal)
        path = f"/v1/withdrawals/{absent.id}/absent"
        assert absent.key
        if not absent.key.looked_up_in_vain:
            refused = self.cast.fay.refused("POST", path, WHY)
            assert refused == "409 not_proven_absent"
            return
        self.cast.fay.post(path, WHY)
        self.not_withdrawn(absent)

    def sweep_inbox(self, now: datetime) -> None:
        super().sweep_inbox(now)
        for withdrawal in self.withdrawals:
            if withdrawal.key and withdrawal.key.is_made:
                self.withdrawal_seen(withdrawal)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for withdrawal in self.withdrawals_in("unknown"):
            if withdrawal.key:
                yield withdrawal.key.serves_until

    def rest(self) -> None:
        super().rest()
        for _ in range(2):
            if self.withdrawals_in("approved", "unknown"):
                self.own_money_is_sent(None)
        while self.withdrawals_in("unknown"):
            self.a_withdrawal_is_called_absent(0)
        assert self.books.owed(TO_THE_BANK) == 0
