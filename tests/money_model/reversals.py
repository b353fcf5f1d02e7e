"""Transfers that come back: to be paid again, or because they should never have been made."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model import asking
from tests.money_model.asking import FOUND, MADE, REFUSED, WAITS_SECONDS, Key
from tests.money_model.books import AVAILABLE, PLATFORM, payable, receivable
from tests.money_model.claims import Earning
from tests.money_model.payouts import KEY_SERVES, WHY, Payout, Payouts
from tests.money_model.stage import ANY, picked
from tests.world import Json

CAUSES = ("wrong_destination", "fraud", "duplicate")


@dataclass
class Reversal:
    id: str
    payout: Payout
    amount_minor: int
    cause: str
    # asked, rejected, approved, unknown, reversed, refused
    state: str = "asked"
    key: Key | None = None


class Reversals(Payouts):
    def __init__(self) -> None:
        super().__init__()
        self.reversals: list[Reversal] = []

    def reversals_in(self, *states: str) -> list[Reversal]:
        return [reversal for reversal in self.reversals if reversal.state in states]

    def came_back(self, payout: Payout) -> int:
        return sum(
            each.amount_minor for each in self.reversals_in("reversed") if each.payout is payout
        )

    def reversible(self) -> list[Payout]:
        """Paid, and no other reversal of it is at work."""
        busy = {each.payout.id for each in self.reversals_in("asked", "approved", "unknown")}
        paid = self.payouts_in("paid", "partly_reversed")
        return [payout for payout in paid if payout.id not in busy]

    @precondition(lambda self: self.reversible())
    @rule(
        payout=ANY, per_mille=st.sampled_from([1, 500, 1_000, 1_001]), cause=st.sampled_from(CAUSES)
    )
    def one_asks_for_a_transfer_back(self, payout: int, per_mille: int, cause: str) -> None:
        self.steady()
        paid = picked(self.reversible(), payout)
        left = paid.amount_minor - self.came_back(paid)
        wanted = left + 1 if per_mille > 1_000 else left * per_mille // 1_000 or 1
        path = f"/v1/payouts/{paid.id}/reversals"
        body = {"amount_minor": wanted, "cause": cause, **WHY}
        if wanted > left:
            assert self.cast.finn.refused("POST", path, body) == "409 more_than_was_paid"
            return
        made: Json = self.cast.finn.post(path, body)
        self.reversals.append(Reversal(made["id"], paid, wanted, cause))

    @precondition(lambda self: self.reversals_in("asked"))
    @rule(reversal=ANY, approved=st.sampled_from([True, True, False]))
    def another_decides_about_the_transfer(self, reversal: int, approved: bool) -> None:
        self.steady()
        asked = picked(self.reversals_in("asked"), reversal)
        path = f"/v1/reversals/{asked.id}"
        own = self.cast.finn.refused("POST", f"{path}/approve")
        assert own == "403 asker_may_not_approve"
        if approved:
            self.cast.fay.post(f"{path}/approve")
        else:
            self.cast.fay.post(f"{path}/reject", WHY)
        asked.state = "approved" if approved else "rejected"
        if approved and asked.cause == "wrong_destination":
            self.wrong.add(asked.payout.destination)

    @precondition(lambda self: self.reversals_in("approved", "unknown"))
    @rule(fault=st.sampled_from([None, None, None, *asking.FAULTS]))
    def transfers_are_taken_back(self, fault: str | None) -> None:
        self.world.advance(WAITS_SECONDS)
        waiting = len(self.reversals_in("approved", "unknown"))
        assert self.take_back(fault) == waiting
        self.states_agree()

    def take_back(self, fault: str | None = None) -> int:
        """Those that are due; answers how many."""
        path = "/v1/transfers/.*/reversals"
        due, now = self.swept_in_order("reversals", "transfer_reversal", fault, path)
        waiting = {each.id: each for each in self.reversals_in("approved", "unknown")}
        for reversal_id in due:
            fault = self.reversal_looked_at(waiting[reversal_id], fault, now)
        return len(due)

    def look_once_more(self) -> None:
        super().look_once_more()
        self.take_back()

    def reversal_looked_at(
        self, reversal: Reversal, fault: str | None, now: datetime
    ) -> str | None:
        key = reversal.key = reversal.key or Key(now, KEY_SERVES)
        reversal.state = "unknown"
        learned = key.ask(fault, now, lambda: self.reversed_at_stripe(reversal, now))
        if learned in {MADE, FOUND}:
            self.reversal_seen(reversal)
        elif learned is not None:
            reversal.state = "refused"
        return None if key.takes_fault(now) else fault

    def reversed_at_stripe(self, reversal: Reversal, now: datetime) -> str:
        """Only as far as the performer's own balance there covers it."""
        account = reversal.payout.destination
        if self.stripe.available(now, account) < reversal.amount_minor:
            return REFUSED
        self.stripe.add(account, -reversal.amount_minor, now)
        self.stripe.add(PLATFORM, reversal.amount_minor, now)
        return MADE

    def reversal_seen(self, reversal: Reversal) -> None:
        """Owed again, or a debt of the performer's that is paid."""
        reversal.state = "reversed"
        performer, minor = reversal.payout.performer, reversal.amount_minor
        if reversal.cause == "wrong_destination":
            self.books.book(minor, AVAILABLE, payable(performer.id))
            self.earnings.append(Earning(performer, minor))
        else:
            self.books.book(minor, AVAILABLE, receivable(performer.id))
        whole = self.came_back(reversal.payout) == reversal.payout.amount_minor
        reversal.payout.state = "reversed" if whole else "partly_reversed"

    @precondition(lambda self: self.reversals_in("unknown"))
    @rule(reversal=ANY)
    def a_reversal_is_called_absent(self, reversal: int) -> None:
        self.steady()
        absent = picked(self.reversals_in("unknown"), reversal)
        path = f"/v1/reversals/{absent.id}/absent"
        assert absent.key
        if not absent.key.looked_up_in_vain:
            assert self.cast.fay.refused("POST", path, WHY) == "409 not_proven_absent"
            return
        self.cast.fay.post(path, WHY)
        absent.state = "refused"

    def sweep_inbox(self, now: datetime) -> None:
        super().sweep_inbox(now)
        for reversal in self.reversals_in("unknown"):
            if reversal.key and reversal.key.is_made:
                self.reversal_seen(reversal)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for reversal in self.reversals_in("unknown"):
            if reversal.key:
                yield reversal.key.serves_until

    def rest(self) -> None:
        super().rest()
        for _ in range(2):
            if self.reversals_in("approved", "unknown"):
                self.transfers_are_taken_back(None)
        while self.reversals_in("unknown"):
            self.a_reversal_is_called_absent(0)
