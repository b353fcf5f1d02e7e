"""Clients' money going back to who paid it, part by part; some of it comes back once more."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model import asking
from tests.money_model.asking import FOUND, MADE, REFUSED, WAITS_SECONDS, Key
from tests.money_model.books import AVAILABLE, PLATFORM, REFUNDS, wallet
from tests.money_model.deposits import Deposit, Deposits
from tests.money_model.stage import ANY, picked
from tests.world import Client, Json

KEY_SERVES = timedelta(hours=23) - timedelta(seconds=60)
# Without funds Stripe waits for them, and looks every hour.
TRIES_AGAIN = timedelta(hours=1)
WHY = {"reason": "Somebody looked at it."}
FAULTS = (*asking.FAULTS, "balance_insufficient")


@dataclass
class Refund:
    id: str
    deposit: Deposit
    amount_minor: int
    key: Key
    # sending, unknown, pending, succeeded, refused, returned: as far as we know.
    state: str = "sending"
    # At Stripe: when it looks for funds next; whether it took and gave back the money.
    tries_at: datetime | None = None
    is_taken: bool = False
    taken_at_once: bool = False
    has_failed: bool = False
    is_confirmed: bool = False


class Refunds(Deposits):
    def __init__(self) -> None:
        super().__init__()
        self.refunds: list[Refund] = []

    def refunds_in(self, *states: str) -> list[Refund]:
        return [refund for refund in self.refunds if refund.state in states]

    def left_of(self, deposit: Deposit) -> int:
        gone = self.refunds_in("sending", "unknown", "pending", "succeeded")
        back = sum(refund.amount_minor for refund in gone if refund.deposit is deposit)
        return deposit.amount_minor - back - self.lost_of(deposit)

    # What disputes change; without any, nothing.

    def is_paused(self, client_id: str) -> bool:
        return False

    def owed_by(self, client_id: str) -> int:
        return 0

    def lost_of(self, deposit: Deposit) -> int:
        return 0

    def is_disputed(self, deposit: Deposit) -> bool:
        """At Stripe, which then refuses to refund it."""
        return False

    @precondition(lambda self: any(deposit.is_credited for deposit in self.deposits))
    @rule(client=ANY, per_mille=st.sampled_from([1, 250, 999, 1_000, 1_001]), own=st.booleans())
    def money_is_asked_back(self, client: int, per_mille: int, own: bool) -> None:
        """Out of the wallet at once; to the newest deposits first, to each what is left of it."""
        now = self.steady()
        owner = picked(self.cast.clients, client)
        held = self.books.owed(wallet(owner.id))
        wanted = held * per_mille // 1_000 or 1
        asker = owner if own else self.cast.finn
        body = {"amount_minor": wanted, "currency": "USD"}
        if not own:
            body["client_id"] = owner.id
        if self.is_paused(owner.id):
            assert asker.refused("POST", "/v1/refunds", body) == "409 refunds_paused"
            return
        if self.owed_by(owner.id):
            assert asker.refused("POST", "/v1/refunds", body) == "409 debt_first"
            return
        credited = [each for each in self.deposits if self.is_refundable(each, owner)]
        if sum(self.left_of(deposit) for deposit in credited) < wanted:
            assert asker.refused("POST", "/v1/refunds", body) == "409 deposits_do_not_cover"
            return
        if wanted > held:
            assert asker.refused("POST", "/v1/refunds", body) == "409 wallet_too_low"
            return
        made: Json = asker.post("/v1/refunds", body)
        for part in made["refunds"]:
            deposit = max(
                (each for each in credited if self.left_of(each)), key=lambda each: each.id
            )
            minor = min(wanted, self.left_of(deposit))
            assert (part["deposit_id"], part["amount_minor"]) == (deposit.id, minor)
            self.refunds.append(Refund(part["id"], deposit, minor, Key(now, KEY_SERVES)))
            self.books.book(minor, wallet(owner.id), REFUNDS)
            wanted -= minor
        assert wanted == 0

    def is_refundable(self, deposit: Deposit, owner: Client) -> bool:
        return deposit.client_id == owner.id and deposit.is_credited

    @precondition(lambda self: self.refunds_in("sending", "unknown", "pending"))
    @rule(fault=st.sampled_from([None, None, None, *FAULTS]))
    def refunds_are_sent(self, fault: str | None) -> None:
        self.world.advance(WAITS_SECONDS)
        waiting = len(self.refunds_in("sending", "unknown", "pending"))
        assert self.send_refunds(fault) == waiting
        self.refunds_agree()

    def send_refunds(self, fault: str | None = None) -> int:
        """Those that are due; answers how many. A success is looked at daily as well."""
        due, now = self.swept_in_order("refunds", "refund", fault, "/v1/refunds")
        waiting = {each.id: each for each in self.refunds_in("sending", "unknown", "pending")}
        looked_at = waiting | {each.id: each for each in self.refunds_in("succeeded")}
        for refund_id in due:
            fault = self.refund_looked_at(looked_at[refund_id], fault, now)
        return len(waiting.keys() & set(due))

    def look_once_more(self) -> None:
        super().look_once_more()
        self.send_refunds()

    def refund_looked_at(self, refund: Refund, fault: str | None, now: datetime) -> str | None:
        if refund.state in {"pending", "succeeded"}:
            self.refund_seen(refund)
            return fault
        learned = refund.key.ask(fault, now, lambda: self.refund_made(refund, fault, now))
        if learned in {MADE, FOUND}:
            self.refund_seen(refund, as_it_is=learned == FOUND)
        elif learned is not None:
            self.back_in_the_wallet(refund, "refused")
        else:
            refund.state = "unknown"
        return None if refund.key.takes_fault(now) else fault

    def refund_made(self, refund: Refund, fault: str | None, now: datetime) -> str:
        if fault == "balance_insufficient" or self.is_disputed(refund.deposit):
            return REFUSED
        self.take_from_stripe(refund, now)
        refund.taken_at_once = refund.is_taken
        return MADE

    def take_from_stripe(self, refund: Refund, now: datetime) -> None:
        if self.stripe.available(now) < refund.amount_minor:
            refund.tries_at = now + TRIES_AGAIN
            return
        refund.tries_at, refund.is_taken = None, True
        self.stripe.add(PLATFORM, -refund.amount_minor, now)

    def refund_seen(self, refund: Refund, *, as_it_is: bool = True) -> None:
        """We learn what Stripe has of it: by its answer, by an event, by a look."""
        if refund.state in {"sending", "unknown"}:
            refund.state = "pending"
        if refund.state in {"refused", "returned"}:
            return
        if (refund.is_taken if as_it_is else refund.taken_at_once) and not refund.is_confirmed:
            refund.is_confirmed = True
            self.books.book(refund.amount_minor, REFUNDS, AVAILABLE)
        if refund.has_failed and as_it_is:
            self.back_in_the_wallet(refund, "returned" if refund.is_taken else "refused")
        elif refund.is_confirmed:
            refund.state = "succeeded"

    def back_in_the_wallet(self, refund: Refund, state: str) -> None:
        refund.state = state
        source = AVAILABLE if state == "returned" else REFUNDS
        self.books.book(refund.amount_minor, source, wallet(refund.deposit.client_id))

    def standing(self) -> list[Refund]:
        return [each for each in self.refunds if each.key.is_made and not each.has_failed]

    @precondition(lambda self: self.standing())
    @rule(refund=ANY, told=st.booleans())
    def a_bank_sends_one_back(self, refund: int, told: bool) -> None:
        now = self.steady()
        failed = picked(self.standing(), refund)
        stripes = self.refund_at_stripe(failed)
        self.world.stripe.control("PUT", f"refunds/{stripes}", status="failed")
        failed.has_failed, failed.tries_at = True, None
        if failed.is_taken:
            self.stripe.add(PLATFORM, failed.amount_minor, now)
        if told:
            self.swept(("poll_events", "inbox"))

    def refund_at_stripe(self, refund: Refund) -> str:
        listed = self.world.http.get(
            f"{self.world.stripe.url}/v1/refunds?limit=100",
            headers={"Authorization": "Bearer sk_test_sandbox"},
        ).json()["data"]
        (found,) = (each["id"] for each in listed if each["metadata"]["refund_id"] == refund.id)
        identity: str = found
        return identity

    @precondition(lambda self: self.refunds_in("unknown"))
    @rule(refund=ANY)
    def a_refund_is_called_absent(self, refund: int) -> None:
        self.steady()
        absent = picked(self.refunds_in("unknown"), refund)
        path = f"/v1/refunds/{absent.id}/absent"
        if not absent.key.looked_up_in_vain:
            assert self.cast.fay.refused("POST", path, WHY) == "409 not_proven_absent"
            return
        self.cast.fay.post(path, WHY)
        self.back_in_the_wallet(absent, "refused")

    def sweep_inbox(self, now: datetime) -> None:
        super().sweep_inbox(now)
        for refund in self.refunds:
            if refund.key.is_made:
                self.refund_seen(refund)

    def happened_at_stripe(self, now: datetime) -> None:
        super().happened_at_stripe(now)
        while waiting := [each for each in self.refunds if each.tries_at and each.tries_at <= now]:
            first = min(waiting, key=lambda each: each.tries_at or now)
            assert first.tries_at
            self.take_from_stripe(first, first.tries_at)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for refund in self.refunds:
            if refund.tries_at:
                yield refund.tries_at
            if refund.state in {"sending", "unknown"}:
                yield refund.key.serves_until

    def refunds_agree(self) -> None:
        told = self.cast.finn.get("/v1/refunds", limit=100)["items"]
        assert {each["id"]: each["state"] for each in told} == {
            refund.id: refund.state for refund in self.refunds
        }

    def rest(self) -> None:
        super().rest()
        for _ in range(2):
            if self.refunds_in("sending", "unknown", "pending"):
                self.refunds_are_sent(None)
        while self.refunds_in("unknown"):
            self.a_refund_is_called_absent(0)
        waits = sum(each.amount_minor for each in self.refunds_in("pending"))
        assert self.books.owed(REFUNDS) == waits
